// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "pollux/base/fd.hpp"
#include "pollux/base/peer_fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/spin_lock.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/ring/ring_error.hpp"
#include "pollux/virtio/net_driver_control.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"

namespace pollux::virtio_user {

/// What both directions of a running ring have in common. Made and freed by the port's thread;
/// between publication and quiescence the fields belong to the workers, but for `broken`.
struct LiveRing {
  UniqueFd kick;  ///< we write, the back end reads
  UniqueFd call;  ///< the back end writes; nobody reads as long as we poll
  /// Why the ring is stopped: written by a worker, read by the port's thread.
  std::atomic<ring::RingError> broken{ring::RingError::none};

  virtual ~LiveRing() = default;

  /// Errors: kResource, no more descriptors.
  [[nodiscard]] Status make_events();

  /// Gives every buffer back to the pool. The device must be gone.
  virtual void stop(PoolCache& cache) noexcept = 0;

  /// What SET_VRING_BASE tells a device that takes the ring over, if one can.
  [[nodiscard]] virtual std::optional<uint32_t> base() const noexcept = 0;

  void note(ring::RingError error) noexcept {
    if (error != ring::RingError::none) [[unlikely]] {
      broken.store(error, std::memory_order_relaxed);
    }
  }

  /// Wakes the device. A descriptor that can take no more is one that was not read yet.
  void notify() const noexcept { signal_event(kick.get()); }
};

/// A running receiveq of either format: one virtual call a burst. See virtio::NetDriverRx.
struct LiveRx : LiveRing {
  /// True when the device wants to be notified.
  [[nodiscard]] virtual bool fill(PoolCache& cache) noexcept = 0;
  [[nodiscard]] virtual bool poll(Burst& burst, QueueCounters& counters) noexcept = 0;
  /// Asks the device to interrupt at the next frame; true when there are frames already.
  [[nodiscard]] virtual bool arm() noexcept = 0;
  virtual void disarm() noexcept = 0;
};

/// A running transmitq of either format. Several workers may share it. See virtio::NetDriverTx.
struct LiveTx : LiveRing {
  SpinLock lock;  ///< held for a burst

  virtual DropReason send(Burst& burst, QueueCounters& counters) noexcept = 0;
  /// True when the device wants to be notified.
  [[nodiscard]] virtual bool publish() noexcept = 0;
};

template <typename Ring>
class LiveRxOf final : public LiveRx {
 public:
  LiveRxOf(Ring ring, Pool& pool, const virtio::NetDriverConfig& config)
      : queue_(std::move(ring), pool, config) {}

  bool fill(PoolCache& cache) noexcept override { return queue_.fill(cache); }
  bool poll(Burst& burst, QueueCounters& counters) noexcept override {
    const bool wanted = queue_.poll(burst, counters);
    note(queue_.ring().error());
    return wanted;
  }
  bool arm() noexcept override { return queue_.arm(); }
  void disarm() noexcept override { queue_.disarm(); }
  void stop(PoolCache& cache) noexcept override { queue_.stop(cache); }
  std::optional<uint32_t> base() const noexcept override { return queue_.ring().base(); }

 private:
  virtio::NetDriverRx<Ring> queue_;
};

template <typename Ring>
class LiveTxOf final : public LiveTx {
 public:
  LiveTxOf(Ring ring, Pool& pool, const virtio::NetDriverConfig& config)
      : queue_(std::move(ring), pool, config) {}

  DropReason send(Burst& burst, QueueCounters& counters) noexcept override {
    const DropReason why = queue_.send(burst, counters);
    note(queue_.ring().error());
    return why;
  }
  bool publish() noexcept override { return queue_.publish(); }
  void stop(PoolCache& cache) noexcept override { queue_.stop(cache); }
  std::optional<uint32_t> base() const noexcept override { return queue_.ring().base(); }

 private:
  virtio::NetDriverTx<Ring> queue_;
};

/// A running control queue of either format: the port's thread's alone. See
/// virtio::NetDriverControl.
struct LiveControl : LiveRing {
  /// True when the device wants to be notified.
  [[nodiscard]] virtual bool post(std::span<const std::byte> command) noexcept = 0;
  [[nodiscard]] virtual std::optional<uint8_t> answer() noexcept = 0;
  [[nodiscard]] virtual bool arm() noexcept = 0;
};

template <typename Ring>
class LiveControlOf final : public LiveControl {
 public:
  LiveControlOf(Ring ring, const virtio::ControlRoom& room) : queue_(std::move(ring), room) {}

  bool post(std::span<const std::byte> command) noexcept override { return queue_.post(command); }
  std::optional<uint8_t> answer() noexcept override {
    const auto ack = queue_.answer();
    note(queue_.ring().error());
    return ack;
  }
  bool arm() noexcept override { return queue_.arm(); }
  void stop(PoolCache& /*cache*/) noexcept override {}  // it has no buffers of the pool
  std::optional<uint32_t> base() const noexcept override { return queue_.ring().base(); }

 private:
  virtio::NetDriverControl<Ring> queue_;
};

/// A queue handle into the program. It is there for as long as the port, with its counters; the
/// ring behind it comes and goes with the back end.
struct RxSlot {
  std::atomic<LiveRx*> live{nullptr};
  /// What the back end agreed to send large; see RxQueue::large.
  const std::atomic<uint32_t>* large = nullptr;
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
