// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/eventfd.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "pollux/base/fd.hpp"
#include "pollux/base/spin_lock.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"

namespace pollux::virtio_user {

using DriverRing = ring::SplitDriverRing<>;

/// What both directions of a running ring have in common. Made and freed by the port's thread;
/// between publication and quiescence the fields belong to the workers, but for `broken`.
struct LiveRing {
  UniqueFd kick;  ///< we write, the back end reads
  UniqueFd call;  ///< the back end writes; nobody reads as long as we poll
  /// Why the ring is stopped: written by a worker, read by the port's thread.
  std::atomic<ring::RingError> broken{ring::RingError::none};

  void note(ring::RingError error) noexcept {
    if (error != ring::RingError::none) [[unlikely]] {
      broken.store(error, std::memory_order_relaxed);
    }
  }

  /// Wakes the device. A descriptor that can take no more is one that was not read yet.
  void notify() const noexcept { (void)eventfd_write(kick.get(), 1); }
};

/// A running receiveq.
struct LiveRx : LiveRing {
  LiveRx(DriverRing ring, Pool& pool, const virtio::NetDriverConfig& config)
      : queue(std::move(ring), pool, config) {}

  virtio::NetDriverRx<DriverRing> queue;
};

/// A running transmitq. Several workers may share it.
struct LiveTx : LiveRing {
  LiveTx(DriverRing ring, Pool& pool, const virtio::NetDriverConfig& config)
      : queue(std::move(ring), pool, config) {}

  SpinLock lock;  ///< held for a burst
  virtio::NetDriverTx<DriverRing> queue;
};

/// A queue handle into the program. It is there for as long as the port, with its counters; the
/// ring behind it comes and goes with the back end.
struct RxSlot {
  std::atomic<LiveRx*> live{nullptr};
  QueueCounters counters;

  [[nodiscard]] RxQueue handle() noexcept;
};

/// A queue handle out of the program. When the back end has fewer queues than the port, several
/// handles lead to the same one.
struct TxSlot {
  std::atomic<LiveTx*> live{nullptr};
  /// kTx... bits of what the back end agreed to; see TxQueue::offloads.
  const std::atomic<uint32_t>* offloads = nullptr;
  QueueCounters counters;

  [[nodiscard]] TxQueue handle() noexcept;
};

}  // namespace pollux::virtio_user
