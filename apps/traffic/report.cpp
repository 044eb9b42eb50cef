// SPDX-License-Identifier: Apache-2.0
#include "apps/traffic/report.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "pollux/control/report.hpp"
#include "pollux/control/table.hpp"
#include "pollux/control/units.hpp"

namespace pollux::apps {
namespace {

using control::Table;

double per_second(uint64_t n, double seconds) {
  return seconds <= 0 ? 0 : static_cast<double>(n) / seconds;
}

std::string time_of(uint64_t ns) { return control::duration(Nanos(static_cast<int64_t>(ns))); }

std::string rates(const TrafficReport& r) {
  Table table({{""}, {"packets", Table::kRight}, {"rate", Table::kRight}, {"bits", Table::kRight}});
  const auto row = [&](const char* name, uint64_t packets, uint64_t bytes) {
    table.row({name, control::count(packets), control::packet_rate(per_second(packets, r.seconds)),
               control::bit_rate(8 * per_second(bytes, r.seconds))});
  };
  if (r.sent) row("sent", *r.sent, r.sent_bytes);
  if (r.received) row("received", *r.received, r.received_bytes);
  return table.text();
}

std::string verdict(const TrafficReport& r) {
  std::string text = fmt::format("lost {} · reordered {} · duplicates {} · corrupt {}",
                                 control::count(r.lost), control::count(r.reordered),
                                 control::count(r.duplicates), control::count(r.corrupt));
  if (r.foreign != 0) text += fmt::format(" · frames of others {}", control::count(r.foreign));
  text += '\n';
  if (r.latency.total() != 0) {
    text += fmt::format("latency p50 {} · p99 {} · p99.9 {} · max {}\n",
                        time_of(r.latency.percentile(0.5)), time_of(r.latency.percentile(0.99)),
                        time_of(r.latency.percentile(0.999)), time_of(r.latency.max()));
  }
  if (r.good() && r.received.value_or(0) != 0) {
    text += r.capture_frames ? "every byte of every frame is as in the capture file\n"
                             : "every byte of every frame is as it was made\n";
  } else if (!r.good()) {
    text += "NOT GOOD: see above\n";
  }
  return text;
}

}  // namespace

std::string to_text(const TrafficReport& r) {
  std::string text = rates(r);
  if (r.received) text += verdict(r);
  text += "\n" + control::port_details(r.ports);
  const std::string drops = control::drops_table(r.ports);
  if (!drops.empty()) text += "\n" + drops;
  return text;
}

std::string to_json(const TrafficReport& r) {
  nlohmann::json out;
  out["seconds"] = r.seconds;
  if (r.sent) {
    out["sent"] = {{"packets", *r.sent},
                   {"bytes", r.sent_bytes},
                   {"packets_per_second", per_second(*r.sent, r.seconds)},
                   {"bits_per_second", 8 * per_second(r.sent_bytes, r.seconds)}};
  }
  if (r.received) {
    out["received"] = {{"packets", *r.received},
                       {"bytes", r.received_bytes},
                       {"packets_per_second", per_second(*r.received, r.seconds)},
                       {"bits_per_second", 8 * per_second(r.received_bytes, r.seconds)}};
    out["lost"] = r.lost;
    out["reordered"] = r.reordered;
    out["duplicates"] = r.duplicates;
    out["corrupt"] = r.corrupt;
    out["foreign"] = r.foreign;
    out["good"] = r.good();
  }
  if (r.capture_frames) out["capture_frames"] = *r.capture_frames;
  if (r.window != 0) out["window"] = r.window;
  if (r.latency.total() != 0) {
    out["latency_ns"] = {{"min", r.latency.min()},
                         {"mean", r.latency.mean()},
                         {"p50", r.latency.percentile(0.5)},
                         {"p99", r.latency.percentile(0.99)},
                         {"p99.9", r.latency.percentile(0.999)},
                         {"max", r.latency.max()}};
  }
  out["ports"] = nlohmann::json::parse(control::ports_to_json(r.ports))["ports"];
  return out.dump();
}

}  // namespace pollux::apps
