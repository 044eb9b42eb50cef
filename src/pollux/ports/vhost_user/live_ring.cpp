// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/live_ring.hpp"

#include <utility>

#include "pollux/base/peer_fd.hpp"
#include "pollux/ports/vhost_user/ring_of.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"

namespace pollux::vhost_user {
namespace {

using ring::UsedEntries;

template <typename Ring>
struct RxOf final : LiveRx {
  RxOf(Ring ring, uint64_t features) : queue(std::move(ring), features) {
    queue.ring().suppress_notifications();
  }

  void poll(Burst& burst, QueueCounters& counters) noexcept override {
    queue.poll(burst, counters);
    note(queue.ring().error());
  }
  void prefetch() const noexcept override { queue.ring().prefetch_available(); }
  bool idle() noexcept override { return queue.idle(); }
  bool show() noexcept override { return queue.show(); }
  bool notification_wanted() noexcept override { return queue.notification_wanted(); }
  bool arm() noexcept override { return queue.arm(); }
  void disarm() noexcept override { queue.disarm(); }
  uint32_t base() const noexcept override { return base_of(queue.ring()); }
  void set_log(const WriteLog* log) noexcept override { queue.ring().view().set_log(log); }

  virtio::NetDeviceRx<Ring> queue;
};

template <typename Ring>
struct TxOf final : LiveTx {
  TxOf(Ring ring, uint64_t features) : queue(std::move(ring), features) {
    queue.ring().suppress_notifications();
  }

  DropReason send(Burst& burst, QueueCounters& counters, OpenTurn* begins) noexcept override {
    if (begins != nullptr) turns.begin(*begins, queue.filled());
    queue.send(burst, counters);
    const ring::RingError error = queue.ring().error();
    note(error);
    if (error != ring::RingError::none) return DropReason::receiver_down;
    return queue.missed() ? DropReason::receiver_unmapped : DropReason::receiver_ring_full;
  }
  void set_guest_csum(bool on) noexcept override { queue.set_guest_csum(on); }
  void set_offloads(std::atomic<uint32_t>* offloads) noexcept override {
    queue.set_offloads(offloads);
  }
  bool end(OpenTurn& turn) noexcept override { return queue.show(turns.end(turn, queue.filled())); }
  bool notification_wanted() noexcept override { return queue.notification_wanted(); }
  void look_ahead() noexcept override { queue.look_ahead(); }
  uint32_t base() const noexcept override { return base_of(queue.ring()); }
  void set_log(const WriteLog* log) noexcept override { queue.ring().view().set_log(log); }

  virtio::NetDeviceTx<Ring> queue;
};

}  // namespace

void LiveRing::notify() const noexcept {
  const vhost::RingControls* now = controls.load();
  if (now->call) signal_event(now->call->get());
}

std::unique_ptr<LiveRx> make_live_rx(const vhost::RingStart& start, const PackedPast& past) {
  return std::visit(
      [&](const auto& layout) -> std::unique_ptr<LiveRx> {
        // Nothing is written to a transmitq's chains, so one used entry does for many.
        if (has(start, spec::VIRTIO_F_IN_ORDER)) {
          return make<RxOf, UsedEntries::kOneForMany>(layout, start, past);
        }
        return make<RxOf, UsedEntries::kEach>(layout, start, past);
      },
      start.layout);
}

std::unique_ptr<LiveTx> make_live_tx(const vhost::RingStart& start, const PackedPast& past) {
  return std::visit(
      [&](const auto& layout) -> std::unique_ptr<LiveTx> {
        return make<TxOf, UsedEntries::kEach>(layout, start, past);
      },
      start.layout);
}

}  // namespace pollux::vhost_user
