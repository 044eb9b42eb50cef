// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "pollux/control/config.hpp"
#include "pollux/control/report.hpp"
#include "pollux/control/table.hpp"
#include "pollux/control/units.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::control {
namespace {

constexpr std::array<std::string_view, 2> kDirections{"rx", "tx"};

std::string spec_of(const PortInfo& info) { return fmt::format("{}:{}", info.kind, info.target); }

std::string or_dash(const std::string& text) { return text.empty() ? "-" : text; }

/// What is worth a word beside a port's counters.
std::string condition(const PortInfo& info) {
  if (!info.broken.empty()) return "broken: " + info.broken;
  if (!info.peer.empty()) return info.peer;
  return info.state;
}

void detail(std::string& out, std::string_view what, const std::string& text) {
  if (!text.empty()) out += fmt::format("  {:<10} {}\n", what, text);
}

std::string ring_text(const PortInfo::Ring& ring) {
  return fmt::format("{} {}{}{}", ring.name, ring.size, ring.format.empty() ? "" : " ",
                     ring.format) +
         (ring.enabled ? "" : " (disabled)");
}

void port_block(std::string& out, const PortStats& port) {
  const PortInfo& info = port.info;
  out += fmt::format("{}  {}  link {}\n", port.name, spec_of(info), info.link_up ? "up" : "down");
  detail(out, "state", info.state);
  detail(out, "broken", info.broken);
  detail(out, "peer", info.peer);
  if (info.mac) detail(out, "mac", info.mac->to_text());
  if (info.mtu != 0) detail(out, "mtu", fmt::format("{} bytes", info.mtu));
  detail(out, "queues", fmt::format("{} rx, {} tx", info.rx_queues, info.tx_queues));
  if (info.features != 0) {
    detail(out, "features",
           fmt::format("{:#x}: {}", info.features, fmt::join(info.feature_names, " ")));
  }
  detail(out, "protocol", fmt::format("{}", fmt::join(info.protocol_feature_names, " ")));
  std::vector<std::string> rings;
  for (const PortInfo::Ring& ring : info.rings) rings.push_back(ring_text(ring));
  detail(out, "rings", fmt::format("{}", fmt::join(rings, ", ")));
  detail(out, "control", info.control);
  detail(out, "memory", info.memory);
  detail(out, "iommu", info.iommu);
}

const PortStats* find_port(const SwitchSnapshot& snapshot, const PortStats& like) {
  for (const PortStats& port : snapshot.ports) {
    if (port.index == like.index && port.name == like.name) return &port;
  }
  return nullptr;
}

/// Bits on a wire of this many frames of so many bytes: with preamble, FCS and gap.
double wire_bits(double packets, double bytes) { return 8 * (bytes + 24 * packets); }

struct Rates {
  double packets = 0;
  double bits = 0;
  double drops = 0;
};

Rates rates_between(const FlowTotals& before, const FlowTotals& now, double seconds) {
  // A port that was replaced meanwhile counts from 0 again.
  const auto grown = [](uint64_t a, uint64_t b) {
    return b < a ? 0.0 : static_cast<double>(b - a);
  };
  const double packets = grown(before.packets, now.packets) / seconds;
  const double bytes = grown(before.bytes, now.bytes) / seconds;
  return {packets, wire_bits(packets, bytes), grown(before.dropped(), now.dropped()) / seconds};
}

}  // namespace

std::string ports_table(std::span<const PortStats> ports) {
  Table table({{"port"},
               {"spec"},
               {"link"},
               {"rx packets", Table::kRight},
               {"rx bytes", Table::kRight},
               {"rx drops", Table::kRight},
               {"tx packets", Table::kRight},
               {"tx bytes", Table::kRight},
               {"tx drops", Table::kRight},
               {"peer"}});
  for (const PortStats& port : ports) {
    const FlowTotals rx = totals(port, "rx");
    const FlowTotals tx = totals(port, "tx");
    table.row({port.name, spec_of(port.info), port.info.link_up ? "up" : "down", count(rx.packets),
               count(rx.bytes), count(rx.dropped()), count(tx.packets), count(tx.bytes),
               count(tx.dropped()), or_dash(condition(port.info))});
  }
  return table.empty() ? "no ports\n" : table.text();
}

std::string port_details(std::span<const PortStats> ports) {
  std::string out;
  for (const PortStats& port : ports) port_block(out, port);
  return out.empty() ? "no ports\n" : out;
}

std::string queues_table(std::span<const PortStats> ports) {
  Table table({{"port"},
               {"queue"},
               {"worker"},
               {"watched"},
               {"packets", Table::kRight},
               {"bytes", Table::kRight},
               {"drops", Table::kRight}});
  for (const PortStats& port : ports) {
    for (const QueueStats& queue : port.queues) {
      FlowTotals flow{queue.packets, queue.bytes, queue.drops};
      table.row({port.name, queue.name, queue.worker < 0 ? "any" : fmt::format("{}", queue.worker),
                 std::string(queue.worker < 0 ? "" : control::queue_mode_name(queue.mode)),
                 count(flow.packets), count(flow.bytes), count(flow.dropped())});
    }
  }
  return table.empty() ? "no queues\n" : table.text();
}

std::string drops_table(std::span<const PortStats> ports) {
  Table table({{"port"}, {"way"}, {"dropped", Table::kRight}, {"reason"}, {"which means"}});
  for (const PortStats& port : ports) {
    for (const std::string_view direction : kDirections) {
      const FlowTotals flow = totals(port, direction);
      for (size_t r = 0; r < kDropReasonCount; ++r) {
        if (flow.drops[r] == 0) continue;
        table.row({port.name, std::string(direction), count(flow.drops[r]),
                   std::string(kDropReasons[r].name), std::string(kDropReasons[r].help)});
      }
    }
  }
  return table.empty() ? "no packet was dropped\n" : table.text();
}

std::string workers_table(std::span<const WorkerStats> workers) {
  Table table({{"worker", Table::kRight},
               {"CPU"},
               {"queues", Table::kRight},
               {"packets", Table::kRight},
               {"packets/turn", Table::kRight},
               {"cycles/packet", Table::kRight},
               {"busy", Table::kRight},
               {"sleeps", Table::kRight}});
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerStats& worker = workers[i];
    const auto ratio = [](uint64_t a, uint64_t b) {
      return b == 0 ? std::string("-")
                    : fmt::format("{:.1f}", static_cast<double>(a) / static_cast<double>(b));
    };
    const auto busy = static_cast<double>(worker.busy_cycles);
    table.row({fmt::format("{}", i), worker.cpu < 0 ? "any" : fmt::format("{}", worker.cpu),
               fmt::format("{}", worker.rx_queues), count(worker.packets),
               ratio(worker.packets, worker.turns), ratio(worker.busy_cycles, worker.packets),
               percent(busy, busy + static_cast<double>(worker.idle_cycles)),
               count(worker.sleeps)});
  }
  return table.empty() ? "no workers\n" : table.text();
}

std::string fdb_table(std::span<const FdbRow> rows) {
  Table table({{"address"}, {"vlan", Table::kRight}, {"port"}, {"last heard", Table::kRight}});
  for (const FdbRow& row : rows) {
    table.row({row.mac, row.vlan == 0 ? "-" : fmt::format("{}", row.vlan), row.port,
               fmt::format("{} s ago", row.age_s)});
  }
  return table.empty() ? "no address was learned\n" : table.text();
}

std::string rates_table(const SwitchSnapshot& before, const SwitchSnapshot& now) {
  Table table({{"port"},
               {"link"},
               {"rx", Table::kRight},
               {"rx on the wire", Table::kRight},
               {"rx drops", Table::kRight},
               {"tx", Table::kRight},
               {"tx on the wire", Table::kRight},
               {"tx drops", Table::kRight}});
  const auto elapsed = static_cast<double>((now.uptime - before.uptime).count()) / 1e9;
  const double seconds = std::max(elapsed, 1e-3);
  static const PortStats kNothing;
  for (const PortStats& port : now.ports) {
    const PortStats* old = find_port(before, port);
    if (old == nullptr) old = &kNothing;
    const Rates rx = rates_between(totals(*old, "rx"), totals(port, "rx"), seconds);
    const Rates tx = rates_between(totals(*old, "tx"), totals(port, "tx"), seconds);
    table.row({port.name, port.info.link_up ? "up" : "down", packet_rate(rx.packets),
               bit_rate(rx.bits), packet_rate(rx.drops), packet_rate(tx.packets), bit_rate(tx.bits),
               packet_rate(tx.drops)});
  }
  return table.empty() ? "no ports\n" : table.text();
}

std::string summary(const SwitchSnapshot& s) {
  return fmt::format("pollux {}, pid {}, up {}, idle policy {}\n", s.version, s.pid,
                     duration(s.uptime), s.idle) +
         fmt::format("pool: {}{}; {} of {} packets and {} of {} buffers of {} bytes free\n",
                     s.pool.memory, s.pool.huge_pages ? " (huge pages)" : " (no huge pages)",
                     count(s.pool.packets_free), count(s.pool.packets), count(s.pool.buffers_free),
                     count(s.pool.buffers), s.pool.buffer_size) +
         fmt::format(
             "addresses: {} of {}, forgotten after {} s; {} learned, {} moved, {} evicted, "
             "{} expired\n",
             count(s.fdb.entries), count(s.fdb.capacity), s.fdb.max_age_s, count(s.fdb.learned),
             count(s.fdb.moved), count(s.fdb.evicted), count(s.fdb.expired));
}

std::string full_report(const SwitchSnapshot& snapshot) {
  return summary(snapshot) + "\n" + ports_table(snapshot.ports) + "\n" +
         workers_table(snapshot.workers) + "\n" + drops_table(snapshot.ports);
}

}  // namespace pollux::control
