// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "pollux/base/queue_counters.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/ring/device_chain.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/net_header.hpp"
#include "pollux/virtio/net_offload.hpp"

namespace pollux::virtio {

/// The device side of a network device's transmitq (VIRTIO 1.3, 5.1.6.2): takes the frames that
/// the driver sends. Into the switch, hence rx.
///
/// A frame's first bytes are copied once into the packet's private head, where they are checked;
/// the rest stays in the driver's memory as a borrowed tail until `complete`. `Ring` is a device
/// ring of either format. One thread at a time.
template <typename Ring>
class NetDeviceRx {
 public:
  /// `features`: what was negotiated; decides the header's size.
  NetDeviceRx(Ring ring, uint64_t features)
      : ring_(std::move(ring)), hdr_size_(static_cast<uint32_t>(spec::net_hdr_size(features))) {}

  [[nodiscard]] Ring& ring() noexcept { return ring_; }
  [[nodiscard]] const Ring& ring() const noexcept { return ring_; }

  /// Appends up to burst.room() frames. Each chain taken is counted as a packet; one that is no
  /// valid frame is dropped under its reason, and returned like the others.
  void poll(Burst& burst, QueueCounters& counters) noexcept {
    const size_t count =
        std::min<size_t>(ring_.available(kMaxPoll), std::min(burst.room(), kMaxPoll));
    if (count == 0) return;
    ring_.view().refresh();
    Staged staged;
    const size_t taken = burst.cache().allocate(staged.packets.data(), count);
    const size_t heads = read_heads(staged, taken);
    const size_t ready = read_descriptors(staged, heads);
    uint64_t bytes = 0;
    for (size_t i = 0; i < ready; ++i) bytes += accept(staged, i, burst, counters);
    for (size_t i = ready; i < taken; ++i) burst.cache().release(staged.packets[i]);
    ring_.take(static_cast<uint32_t>(ready));
    counters.packets.add(ready);
    counters.bytes.add(bytes);
  }

  /// Returns everything polled to the driver; true when it wants to be notified.
  [[nodiscard]] bool complete() noexcept { return ring_.unpublished() && ring_.publish(); }

  /// Asks the driver to notify us of the next frame; true when there are frames already.
  [[nodiscard]] bool arm() noexcept { return ring_.request_notifications(); }
  /// We poll again.
  void disarm() noexcept { ring_.suppress_notifications(); }

 private:
  /// As many frames as their first cache lines can be on their way at once.
  static constexpr size_t kMaxPoll = 32;

  /// What a first walk found out about a chain.
  struct ChainShape {
    uint64_t bytes;
    uint32_t pieces;
    ring::ChainStatus status;
  };

  struct Staged {
    std::array<Packet*, kMaxPoll> packets;
    std::array<uint16_t, kMaxPoll> heads;
    std::array<Translation, kMaxPoll> single;  // size 0: the chain is of several pieces
    std::array<ChainShape, kMaxPoll> shape;    // only of those
  };

  /// Stage 1: the heads, and the descriptors on their way. Returns how many are good.
  size_t read_heads(Staged& staged, size_t count) noexcept {
    for (size_t i = 0; i < count; ++i) {
      if (!ring_.head(static_cast<uint32_t>(i), staged.heads[i])) return i;
      ring_.prefetch_desc(staged.heads[i]);
    }
    return count;
  }

  /// Stage 2: the descriptors, and the first bytes of the frames on their way. Returns how many
  /// chains can be taken: all before one whose address is not known yet.
  size_t read_descriptors(Staged& staged, size_t count) noexcept {
    for (size_t i = 0; i < count; ++i) {
      Translation& at = staged.single[i];
      if (ring_.single(staged.heads[i], MemoryAccess::kRead, at)) [[likely]] {
        ring_.access().prefetch_read(at.data);
        ring_.access().prefetch_read(at.data + std::min<uint64_t>(at.size - 1, 64));
        continue;
      }
      at.size = 0;
      staged.shape[i] = measure(staged.heads[i]);
      if (staged.shape[i].status == ring::ChainStatus::kMiss) {
        ask_for_the_rest(staged, i + 1, count);
        return i;
      }
    }
    return count;
  }

  /// Behind an IOMMU: looks at the chains behind one that has to wait, so that all that is missing
  /// is asked for at once.
  void ask_for_the_rest(const Staged& staged, size_t from, size_t count) noexcept {
    for (size_t i = from; i < count; ++i) {
      Translation at;
      if (!ring_.single(staged.heads[i], MemoryAccess::kRead, at)) (void)measure(staged.heads[i]);
    }
  }

  /// Stage 3: the frame into its packet and the packet into the burst, or dropped. Returns its
  /// length.
  uint32_t accept(Staged& staged, size_t i, Burst& burst, QueueCounters& counters) noexcept {
    Packet& packet = *staged.packets[i];
    spec::virtio_net_hdr hdr{};
    const Translation& at = staged.single[i];
    DropReason reason{};
    const bool good = at.size != 0 ? take_single(packet, hdr, at, reason)
                                   : take_chain(packet, hdr, staged, i, burst.cache(), reason);
    ring_.put_used(staged.heads[i], 0);
    const uint32_t size = packet.size();
    if (good && set_offloads(packet, hdr, reason)) [[likely]] {
      burst.push(&packet);
      return size;
    }
    counters.drops.add(reason);
    burst.cache().release(&packet);
    return size;
  }

  /// One contiguous run of bytes: header, then frame.
  bool take_single(Packet& packet, spec::virtio_net_hdr& hdr, const Translation& at,
                   DropReason& reason) noexcept {
    const auto total = static_cast<uint32_t>(std::min<uint64_t>(at.size, UINT32_MAX));
    if (!fits(total, reason)) return false;
    if (hdr_size_ == spec::kNetHdrSize) [[likely]] {
      ring_.access().copy_in(&hdr, at.data, spec::kNetHdrSize);
    } else {
      ring_.access().copy_in(&hdr, at.data, std::min<size_t>(hdr_size_, spec::kNetHdrSize));
    }
    const std::byte* frame = at.data + hdr_size_;
    const uint32_t size = total - hdr_size_;
    if (size <= Packet::kHeadCapacity) {
      ring_.access().copy_in(packet.head(), frame, size);
      packet.set_head_size(size);
      return true;
    }
    ring_.access().copy_in(packet.head(), frame, Packet::kHeadCopy);
    packet.set_head_size(Packet::kHeadCopy);
    packet.append({at.data + hdr_size_ + Packet::kHeadCopy,
                   size - static_cast<uint32_t>(Packet::kHeadCopy), kBorrowed});
    return true;
  }

  /// Walks a chain to see how long it is and in how many pieces; touches no frame.
  ChainShape measure(uint16_t head) noexcept {
    ChainShape shape{0, 0, ring::ChainStatus::kOk};
    shape.status = ring_.walk(head, MemoryAccess::kRead, [&](std::byte*, uint32_t len) {
      shape.bytes += len;
      ++shape.pieces;
      return shape.bytes <= hdr_size_ + Packet::kMaxLength;
    });
    return shape;
  }

  /// Any other chain: header and head are collected over as many pieces as they are split into.
  bool take_chain(Packet& packet, spec::virtio_net_hdr& hdr, const Staged& staged, size_t i,
                  PoolCache& cache, DropReason& reason) noexcept {
    const ChainShape& shape = staged.shape[i];
    if (shape.status != ring::ChainStatus::kOk) {
      reason = reason_of(shape.status);
      return false;
    }
    if (!fits(shape.bytes, reason)) return false;
    // The second walk reads the descriptors anew, and a hostile driver may have changed them: it
    // trusts nothing of the first but its own bounds.
    Collector collector{*this, packet, {}, static_cast<uint32_t>(shape.bytes) - hdr_size_};
    if (shape.pieces > Packet::kMaxSegments && !collector.own(cache)) {
      reason = DropReason::no_buffers;
      return false;
    }
    const ring::ChainStatus again =
        ring_.walk(staged.heads[i], MemoryAccess::kRead,
                   [&](std::byte* data, uint32_t len) { return collector.add(data, len); });
    hdr = collector.hdr.hdr;
    if (again == ring::ChainStatus::kOk && collector.whole()) return true;
    reason = DropReason::bad_descriptor;
    return false;
  }

  bool fits(uint64_t total, DropReason& reason) const noexcept {
    if (total < hdr_size_) {
      reason = DropReason::bad_net_header;
      return false;
    }
    if (total - hdr_size_ < kMinFrame) {
      reason = DropReason::runt;
      return false;
    }
    if (total - hdr_size_ > Packet::kMaxLength) {
      reason = DropReason::too_long;
      return false;
    }
    return true;
  }

  static DropReason reason_of(ring::ChainStatus status) noexcept {
    switch (status) {
      case ring::ChainStatus::kBadAddress:
      case ring::ChainStatus::kMiss:
        return DropReason::bad_address;
      case ring::ChainStatus::kStopped:
        return DropReason::too_long;
      case ring::ChainStatus::kBadDescriptor:
      case ring::ChainStatus::kOk:
        break;
    }
    return DropReason::bad_descriptor;
  }

  bool set_offloads(Packet& packet, const spec::virtio_net_hdr& hdr, DropReason& reason) noexcept {
    // DATA_VALID is not a driver's to set (5.1.6.2.1), so a guest's word for it counts nothing.
    if (is_plain(hdr)) [[likely]]
      return true;
    if (apply_offload(packet, hdr)) return true;
    reason = DropReason::bad_net_header;
    return false;
  }

  static constexpr uint32_t kMinFrame = 14;

  /// Puts the pieces of a chain where they belong: net header, private head, tail.
  struct Collector {
    NetDeviceRx& rx;
    Packet& packet;
    spec::virtio_net_hdr_v1_hash hdr;  // as much of it as was negotiated
    uint32_t frame_size;
    uint32_t hdr_done = 0;
    uint32_t head_done = 0;
    uint32_t tail_done = 0;
    bool owned = false;

    uint32_t head_size() const noexcept {
      return frame_size <= Packet::kHeadCapacity ? frame_size
                                                 : static_cast<uint32_t>(Packet::kHeadCopy);
    }

    /// Reserves buffers for the tail: there are more pieces than a packet has segments.
    bool own(PoolCache& cache) noexcept {
      owned = true;
      return cache.append_room(packet, frame_size - head_size());
    }

    bool add(std::byte* data, uint32_t len) noexcept {
      auto& access = rx.ring_.access();
      const auto copy = [&](void* to, uint32_t want) {
        const uint32_t n = std::min(len, want);
        access.copy_in(to, data, n);
        data += n;
        len -= n;
        return n;
      };
      if (hdr_done < rx.hdr_size_) {
        hdr_done += copy(reinterpret_cast<std::byte*>(&hdr) + hdr_done, rx.hdr_size_ - hdr_done);
      }
      if (head_done < head_size() && len != 0) {
        head_done += copy(packet.head() + head_done, head_size() - head_done);
        packet.set_head_size(head_done);
      }
      if (len == 0) return true;
      if (len > frame_size - head_size() - tail_done) return false;
      if (!owned) {
        if (packet.segments_full()) return false;
        packet.append({data, len, kBorrowed});
        tail_done += len;
        return true;
      }
      while (len != 0) tail_done += copy(owned_at(tail_done), owned_room(tail_done));
      return true;
    }

    bool whole() const noexcept { return head_done + tail_done == frame_size; }

    std::byte* owned_at(uint32_t offset) const noexcept {
      const Segment* segment = packet.tail().data();
      for (; offset >= segment->len; ++segment) offset -= segment->len;
      return segment->data + offset;
    }
    uint32_t owned_room(uint32_t offset) const noexcept {
      const Segment* segment = packet.tail().data();
      for (; offset >= segment->len; ++segment) offset -= segment->len;
      return segment->len - offset;
    }
  };

  Ring ring_;
  uint32_t hdr_size_;
};

}  // namespace pollux::virtio
