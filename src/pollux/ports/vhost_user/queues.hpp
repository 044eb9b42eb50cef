// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "pollux/base/spin_lock.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/ports/vhost_user/live_ring.hpp"

namespace pollux::vhost_user {

struct Reception;

/// A queue handle into the switch. It is there for as long as the port, with its counters; the
/// ring behind it comes and goes with the peer. A turn ends with the ring that it began with.
struct RxSlot {
  std::atomic<LiveRx*> live{nullptr};
  LiveRx* polled = nullptr;  ///< in this turn; its worker's own
  LiveRx* shown = nullptr;   ///< at its end, and not asked yet whether to notify
  /// A frame that control wants the switch to see as if this peer had sent it: SEND_RARP. The
  /// address as a number with bit 63 set; 0: none.
  std::atomic<uint64_t> announce{0};
  uint16_t pair = 0;
  /// See TxSlot: what the peer sends tells where it waits for answers.
  const std::atomic<const Reception*>* reception = nullptr;
  /// What the peer agreed to send large; see RxQueue::large.
  const std::atomic<uint32_t>* large = nullptr;
  QueueCounters counters;

  [[nodiscard]] RxQueue handle() noexcept;
};

/// A worker's handle out of the switch. When there are more workers than receiveqs, several handles
/// lead to the same one. A turn ends with the ring that it began with.
struct TxSlot {
  std::atomic<LiveTx*> live{nullptr};
  LiveTx* filled = nullptr;  ///< in this turn; its worker's own
  LiveTx* shown = nullptr;   ///< at its end, and not asked yet whether to notify
  OpenTurn turn;             ///< the ring's while `filled` is set
  /// The same for each of Reception::rings; none where there is one queue pair.
  struct Lane {
    LiveTx* filled = nullptr;
    LiveTx* shown = nullptr;
    OpenTurn turn;
  };
  std::vector<Lane> lanes;
  bool steered = false;  ///< some lane was filled in this turn
  /// kTx... bits of what the peer agreed to; see TxQueue::offloads.
  const std::atomic<uint32_t>* offloads = nullptr;
  /// What the peer gets, and where; holds null where all goes the plain way.
  const std::atomic<const Reception*>* reception = nullptr;
  QueueCounters counters;

  [[nodiscard]] TxQueue handle() noexcept;
};

}  // namespace pollux::vhost_user
