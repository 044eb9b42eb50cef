// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "pollux/base/counter.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/engine/topology.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/stage/addresses.hpp"
#include "pollux/stage/fdb.hpp"
#include "pollux/stage/gro.hpp"
#include "pollux/stage/outputs.hpp"

namespace pollux {

/// What a worker does with one queue, once: poll, parse, learn, forward, send, give back, show.
/// The whole way of a packet through the switch is `run`, top to bottom.
///
/// Belongs to one worker. Bursts are members only so that a turn sets nothing up; all are empty
/// between turns.
class Turn {
 public:
  Turn(unsigned worker, PoolCache& cache, stage::Fdb& fdb)
      : worker_(worker),
        fdb_(fdb),
        burst_(cache),
        scratch_(cache),
        clones_(cache),
        segments_(cache),
        held_(cache),
        held_clones_(cache),
        joiner_(cache) {}

  /// One turn of `source`; true when it brought packets. `next`: whose turn is after it, if that is
  /// known. `now_s`: seconds, for ageing.
  bool run(const Topology& topology, const RxSource& source, uint32_t now_s,
           const RxSource* next = nullptr) noexcept;

  /// Counters of turns and packets; any thread.
  [[nodiscard]] WorkerStats stats() const;
  /// Adds what was counted before; not while turns run.
  void add_stats(const WorkerStats& stats) noexcept;

 private:
  void carry(const Topology& topology, const RxSource& source, uint32_t now_s) noexcept;
  void send_to(const Topology& topology, const RxSource& source, stage::Output output,
               Burst& burst) noexcept;
  void flood(const Topology& topology, const RxSource& source, Burst& burst) noexcept;
  void send_to_port(const Topology& topology, const RxSource& source, uint16_t port, Burst& burst,
                    Burst& held) noexcept;
  // Not inlined, so that what is rarely done does not crowd out what is done for every burst.
  [[gnu::noinline]] void join_and_finish(const TxQueue& queue, uint32_t offloads, uint32_t types,
                                         Burst& burst, Burst& held) noexcept;
  [[gnu::noinline]] void finish(const TxQueue& queue, uint32_t offloads, Burst& burst,
                                Burst& held) noexcept;
  std::optional<DropReason> transmit(const TxQueue& queue, Burst& burst) noexcept;
  void touch(const TxQueue& queue, uint16_t port) noexcept;
  void end(const RxSource& source) noexcept;
  template <typename Queue>
  static bool show(const Queue& queue, void (*all)(void*) noexcept) noexcept;
  void notify(const RxQueue& source) noexcept;

  unsigned worker_;
  stage::Fdb& fdb_;
  Burst burst_;        // what was polled
  Burst scratch_;      // packets of one output, when there are several
  Burst clones_;       // copies for one receiver of a flood
  Burst segments_;     // what large packets were cut into
  Burst held_;         // originals that clones or segments borrow from, until the turn ends
  Burst held_clones_;  // clones that segments borrow from
  stage::Joiner joiner_;
  stage::Addresses addresses_;
  stage::Outputs outputs_;
  // Queues that got packets in this turn and are to be flushed at its end, one a port at most.
  std::array<TxQueue, kMaxPorts> touched_;
  size_t touched_count_ = 0;
  std::array<uint64_t, kMaxPorts> touched_in_{};  // by port: the turn in which it was, last
  uint64_t turn_ = 1;

  Counter turns_;
  Counter empty_turns_;
  Counter packets_;
  Counter busy_cycles_;
  Counter floods_;
  Counter flood_copies_;
  Counter gso_packets_;
  Counter gso_segments_;
  Counter gro_segments_;
  Counter gro_packets_;
};

}  // namespace pollux
