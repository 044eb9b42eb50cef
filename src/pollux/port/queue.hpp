// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "pollux/base/counter.hpp"
#include "pollux/base/drop_reason.hpp"
#include "pollux/packet/burst.hpp"

namespace pollux {

/// Drops by reason. Rare, hence safe from any thread.
class DropCounters {
 public:
  void add(DropReason reason, uint64_t n = 1) noexcept {
    counts_[static_cast<size_t>(reason)].fetch_add(n, std::memory_order_relaxed);
  }
  [[nodiscard]] uint64_t value(DropReason reason) const noexcept {
    return counts_[static_cast<size_t>(reason)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, kDropReasonCount> counts_{};
};

/// What one direction of one queue has carried since its port was made; survives its peer.
/// `packets` and `bytes` have one writer at a time: the queue's worker, or whoever holds its lock.
/// rx: packets accepted from the peer. tx: packets given to the peer.
struct alignas(64) QueueCounters {
  Counter packets;
  Counter bytes;  ///< Ethernet frames without virtio-net header and FCS
  DropCounters drops;
};

/// A queue that packets come in by: plain function pointers, chosen once for what the port is.
/// One worker at a time calls both functions.
struct RxQueue {
  void* self = nullptr;

  /// Appends what has arrived, at most burst.room() packets. Tails may be borrowed.
  void (*poll)(void* self, Burst& burst) noexcept = nullptr;

  /// Ends the turn: everything polled before is given back to the sender, in order and in bulk.
  /// Borrowed tails are dead from here on. May be null when there is nothing to give back.
  void (*complete)(void* self) noexcept = nullptr;

  /// Owned by the port, never null.
  QueueCounters* counters = nullptr;
};

/// What a sender may leave undone in packets for a tx queue, because the receiver agreed to take
/// them so: bits of TxQueue::offloads.
inline constexpr uint32_t kTxChecksum = 1;
inline constexpr uint32_t kTxTso4 = 2;
inline constexpr uint32_t kTxTso6 = 4;
inline constexpr uint32_t kTxTsoEcn = 8;

/// A queue that packets leave by. Several workers may call `send` and `flush` (ports lock
/// inside, once a burst); both are bounded and never wait for a peer.
struct TxQueue {
  void* self = nullptr;

  /// Takes packets from the front of the burst as long as they fit, counts them, and leaves the
  /// rest with the caller, who may try again or drop them. Packets that can never be sent here are
  /// dropped and counted by the port. Returns why something was left (meaningful only then).
  DropReason (*send)(void* self, Burst& burst) noexcept = nullptr;

  /// Shows what was sent to the receiver, and wakes it if it wants that. Called at the end of a
  /// turn in which send was called, after the senders' RxQueue::complete. May be null.
  void (*flush)(void* self) noexcept = nullptr;

  /// kTx... bits; change as peers come and go, hence asked once a burst. Null: no offloads.
  const std::atomic<uint32_t>* offloads = nullptr;

  /// Owned by the port, never null.
  QueueCounters* counters = nullptr;
};

}  // namespace pollux
