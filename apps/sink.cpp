// SPDX-License-Identifier: Apache-2.0
// `pollux sink`: receives at a port and checks what `pollux gen` made.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "apps/command.hpp"
#include "apps/traffic/checker.hpp"
#include "apps/traffic/flow.hpp"
#include "apps/traffic/report.hpp"
#include "apps/traffic/runtime.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "sink";
constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kSecond = 1'000'000'000;

struct Options {
  std::string port;
  std::optional<uint64_t> count;
  double time = 0;
  std::string announce;
  uint64_t seed = 1;
  double patience = 10;
  bool no_loss = false;
  bool quiet = false;
  bool json = false;
};

class Receiver {
 public:
  Receiver(Runtime& runtime, const Options& options, DrivenPort& port,
           std::optional<std::array<uint8_t, 6>> announced)
      : runtime_(runtime),
        options_(options),
        port_(port),
        announced_(announced),
        checker_(options.seed) {}

  void run();
  [[nodiscard]] TrafficReport report() const;

 private:
  size_t turn(uint64_t now);
  [[nodiscard]] bool over(uint64_t now) const;
  void look_after(uint64_t now);

  Runtime& runtime_;
  const Options& options_;
  DrivenPort& port_;
  std::optional<std::array<uint8_t, 6>> announced_;
  Checker checker_;
  uint64_t start_ = 0;
  uint64_t first_frame_ = 0;
  uint64_t last_frame_ = 0;
  uint64_t last_served_ = 0;
  uint64_t last_announced_ = 0;
  std::optional<LiveLine> live_;
};

size_t Receiver::turn(uint64_t now) {
  const TurnQuiescence::Turn busy(runtime_.quiescence());
  return receive_turn(runtime_.cache(), port_,
                      [&](const Packet& packet) { checker_.take(packet, now); });
}

bool Receiver::over(uint64_t now) const {
  if (runtime_.interrupted() || port_.port->finished()) return true;
  if (options_.count && checker_.results().frames >= *options_.count) return true;
  return options_.time > 0 && now - start_ > static_cast<uint64_t>(options_.time * 1e9);
}

void Receiver::look_after(uint64_t now) {
  if (now - last_served_ > kMillisecond) {
    runtime_.serve();
    last_served_ = now;
  }
  if (announced_ && !port_.tx.empty() && now - last_announced_ > kSecond) {
    announce(runtime_.cache(), port_.tx[0], *announced_);
    last_announced_ = now;
  }
  if (!live_ || !live_->due(now)) return;
  const CheckResults& r = checker_.results();
  live_->print(now,
               {.received = r.frames,
                .received_bytes = r.bytes,
                .lost = checker_.missing(),
                .bad = r.corrupt + r.duplicates},
               false, true);
}

void Receiver::run() {
  start_ = runtime_.now();
  if (!options_.quiet) live_.emplace(start_);
  unsigned idle = 0;
  for (unsigned turns = 0;; ++turns) {
    const uint64_t now = runtime_.now();
    // Before the last poll, so that what a port delivered before it finished is taken.
    const bool last = (turns % 64 == 0 || idle > 64) && over(now);
    const size_t received = turn(now);
    if (received != 0) {
      if (first_frame_ == 0) first_frame_ = now;
      last_frame_ = now;
    }
    idle = received != 0 ? 0 : idle + 1;
    if (turns % 64 == 0 || idle > 64) look_after(now);
    if (last && received == 0) break;
    if (last && !port_.port->finished()) break;
    if (idle > 256) std::this_thread::yield();
  }
}

TrafficReport Receiver::report() const {
  const CheckResults& r = checker_.results();
  TrafficReport report;
  report.seconds = static_cast<double>(last_frame_ - first_frame_) / 1e9;
  report.received = r.frames;
  report.received_bytes = r.bytes;
  report.lost = checker_.missing();
  report.reordered = r.reordered;
  report.duplicates = r.duplicates;
  report.corrupt = r.corrupt;
  report.foreign = r.foreign;
  report.latency = checker_.latency();
  return report;
}

Result<TrafficReport> receive(const Options& o) {
  std::optional<std::array<uint8_t, 6>> announced;
  if (!o.announce.empty()) {
    const auto mac = net::MacAddress::from_text(o.announce);
    if (!mac) {
      return fail(
          ErrorCode::kInvalidArgument,
          fmt::format("--announce {}: wants a MAC address such as 02:00:00:00:00:01", o.announce));
    }
    announced = mac->bytes();
  }
  auto runtime = Runtime::create(stderr_log(), HugePages::kTry);
  if (!runtime) return forward(runtime);
  auto port = (*runtime)->open("sink", o.port);
  if (!port) return forward(port);
  if ((*port)->rx.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("--port {}: nothing comes from there", o.port));
  }
  const auto patience = Nanos(static_cast<int64_t>(o.patience * 1e9));
  if (Status linked = (*runtime)->wait_for_links(patience); !linked) return forward(linked);
  Receiver receiver(**runtime, o, **port, announced);
  receiver.run();
  (*runtime)->stop();
  TrafficReport report = receiver.report();
  report.ports = (*runtime)->port_stats();
  return report;
}

int run_sink(const Options& o) {
  auto report = receive(o);
  if (!report) return complain(kName, report.error());
  fmt::print("{}", o.json ? to_json(*report) + "\n" : to_text(*report));
  std::fflush(stdout);
  return report->good() && !(o.no_loss && report->lost != 0) ? 0 : kFailed;
}

}  // namespace

void setup_sink(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description(
      "Receives what `pollux gen` sends, through whatever lies between, and checks every byte of\n"
      "it: loss, order, duplicates, corruption, latency. Ends by --count, --time or SIGINT with\n"
      "status 0 if nothing was corrupt or came twice.");
  app.add_option("--port", o->port, "port to receive at")->type_name("SPEC")->required();
  app.add_option("--count", o->count, "frames to receive, then end")->type_name("N");
  app.add_option("--time", o->time, "seconds, then end")
      ->check(CLI::Range(0.0, 1e7))
      ->type_name("SECONDS");
  app.add_option("--announce", o->announce, "send a frame from this MAC now and then, for switches")
      ->type_name("MAC");
  app.add_option("--seed", o->seed, "as the generator's (1)")->type_name("N");
  app.add_option("--wait", o->patience, "seconds to wait for the port's peer (10)")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  app.add_flag("--no-loss", o->no_loss, "status 1 also if frames are missing");
  app.add_flag("--quiet", o->quiet, "no line a second on standard error");
  app.add_flag("--json", o->json, "the report as one JSON object");
  app.footer(port_spec_help());
  app.callback([o, &status] { status = run_sink(*o); });
}

}  // namespace pollux::apps
