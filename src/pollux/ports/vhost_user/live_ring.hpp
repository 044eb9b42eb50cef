// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "pollux/base/queue_counters.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/spin_lock.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/ports/vhost_user/open_turns.hpp"
#include "pollux/ports/vhost_user/packed_past.hpp"
#include "pollux/ring/ring_error.hpp"
#include "pollux/vhost/device.hpp"

namespace pollux::vhost_user {

/// What both directions of a running ring have in common. Made and freed by control; between
/// publication and quiescence the fields belong to the workers, but for the atomic ones.
///
/// The ring's format, and whether it is in order, are settled when it is made: behind the virtual
/// functions, which are called once a burst, is code for that format alone.
struct LiveRing {
  virtual ~LiveRing() = default;

  /// Where the ring would go on, as vhost::BackendDevice::stop_ring wants it. Control only, when no
  /// worker uses the ring.
  [[nodiscard]] virtual uint32_t base() const noexcept = 0;

  /// Marks what is written from now on in `log`; null: nowhere. Control, while workers run: see
  /// PeerView::set_log.
  virtual void set_log(const WriteLog* log) noexcept = 0;

  /// Why the peer's ring is stopped: written once by a worker, read by control.
  std::atomic<ring::RingError> broken{ring::RingError::none};
  /// Replaced whole by control, so that no packet is lost when a front end changes its call
  /// descriptor; the one before is freed after quiescence.
  std::atomic<const vhost::RingControls*> controls{nullptr};
  std::shared_ptr<const PeerMemory> memory;
  std::shared_ptr<IotlbReader> iotlb;                     ///< null without an IOMMU
  std::shared_ptr<const vhost::InflightRegion> inflight;  ///< where the ring is noted; may be null
  uint32_t size = 0;
  const char* format = "";  ///< for people

  [[nodiscard]] bool enabled() const noexcept { return controls.load()->enabled; }

  void note(ring::RingError error) noexcept {
    if (error != ring::RingError::none) [[unlikely]] {
      broken.store(error, std::memory_order_relaxed);
    }
  }

  /// Wakes the driver. A descriptor that can take no more is one that was not read yet.
  void notify() const noexcept;
};

/// A running transmitq: the driver sends, the switch receives.
struct LiveRx : LiveRing {
  /// Appends what the driver sent.
  virtual void poll(Burst& burst, QueueCounters& counters) noexcept = 0;
  /// Asks for the cache lines that `poll` will read first.
  virtual void prefetch() const noexcept = 0;
  /// See virtio::NetDeviceRx::idle.
  [[nodiscard]] virtual bool idle() noexcept = 0;
  /// Returns everything polled; true when there was something. Behind a full fence
  /// notification_wanted() tells whether the driver wants to be notified.
  [[nodiscard]] virtual bool show() noexcept = 0;
  [[nodiscard]] virtual bool notification_wanted() noexcept = 0;
  /// Asks the driver for a kick; true when there is something already. See RxQueue::arm.
  [[nodiscard]] virtual bool arm() noexcept = 0;
  virtual void disarm() noexcept = 0;

  /// Until then, or until it was enabled, a disabled ring is left alone instead of emptied: a front
  /// end that has come back enables its rings last, and what its driver sent meanwhile is not to be
  /// lost. Written by control.
  std::atomic<std::chrono::steady_clock::time_point> left_alone_until{};
  /// The kick descriptor is of a kind that can not wake us. The polling worker's.
  bool kick_useless = false;
};

/// A running receiveq: the switch sends, the driver receives. Several workers may share it.
struct LiveTx : LiveRing {
  SpinLock lock;    ///< held for a burst, by whoever calls these
  OpenTurns turns;  ///< under the lock

  /// Whether headers may speak of checksums: GUEST_CSUM may be turned off and on again (5.1.6.5.8).
  virtual void set_guest_csum(bool on) noexcept = 0;

  /// See NetDeviceTx::set_offloads. Before the ring is used.
  virtual void set_offloads(std::atomic<uint32_t>* offloads) noexcept = 0;

  /// Takes what the driver has room for; why it leaves the rest, if it does. `begins`: the worker's
  /// turn, if it begins with this.
  [[nodiscard]] virtual DropReason send(Burst& burst, QueueCounters& counters,
                                        OpenTurn* begins) noexcept = 0;
  /// Shows what turns up to this one sent; true when there was something. Behind a full fence
  /// notification_wanted() tells whether the driver wants to be notified.
  [[nodiscard]] virtual bool end(OpenTurn& turn) noexcept = 0;
  [[nodiscard]] virtual bool notification_wanted() noexcept = 0;
  /// Behind an IOMMU: see NetDeviceTx::look_ahead.
  virtual void look_ahead() noexcept = 0;
};

/// A running control queue: control's alone.
struct LiveControl : LiveRing {
  /// Carries out a command (virtio::NetControl); false: refused.
  using Execute = std::function<bool(std::span<const std::byte>)>;

  /// Carries out up to about `most` commands, and asks the driver for a kick at the next one. True
  /// when it wants to be notified.
  [[nodiscard]] virtual bool serve(size_t most, const Execute& execute) = 0;
};

/// Make a ring run, from where the peer has it now. `past` is for packed rings.
[[nodiscard]] std::unique_ptr<LiveRx> make_live_rx(const vhost::RingStart& start,
                                                   const PackedPast& past);
[[nodiscard]] std::unique_ptr<LiveTx> make_live_tx(const vhost::RingStart& start,
                                                   const PackedPast& past);
[[nodiscard]] std::unique_ptr<LiveControl> make_live_control(const vhost::RingStart& start,
                                                             const PackedPast& past);

}  // namespace pollux::vhost_user
