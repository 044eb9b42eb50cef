// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>

#include "pollux/base/clock.hpp"
#include "pollux/base/counter.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/engine/sleeper.hpp"
#include "pollux/engine/topology.hpp"
#include "pollux/engine/turn.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/stage/fdb.hpp"

namespace pollux {

/// One polling thread: an lcore in DPDK's words. It runs rounds; in a round each of its queues has
/// a turn. Between rounds it holds no packet and no pointer that control may take away.
class Worker {
 public:
  struct Config {
    unsigned index = 0;
    int cpu = -1;  ///< pinned to it; -1: not pinned
    IdlePolicy idle = IdlePolicy::kAdaptive;
  };

  /// Nothing runs before start(). `topology` is the pointer that control publishes through.
  Worker(const Config& config, const std::atomic<const Topology*>& topology, Pool& pool,
         stage::Fdb& fdb, const Clock& clock);
  ~Worker();

  /// Also after stop(): then it goes on.
  [[nodiscard]] Status start();

  /// Lets the worker finish its round, and joins it.
  void stop();

  /// Adds what a worker before this one has counted. Not while it runs.
  void add_stats(const WorkerStats& stats) noexcept;

  /// Makes it look at what control has published, should it sleep. Any thread.
  void wake() noexcept { sleeper_.wake(); }

  /// A ticket for `passed`: taken after something was unpublished.
  [[nodiscard]] uint64_t ticket() const noexcept { return round_.load(); }

  /// True when the worker has begun a new round since the ticket, or is outside of one for long:
  /// asleep or ended.
  [[nodiscard]] bool passed(uint64_t ticket) const noexcept;

  [[nodiscard]] WorkerStats stats() const;

 private:
  /// Set in `round_` while the worker sleeps or does not run.
  static constexpr uint64_t kOffline = uint64_t{1} << 63;

  void run() noexcept;
  bool round(uint32_t now_s) noexcept;
  [[nodiscard]] bool idle() noexcept;
  [[nodiscard]] bool sleep() noexcept;
  [[nodiscard]] std::span<const RxSource> queues() const noexcept;

  Config config_;
  const std::atomic<const Topology*>& topology_;
  const Clock& clock_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
  Sleeper sleeper_;
  Counter sleeps_;
  Counter idle_cycles_;

  // Written every round by the worker, read by control: a line of its own.
  alignas(64) std::atomic<uint64_t> round_{kOffline};

  alignas(64) PoolCache cache_;
  Turn turn_;
};

}  // namespace pollux
