// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/live_ring.hpp"

#include <utility>

#include "pollux/base/peer_fd.hpp"
#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_control.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"

namespace pollux::vhost_user {
namespace {

using ring::UsedEntries;

bool has(const vhost::RingStart& start, uint64_t feature) {
  return (start.features & feature) != 0;
}

// What the rest of this file needs to know of a format: its ring, how that begins, and what
// GET_VRING_BASE says of it.

template <typename Layout, UsedEntries kUsed>
struct RingOf;
template <UsedEntries kUsed>
struct RingOf<ring::SplitLayout, kUsed> {
  using Type = ring::SplitDeviceRing<SharedAccess, kUsed>;
};
template <UsedEntries kUsed>
struct RingOf<ring::PackedLayout, kUsed> {
  using Type = ring::PackedDeviceRing<SharedAccess, kUsed>;
};

/// We return chains in the order in which we take them, so whatever a back end before us took and
/// did not return starts at the used index: go on there, whatever base the front end remembers.
ring::SplitDeviceConfig begin(const ring::SplitLayout& layout, const vhost::RingStart& start) {
  return {.layout = layout,
          .next_avail = SharedAccess{}.load_acquire(&layout.used->idx),
          .indirect = has(start, spec::VIRTIO_F_INDIRECT_DESC),
          .event_idx = has(start, spec::VIRTIO_F_EVENT_IDX)};
}
/// The same, but a packed ring does not say where its used index is: only the base does.
ring::PackedDeviceConfig begin(const ring::PackedLayout& layout, const vhost::RingStart& start) {
  return {.layout = layout,
          .next = ring::PackedPosition::from_wire(start.base).used,
          .indirect = has(start, spec::VIRTIO_F_INDIRECT_DESC),
          .event_idx = has(start, spec::VIRTIO_F_EVENT_IDX)};
}

template <UsedEntries kUsed>
uint32_t base_of(const ring::SplitDeviceRing<SharedAccess, kUsed>& ring) noexcept {
  return ring.next_avail();
}
template <UsedEntries kUsed>
uint32_t base_of(const ring::PackedDeviceRing<SharedAccess, kUsed>& ring) noexcept {
  return ring::PackedPosition{ring.next_avail(), ring.next_used()}.to_wire();
}

const char* format_name(const ring::SplitLayout&, bool in_order) {
  return in_order ? "split in-order" : "split";
}
const char* format_name(const ring::PackedLayout&, bool in_order) {
  return in_order ? "packed in-order" : "packed";
}

template <typename Ring>
struct RxOf final : LiveRx {
  RxOf(Ring ring, uint64_t features) : queue(std::move(ring), features) {
    queue.ring().suppress_notifications();
  }

  void poll(Burst& burst, QueueCounters& counters) noexcept override {
    queue.poll(burst, counters);
    note(queue.ring().error());
  }
  bool complete() noexcept override { return queue.complete(); }
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
  bool end(OpenTurn& turn) noexcept override {
    return queue.publish(turns.end(turn, queue.filled()));
  }
  void look_ahead() noexcept override { queue.look_ahead(); }
  uint32_t base() const noexcept override { return base_of(queue.ring()); }
  void set_log(const WriteLog* log) noexcept override { queue.ring().view().set_log(log); }

  virtio::NetDeviceTx<Ring> queue;
};

template <typename Ring>
struct ControlOf final : LiveControl {
  ControlOf(Ring ring, uint64_t /*features*/) : queue(std::move(ring)) {}

  bool serve(size_t most, const Execute& execute) override {
    bool wanted = queue.serve(most, execute);
    // What came between looking and asking for a kick is not told of.
    if (queue.ring().request_notifications()) wanted = queue.serve(most, execute) || wanted;
    note(queue.ring().error());
    return wanted;
  }
  uint32_t base() const noexcept override { return base_of(queue.ring()); }
  void set_log(const WriteLog* log) noexcept override { queue.ring().view().set_log(log); }

  virtio::NetDeviceControl<Ring> queue;
};

/// A Live<Ring> for this layout.
template <template <typename> typename Live, UsedEntries kUsed, typename Layout>
auto make(const Layout& layout, const vhost::RingStart& start) {
  using Ring = typename RingOf<Layout, kUsed>::Type;
  PeerView view = start.view();
  view.set_log(start.log.get());
  auto live = std::make_unique<Live<Ring>>(Ring(begin(layout, start), view), start.features);
  live->memory = start.memory;
  live->iotlb = start.iotlb;
  live->size = layout.size;
  live->format = format_name(layout, has(start, spec::VIRTIO_F_IN_ORDER));
  return live;
}

}  // namespace

void LiveRing::notify() const noexcept {
  const vhost::RingControls* now = controls.load();
  if (now->call) signal_event(now->call->get());
}

std::unique_ptr<LiveRx> make_live_rx(const vhost::RingStart& start) {
  return std::visit(
      [&](const auto& layout) -> std::unique_ptr<LiveRx> {
        // Nothing is written to a transmitq's chains, so one used entry does for many.
        if (has(start, spec::VIRTIO_F_IN_ORDER)) {
          return make<RxOf, UsedEntries::kOneForMany>(layout, start);
        }
        return make<RxOf, UsedEntries::kEach>(layout, start);
      },
      start.layout);
}

std::unique_ptr<LiveTx> make_live_tx(const vhost::RingStart& start) {
  return std::visit(
      [&](const auto& layout) -> std::unique_ptr<LiveTx> {
        return make<TxOf, UsedEntries::kEach>(layout, start);
      },
      start.layout);
}

std::unique_ptr<LiveControl> make_live_control(const vhost::RingStart& start) {
  return std::visit(
      [&](const auto& layout) -> std::unique_ptr<LiveControl> {
        return make<ControlOf, UsedEntries::kEach>(layout, start);
      },
      start.layout);
}

}  // namespace pollux::vhost_user
