// SPDX-License-Identifier: Apache-2.0
// The split and the packed virtqueue in memory; VIRTIO 1.3, sections 2.7 and 2.8. All fields
// little-endian for VERSION_1 devices and native for legacy ones, which is the same on every
// machine that we build for.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace pollux::spec {

static_assert(std::endian::native == std::endian::little,
              "ring fields are read in place; a big-endian host needs converting accessors");

// 2.7.5 The Virtqueue Descriptor Table.
inline constexpr uint16_t VIRTQ_DESC_F_NEXT = 1;
inline constexpr uint16_t VIRTQ_DESC_F_WRITE = 2;
inline constexpr uint16_t VIRTQ_DESC_F_INDIRECT = 4;

struct virtq_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(virtq_desc) == 16);

// 2.7.6 The Virtqueue Available Ring.
inline constexpr uint16_t VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

struct virtq_avail {
  uint16_t flags;
  uint16_t idx;
  uint16_t ring[];  // [size], then used_event with VIRTIO_F_EVENT_IDX
};
static_assert(sizeof(virtq_avail) == 4);

// 2.7.8 The Virtqueue Used Ring.
inline constexpr uint16_t VIRTQ_USED_F_NO_NOTIFY = 1;

struct virtq_used_elem {
  uint32_t id;
  uint32_t len;
};
static_assert(sizeof(virtq_used_elem) == 8);

struct virtq_used {
  uint16_t flags;
  uint16_t idx;
  virtq_used_elem ring[];  // [size], then avail_event with VIRTIO_F_EVENT_IDX
};
static_assert(sizeof(virtq_used) == 4 && offsetof(virtq_used, ring) == 4);

/// 2.7: alignment and size in bytes of the three parts, for a queue of `size` entries; the event
/// fields are always counted in.
inline constexpr size_t kDescAlign = 16;
inline constexpr size_t kAvailAlign = 2;
inline constexpr size_t kUsedAlign = 4;
inline constexpr uint32_t kMaxSplitQueueSize = 32768;
constexpr size_t desc_bytes(uint32_t size) { return size_t{16} * size; }
constexpr size_t avail_bytes(uint32_t size) { return 6 + size_t{2} * size; }
constexpr size_t used_bytes(uint32_t size) { return 6 + size_t{8} * size; }

// 2.8.13 The packed descriptor ring: one ring of descriptors, written by both sides in turn.
inline constexpr uint16_t VIRTQ_DESC_F_AVAIL = 1 << 7;
inline constexpr uint16_t VIRTQ_DESC_F_USED = 1 << 15;

struct pvirtq_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t id;
  uint16_t flags;
};
static_assert(sizeof(pvirtq_desc) == 16 && offsetof(pvirtq_desc, flags) == 14);

// 2.8.14 Event suppression: the driver's structure tells the device when to interrupt, the
// device's tells the driver when to kick.
inline constexpr uint16_t RING_EVENT_FLAGS_ENABLE = 0;
inline constexpr uint16_t RING_EVENT_FLAGS_DISABLE = 1;
inline constexpr uint16_t RING_EVENT_FLAGS_DESC = 2;  // at a descriptor; with EVENT_IDX only

struct pvirtq_event_suppress {
  uint16_t desc;   // bits 0-14: offset in the ring; bit 15: the wrap counter there
  uint16_t flags;  // bits 0-1: RING_EVENT_FLAGS_...
};
static_assert(sizeof(pvirtq_event_suppress) == 4);

/// 2.8: alignment of the three parts of a packed queue, and its largest size, which need not be a
/// power of two.
inline constexpr size_t kPackedDescAlign = 16;
inline constexpr size_t kPackedEventAlign = 4;
inline constexpr uint32_t kMaxPackedQueueSize = 32768;
constexpr size_t packed_desc_bytes(uint32_t size) { return size_t{16} * size; }

/// 2.7.10: whether moving an index from `old_idx` to `new_idx` passed `event_idx`.
constexpr bool vring_need_event(uint16_t event_idx, uint16_t new_idx, uint16_t old_idx) {
  return static_cast<uint16_t>(new_idx - event_idx - 1) < static_cast<uint16_t>(new_idx - old_idx);
}

}  // namespace pollux::spec
