// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/eventfd.h>

#include <atomic>
#include <memory>
#include <utility>

#include "pollux/base/spin_lock.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/ports/vhost_user/open_turns.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/vhost/device.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"

namespace pollux::vhost_user {

using DeviceRing = ring::SplitDeviceRing<>;

/// What both directions of a running ring have in common. Made and freed by control; between
/// publication and quiescence the fields belong to the workers, but for the atomic ones.
struct LiveRing {
  /// Why the peer's ring is stopped: written once by a worker, read by control.
  std::atomic<ring::RingError> broken{ring::RingError::none};
  /// Replaced whole by control, so that no packet is lost when a front end changes its call
  /// descriptor; the one before is freed after quiescence.
  std::atomic<const vhost::RingControls*> controls{nullptr};
  std::shared_ptr<const PeerMemory> memory;
  uint32_t size = 0;

  [[nodiscard]] bool enabled() const noexcept { return controls.load()->enabled; }

  void note(ring::RingError error) noexcept {
    if (error != ring::RingError::none) [[unlikely]] {
      broken.store(error, std::memory_order_relaxed);
    }
  }

  /// Wakes the driver. A descriptor that can take no more is one that was not read yet.
  void notify() const noexcept {
    const vhost::RingControls* now = controls.load();
    if (now->call) (void)eventfd_write(now->call->get(), 1);
  }
};

/// A running transmitq: the driver sends, the switch receives.
struct LiveRx : LiveRing {
  explicit LiveRx(DeviceRing ring, uint64_t features) : queue(std::move(ring), features) {}

  virtio::NetDeviceRx<DeviceRing> queue;
  /// The kick descriptor is of a kind that can not wake us. The polling worker's.
  bool kick_useless = false;
};

/// A running receiveq: the switch sends, the driver receives. Several workers may share it.
struct LiveTx : LiveRing {
  explicit LiveTx(DeviceRing ring, uint64_t features) : queue(std::move(ring), features) {}

  SpinLock lock;  ///< held for a burst
  virtio::NetDeviceTx<DeviceRing> queue;
  OpenTurns turns;  ///< under the lock
};

/// A queue handle into the switch. It is there for as long as the port, with its counters; the
/// ring behind it comes and goes with the peer. A turn ends with the ring that it began with.
struct RxSlot {
  std::atomic<LiveRx*> live{nullptr};
  LiveRx* polled = nullptr;  ///< in this turn; its worker's own
  /// A frame that control wants the switch to see as if this peer had sent it: SEND_RARP. The
  /// address as a number with bit 63 set; 0: none.
  std::atomic<uint64_t> announce{0};
  QueueCounters counters;

  [[nodiscard]] RxQueue handle() noexcept;
};

/// A worker's handle out of the switch. When there are more workers than receiveqs, several handles
/// lead to the same one. A turn ends with the ring that it began with.
struct TxSlot {
  std::atomic<LiveTx*> live{nullptr};
  LiveTx* filled = nullptr;  ///< in this turn; its worker's own
  OpenTurn turn;             ///< the ring's while `filled` is set
  /// kTx... bits of what the peer agreed to; see TxQueue::offloads.
  const std::atomic<uint32_t>* offloads = nullptr;
  QueueCounters counters;

  [[nodiscard]] TxQueue handle() noexcept;
};

}  // namespace pollux::vhost_user
