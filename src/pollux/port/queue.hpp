// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "pollux/base/drop_reason.hpp"
#include "pollux/base/queue_counters.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/packet/tx_offloads.hpp"  // the bits of TxQueue::offloads

namespace pollux {

/// How a queue that packets come in by is watched. A worker sleeps only when all its queues are
/// adaptive.
enum class QueueMode : uint8_t {
  kAdaptive,  ///< polled while there is traffic; its eventfd (kick) wakes the worker afterwards
  kPoll,      ///< always polled
};

/// How an armed queue tells its worker of new packets; see RxQueue::arm.
struct Wake {
  enum Kind : uint8_t {
    kNow,     ///< there is something to do already
    kSignal,  ///< `fd` turns readable
    kByTime,  ///< it can not tell: look again from time to time
    kNever,   ///< nothing comes before control changes something, which wakes workers itself
  };
  Kind kind = kByTime;
  int fd = -1;
};

/// A queue that packets come in by: plain function pointers, chosen once for what the port is.
/// One worker at a time calls the functions.
struct RxQueue {
  void* self = nullptr;

  /// Appends what has arrived, at most burst.room() packets. Tails may be borrowed.
  void (*poll)(void* self, Burst& burst) noexcept = nullptr;

  /// Ends the turn: everything polled before is given back to the sender, in order and in bulk.
  /// Borrowed tails are dead from here on. May be null when there is nothing to give back.
  void (*complete)(void* self) noexcept = nullptr;

  /// Owned by the port, never null.
  QueueCounters* counters = nullptr;

  /// The worker would like to sleep: asks the sender to tell of new packets. Called by the polling
  /// worker between turns. Null: Wake::kByTime.
  Wake (*arm)(void* self) noexcept = nullptr;

  /// The worker polls again: the sender need not tell any more. Never waits. May be called without
  /// arm() before. May be null.
  void (*disarm)(void* self) noexcept = nullptr;

  /// kTxTso4 and kTxTso6, as far as the sender hands over large packets itself, so that its small
  /// segments are not worth joining. Changes as peers come and go. Null: it does not.
  const std::atomic<uint32_t>* large = nullptr;

  /// complete() in two steps, for who ends the turns of several queues at once: `show` gives
  /// everything back, and when it says true `notify`, behind a full fence, wakes the sender if that
  /// wants it. Null, both: there is only complete().
  bool (*show)(void* self) noexcept = nullptr;
  void (*notify)(void* self) noexcept = nullptr;

  /// Asks for the cache lines that `poll` will read first. May be null.
  void (*prefetch)(void* self) noexcept = nullptr;

  /// Called between turns: true when a turn would bring nothing and end nothing, so that none is
  /// begun. Null: it can not tell.
  bool (*idle)(void* self) noexcept = nullptr;
};

/// A queue that packets leave by. Several workers may call `send` and `flush` (ports lock
/// inside, once a burst, or have a handle for each); both are bounded and never wait for a peer.
struct TxQueue {
  void* self = nullptr;

  /// Takes packets from the front of the burst as long as they fit, counts them, and leaves the
  /// rest with the caller, who may try again or drop them. Packets that can never be sent here are
  /// dropped and counted by the port. A borrowed tail is good only during the call: a port that
  /// keeps a packet makes it owned first. Returns why something was left (meaningful only then).
  DropReason (*send)(void* self, Burst& burst) noexcept = nullptr;

  /// Shows what was sent to the receiver, and wakes it if it wants that. Called at the end of a
  /// turn in which send was called, after the senders' RxQueue::complete. What other workers sent
  /// in turns that still run is not shown. May be null.
  void (*flush)(void* self) noexcept = nullptr;

  /// kTx... bits (packet/tx_offloads.hpp); change as peers come and go, hence asked once a burst.
  /// Null: no offloads.
  const std::atomic<uint32_t>* offloads = nullptr;

  /// Owned by the port, never null.
  QueueCounters* counters = nullptr;

  /// flush() in two steps: see RxQueue::show.
  bool (*show)(void* self) noexcept = nullptr;
  void (*notify)(void* self) noexcept = nullptr;
};

}  // namespace pollux
