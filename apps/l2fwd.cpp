// SPDX-License-Identifier: Apache-2.0
// `pollux l2fwd`: the classic. Ports in pairs; what comes in by one goes out by its partner.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "apps/command.hpp"
#include "apps/traffic/runtime.hpp"
#include "pollux/control/report.hpp"
#include "pollux/control/units.hpp"
#include "pollux/port/spec.hpp"
#include "pollux/stage/offload.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "l2fwd";
constexpr uint64_t kMillisecond = 1'000'000;
constexpr size_t kSendAt = 32;      // packets that are sent without waiting for the drain time
constexpr unsigned kSendTries = 4;  // of a burst that a receiver has no room for

struct Options {
  std::vector<std::string> ports;
  uint32_t drain_us = 100;
  double period = 1;
  double time = 0;
  double patience = 0;
  bool rewrite = true;
  bool finish = false;
  bool json = false;
};

/// Packets on their way out of one port: sent when there are enough, or when the drain time has
/// passed.
class OutBuffer {
 public:
  OutBuffer(PoolCache& cache, const DrivenPort& port)
      : queue_(port.tx[0]), waiting_(cache), held_(cache), ready_(cache) {}

  /// Takes the burst's packets over.
  void take(Burst& from) noexcept {
    while (!from.empty()) {
      if (waiting_.room() == 0) send();
      waiting_.push(from.pop_front());
    }
  }

  /// Behind the polling of a turn: sends, or keeps what may wait. What waits beyond the turn must
  /// not be borrowed from a sender.
  void end_turn(bool drain) noexcept {
    if (drain || waiting_.size() >= kSendAt) {
      send();
    } else {
      waiting_.retain([&](Packet& packet) {
        if (waiting_.cache().make_owned(packet)) return true;
        queue_.counters->drops.add(DropReason::no_buffers);
        return false;
      });
    }
  }

  /// Behind the senders' complete().
  void flush() noexcept {
    held_.clear();
    if (sent_ && queue_.flush != nullptr) queue_.flush(queue_.self);
    sent_ = false;
  }

 private:
  void send() noexcept {
    if (waiting_.empty()) return;
    sent_ = true;
    const uint32_t offloads =
        queue_.offloads != nullptr ? queue_.offloads->load(std::memory_order_relaxed) : 0;
    if (stage::ready_for(waiting_, offloads)) {
      (void)send(waiting_);
      waiting_.clear();
      return;
    }
    stage::finalize(
        waiting_, offloads, ready_, held_, [&](Burst& burst) { return send(burst); },
        [&](DropReason reason, size_t count) { queue_.counters->drops.add(reason, count); });
  }

  /// What is left after some tries is dropped, for the reason that the port gives.
  std::optional<DropReason> send(Burst& burst) noexcept {
    DropReason reason{};
    for (unsigned i = 0; i < kSendTries && !burst.empty(); ++i) {
      reason = queue_.send(queue_.self, burst);
    }
    if (burst.empty()) return std::nullopt;
    queue_.counters->drops.add(reason, burst.size());
    burst.clear();
    return reason;
  }

  TxQueue queue_;
  Burst waiting_;
  Burst held_;   // originals whose bytes their segments still use
  Burst ready_;  // scratch of finalize()
  bool sent_ = false;
};

class Forwarder {
 public:
  Forwarder(Runtime& runtime, const Options& options, std::vector<DrivenPort*> ports)
      : runtime_(runtime), options_(options), ports_(std::move(ports)) {
    for (DrivenPort* port : ports_) {
      outs_.push_back(std::make_unique<OutBuffer>(runtime.cache(), *port));
    }
  }

  void run();

 private:
  size_t turn(bool drain);
  void print_rates(uint64_t now);
  [[nodiscard]] bool finished() const;

  /// Pairs: 0 and 1, 2 and 3; a last one without partner sends back what it gets.
  [[nodiscard]] size_t partner_of(size_t index) const {
    return (index ^ 1) < ports_.size() ? index ^ 1 : index;
  }

  Runtime& runtime_;
  const Options& options_;
  std::vector<DrivenPort*> ports_;
  std::vector<std::unique_ptr<OutBuffer>> outs_;
  std::vector<uint64_t> before_;  // packets out of each port, at the last line
  uint64_t last_line_ = 0;
};

/// Destination 02:00:00:00:00:<port>, as DPDK's l2fwd has it; source the port's own address.
void rewrite_macs(Burst& burst, size_t out_port) {
  for (Packet* packet : burst.packets()) {
    auto* frame = reinterpret_cast<uint8_t*>(packet->head());
    const auto number = static_cast<uint8_t>(out_port);
    const std::array<uint8_t, 12> macs{0x02, 0, 0, 0, 0, number, 0x02, 0, 0, 0, 1, number};
    std::memcpy(frame, macs.data(), macs.size());
  }
}

size_t Forwarder::turn(bool drain) {
  size_t count = 0;
  const TurnQuiescence::Turn busy(runtime_.quiescence());
  for (size_t i = 0; i < ports_.size(); ++i) {
    for (const RxQueue& queue : ports_[i]->rx) {
      Burst burst(runtime_.cache());
      queue.poll(queue.self, burst);
      count += burst.size();
      const size_t out = partner_of(i);
      if (options_.rewrite) rewrite_macs(burst, out);
      outs_[out]->take(burst);
    }
  }
  for (auto& out : outs_) out->end_turn(drain);
  for (DrivenPort* port : ports_) {
    for (const RxQueue& queue : port->rx) {
      if (queue.complete != nullptr) queue.complete(queue.self);
    }
  }
  for (auto& out : outs_) out->flush();
  return count;
}

bool Forwarder::finished() const {
  bool any = false;
  for (const DrivenPort* port : ports_) any = any || port->port->finished();
  return options_.finish && any;
}

void Forwarder::print_rates(uint64_t now) {
  const double seconds = static_cast<double>(now - last_line_) / 1e9;
  std::string line;
  for (size_t i = 0; i < ports_.size(); ++i) {
    uint64_t packets = 0;
    for (const TxQueue& queue : ports_[i]->tx) packets += queue.counters->packets.value();
    line += fmt::format("{}{} out {}", i == 0 ? "" : "  ", ports_[i]->name,
                        control::packet_rate(static_cast<double>(packets - before_[i]) / seconds));
    before_[i] = packets;
  }
  fmt::print(stderr, "{}\n", line);
  last_line_ = now;
}

void Forwarder::run() {
  const uint64_t start = runtime_.now();
  const uint64_t drain_ns = uint64_t{options_.drain_us} * 1000;
  const auto period = static_cast<uint64_t>(options_.period * 1e9);
  const auto end = options_.time > 0 ? start + static_cast<uint64_t>(options_.time * 1e9) : ~0UL;
  before_.assign(ports_.size(), 0);
  last_line_ = start;
  uint64_t last_drain = start;
  uint64_t last_served = start;
  unsigned idle = 0;
  while (!runtime_.interrupted()) {
    const uint64_t now = runtime_.now();
    const bool done = now > end || finished();
    const bool drain = done || now - last_drain >= drain_ns;
    if (drain) last_drain = now;
    idle = turn(drain) != 0 ? 0 : idle + 1;
    if (now - last_served > kMillisecond) {
      runtime_.serve();
      last_served = now;
    }
    if (period != 0 && now - last_line_ >= period) print_rates(now);
    if (done && idle != 0) break;
    if (now > end) break;
    if (idle > 256) std::this_thread::yield();
  }
  (void)turn(true);
}

Result<std::vector<PortStats>> forward_all(const Options& o) {
  auto runtime = Runtime::create(stderr_log(), HugePages::kTry);
  if (!runtime) return forward(runtime);
  std::vector<DrivenPort*> ports;
  for (const std::string& text : o.ports) {
    auto named = NamedPortSpec::parse(text);
    if (!named) return forward(named);
    if (named->name.empty()) named->name = fmt::format("port{}", ports.size());
    auto port = (*runtime)->open(named->name, named->spec.to_string());
    if (!port) return forward(port);
    if ((*port)->tx.empty()) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("--port {}: nothing can be sent there", text));
    }
    ports.push_back(*port);
  }
  fmt::print("ready\n");
  std::fflush(stdout);
  if (o.patience > 0) {
    const auto patience = Nanos(static_cast<int64_t>(o.patience * 1e9));
    if (Status linked = (*runtime)->wait_for_links(patience); !linked) return forward(linked);
  }
  {
    Forwarder forwarder(**runtime, o, std::move(ports));
    forwarder.run();
  }
  (*runtime)->stop();
  return (*runtime)->port_stats();
}

int run_l2fwd(const Options& o) {
  auto stats = forward_all(o);
  if (!stats) return complain(kName, stats.error());
  if (o.json) {
    fmt::print("{}\n", control::ports_to_json(*stats));
  } else {
    fmt::print("{}\n{}", control::ports_table(*stats), control::drops_table(*stats));
  }
  return std::fflush(stdout) == 0 ? 0 : kFailed;
}

}  // namespace

void setup_l2fwd(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description(
      "Forwards between pairs of ports (first and second, third and fourth, ...) without looking "
      "at\n"
      "addresses; a last port without partner sends back what it gets. Prints `ready` once every\n"
      "port is open, and a last table when SIGINT or SIGTERM ends it.");
  app.add_option("--port", o->ports, "a port; may be given many times")
      ->type_name("[NAME=]SPEC")
      ->expected(1)
      ->take_all()
      ->required();
  app.add_option("--mac-rewrite", o->rewrite,
                 "on: destination 02:00:00:00:00:N, source 02:00:00:00:01:N, N the port out (on)")
      ->type_name("on|off")
      ->transform(CLI::CheckedTransformer(std::map<std::string, bool>{{"on", true}, {"off", false}},
                                          CLI::ignore_case));
  app.add_option("--drain", o->drain_us, "microseconds that fewer than 32 packets may wait (100)")
      ->check(CLI::Range(0, 1000000))
      ->type_name("US");
  app.add_option("--period", o->period, "seconds between two lines of rates; 0: none (1)")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  app.add_option("--time", o->time, "seconds, then end")
      ->check(CLI::Range(0.0, 1e7))
      ->type_name("SECONDS");
  app.add_option("--wait", o->patience, "seconds to wait for the ports' peers; 0: do not wait (0)")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  app.add_flag("--exit-when-finished", o->finish, "end when a capture file is at its end");
  app.add_flag("--json", o->json, "the last report as JSON");
  app.footer(port_spec_help());
  app.callback([o, &status] { status = run_l2fwd(*o); });
}

}  // namespace pollux::apps
