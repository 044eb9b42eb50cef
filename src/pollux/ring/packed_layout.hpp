// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/spec/virtio_ring.hpp"

namespace pollux::ring {

/// Where the three parts of a packed virtqueue lie in this process; VIRTIO 1.3, section 2.8.
/// The parts are shared with a peer: nothing reads them but through SharedAccess.
struct PackedLayout {
  uint32_t size = 0;  ///< entries, 1 to 32768, any number
  spec::pvirtq_desc* desc = nullptr;
  spec::pvirtq_event_suppress* driver = nullptr;  ///< when to interrupt; written by the driver
  spec::pvirtq_event_suppress* device = nullptr;  ///< when to kick; written by the device
};

/// 2.8: a packed queue has 1 to 32768 entries; the number need not be a power of two.
[[nodiscard]] constexpr bool valid_packed_size(uint32_t size) {
  return size != 0 && size <= spec::kMaxPackedQueueSize;
}

/// A place in a packed ring: an entry, and the wrap counter of the lap that it belongs to
/// (2.8.1). As one number it is what SET_VRING_BASE and the event structures carry: bit 15 is the
/// wrap counter.
struct PackedCursor {
  uint16_t index = 0;
  bool wrap = true;  ///< both counters start at 1

  [[nodiscard]] static constexpr PackedCursor from_wire(uint16_t value) {
    return {static_cast<uint16_t>(value & 0x7fff), (value >> 15) != 0};
  }
  [[nodiscard]] constexpr uint16_t to_wire() const {
    return static_cast<uint16_t>(index | (wrap ? 0x8000 : 0));
  }
  /// `count` entries further on in a ring of `size` (count <= size).
  [[nodiscard]] constexpr PackedCursor advanced(uint32_t count, uint32_t size) const {
    const uint32_t next = index + count;
    if (next < size) return {static_cast<uint16_t>(next), wrap};
    return {static_cast<uint16_t>(next - size), !wrap};
  }
  friend constexpr bool operator==(PackedCursor, PackedCursor) = default;
};

/// Both places of a packed ring that is at rest: the first descriptor that was not taken, and where
/// the next used one goes. As one number it is what vhost-user's SET_VRING_BASE and GET_VRING_BASE
/// carry ("vring descriptor indices for packed virtqueues").
struct PackedPosition {
  PackedCursor avail;
  PackedCursor used;

  /// DPDK fills in the lower half alone: then, as in its own back end, both places are the same.
  [[nodiscard]] static constexpr PackedPosition from_wire(uint32_t value) {
    const auto avail = PackedCursor::from_wire(static_cast<uint16_t>(value));
    const auto used = static_cast<uint16_t>(value >> 16);
    return {avail, used == 0 ? avail : PackedCursor::from_wire(used)};
  }
  [[nodiscard]] constexpr uint32_t to_wire() const {
    return avail.to_wire() | (uint32_t{used.to_wire()} << 16);
  }
  friend constexpr bool operator==(PackedPosition, PackedPosition) = default;
};

/// 2.8.1: flags of a descriptor that the driver made available in the lap of `wrap`, and of one
/// that the device marked used in it; other bits are 0.
[[nodiscard]] constexpr uint16_t packed_avail_flags(bool wrap) {
  return wrap ? spec::VIRTQ_DESC_F_AVAIL : spec::VIRTQ_DESC_F_USED;
}
[[nodiscard]] constexpr uint16_t packed_used_flags(bool wrap) {
  return wrap ? spec::VIRTQ_DESC_F_AVAIL | spec::VIRTQ_DESC_F_USED : 0;
}
inline constexpr uint16_t kPackedOwnerFlags = spec::VIRTQ_DESC_F_AVAIL | spec::VIRTQ_DESC_F_USED;

/// Bytes that `place_packed` needs: descriptors, then the two event structures, each on cache
/// lines of its own.
[[nodiscard]] constexpr size_t packed_bytes(uint32_t size) {
  return (spec::packed_desc_bytes(size) + 63) / 64 * 64 + 2 * 64;
}

/// Lays a queue out in [at, at + packed_bytes(size)), as a driver does; `at` is 64-byte aligned.
/// Nothing is written.
[[nodiscard]] inline PackedLayout place_packed(std::byte* at, uint32_t size) {
  std::byte* events = at + (spec::packed_desc_bytes(size) + 63) / 64 * 64;
  return {size, reinterpret_cast<spec::pvirtq_desc*>(at),
          reinterpret_cast<spec::pvirtq_event_suppress*>(events),
          reinterpret_cast<spec::pvirtq_event_suppress*>(events + 64)};
}

}  // namespace pollux::ring
