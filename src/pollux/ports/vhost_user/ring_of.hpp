// SPDX-License-Identifier: Apache-2.0
// How a running ring is made for the format that its layout is of: for live_ring.cpp and
// live_control.cpp, which are two so that what is rarely called does not crowd out what the
// compiler should inline into the data path.
#pragma once

#include <memory>
#include <utility>

#include "pollux/ports/vhost_user/live_ring.hpp"
#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/spec/virtio.hpp"

namespace pollux::vhost_user {

inline bool has(const vhost::RingStart& start, uint64_t feature) {
  return (start.features & feature) != 0;
}

// What the rest of this file needs to know of a format: its ring, how that begins, and what
// GET_VRING_BASE says of it.

template <typename Layout, ring::UsedEntries kUsed>
struct RingOf;
template <ring::UsedEntries kUsed>
struct RingOf<ring::SplitLayout, kUsed> {
  using Type = ring::SplitDeviceRing<SharedAccess, kUsed>;
};
template <ring::UsedEntries kUsed>
struct RingOf<ring::PackedLayout, kUsed> {
  using Type = ring::PackedDeviceRing<SharedAccess, kUsed>;
};

/// We return chains in the order in which we take them, so whatever a back end before us took and
/// did not return starts at the used index: go on there, whatever base the front end remembers.
inline ring::SplitDeviceConfig begin(const ring::SplitLayout& layout, const vhost::RingStart& start,
                                     const PackedPast&) {
  return {.layout = layout,
          .next_avail = SharedAccess{}.load_acquire(&layout.used->idx),
          .indirect = has(start, spec::VIRTIO_F_INDIRECT_DESC),
          .event_idx = has(start, spec::VIRTIO_F_EVENT_IDX)};
}
/// The same, but a packed ring does not say where its used index is.
inline ring::PackedDeviceConfig begin(const ring::PackedLayout& layout,
                                      const vhost::RingStart& start, const PackedPast& past) {
  return {.layout = layout,
          .next = past.resume.next,
          .indirect = has(start, spec::VIRTIO_F_INDIRECT_DESC),
          .event_idx = has(start, spec::VIRTIO_F_EVENT_IDX),
          .journal = past.journal};
}

/// What a back end that did not return chains in order had taken goes back unused: a packet that is
/// lost harms nobody, one that comes twice may.
template <ring::UsedEntries kUsed>
void settle(ring::SplitDeviceRing<SharedAccess, kUsed>& ring, const vhost::RingStart& start,
            const PackedPast&) {
  for (const uint16_t head : start.in_flight) ring.put_used(head, 0);
  ring.take(static_cast<uint32_t>(start.in_flight.size()));
  (void)ring.publish();
}
/// What a back end was about to show when it died is shown: some of it may be in the ring already.
template <ring::UsedEntries kUsed>
void settle(ring::PackedDeviceRing<SharedAccess, kUsed>& ring, const vhost::RingStart&,
            const PackedPast& past) {
  if (past.resume.chains != 0) {
    ring.put_again(past.resume);
  } else {
    ring.begin_journal();
    ring.put_left(past.left);
  }
  if (ring.unpublished()) (void)ring.publish();
  if (past.inflight) ring.note_in(past.inflight);
}

template <ring::UsedEntries kUsed>
uint32_t base_of(const ring::SplitDeviceRing<SharedAccess, kUsed>& ring) noexcept {
  return ring.next_avail();
}
template <ring::UsedEntries kUsed>
uint32_t base_of(const ring::PackedDeviceRing<SharedAccess, kUsed>& ring) noexcept {
  return ring::PackedPosition{ring.next_avail(), ring.next_used()}.to_wire();
}

inline const char* format_name(const ring::SplitLayout&, bool in_order) {
  return in_order ? "split in-order" : "split";
}
inline const char* format_name(const ring::PackedLayout&, bool in_order) {
  return in_order ? "packed in-order" : "packed";
}

/// A Live<Ring> for this layout.
template <template <typename> typename Live, ring::UsedEntries kUsed, typename Layout>
auto make(const Layout& layout, const vhost::RingStart& start, const PackedPast& past) {
  using Ring = typename RingOf<Layout, kUsed>::Type;
  PeerView view = start.view();
  view.set_log(start.log.get());
  Ring ring(begin(layout, start, past), view);
  settle(ring, start, past);
  auto live = std::make_unique<Live<Ring>>(std::move(ring), start.features);
  live->memory = start.memory;
  live->iotlb = start.iotlb;
  live->inflight = start.inflight;
  live->size = layout.size;
  live->format = format_name(layout, has(start, spec::VIRTIO_F_IN_ORDER));
  return live;
}

}  // namespace pollux::vhost_user
