// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/port/port.hpp"
#include "pollux/port/turn_quiescence.hpp"
#include "pollux/ports/ring/registry.hpp"

namespace pollux::apps {

/// A port that a Runtime drives.
struct DrivenPort {
  std::string name;
  std::string spec;
  std::unique_ptr<Port> port;
  std::vector<RxQueue> rx;
  std::vector<TxQueue> tx;
};

/// What `gen`, `sink` and `l2fwd` need around their loop: memory, clock, event loop, ports, and an
/// end by signal. One thread makes it and drives everything in it.
class Runtime {
 public:
  /// Blocks SIGINT and SIGTERM: make it before other threads. Errors: memory, the system's.
  [[nodiscard]] static Result<std::unique_ptr<Runtime>> create(Log log, HugePages pages);
  ~Runtime();

  /// Makes and starts the port that `spec` describes. It stays the Runtime's.
  [[nodiscard]] Result<DrivenPort*> open(const std::string& name, const std::string& spec);

  /// Waits until every port has a peer, serving the event loop meanwhile. Errors: kTimeout, naming
  /// the port and what it waits for; kDisconnected when a signal came.
  [[nodiscard]] Status wait_for_links(Nanos patience);

  /// Serves what is due on the event loop; call it now and then, between turns.
  void serve() { (void)loop_->run_once(Nanos(0)); }
  /// True once SIGINT or SIGTERM has come.
  [[nodiscard]] bool interrupted() const { return interrupted_; }

  /// Stops all ports; their counters stay readable.
  void stop();

  /// For tables and JSON; what ports said of their peers before stop() stays.
  [[nodiscard]] std::vector<PortStats> port_stats() const;

  [[nodiscard]] PoolCache& cache() { return *cache_; }
  [[nodiscard]] Pool& pool() { return *pool_; }
  [[nodiscard]] const Clock& clock() const { return clock_; }
  [[nodiscard]] uint64_t now() const { return static_cast<uint64_t>(clock_.now().count()); }
  [[nodiscard]] TurnQuiescence& quiescence() { return quiescence_; }

 private:
  explicit Runtime(Log log) : log_(std::move(log)) {}

  Log log_;
  SteadyClock clock_;
  TurnQuiescence quiescence_;
  RingRegistry rings_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<PoolCache> cache_;
  std::vector<EventLoop::Watch> signals_;
  bool interrupted_ = false;
  bool stopped_ = false;
  std::vector<std::unique_ptr<DrivenPort>> ports_;
  std::vector<PortInfo> last_info_;  // before stop()
};

}  // namespace pollux::apps
