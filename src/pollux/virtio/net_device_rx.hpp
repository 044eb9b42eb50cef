// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "pollux/base/queue_counters.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/ring/device_chain.hpp"
#include "pollux/ring/ring_error.hpp"
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
    const uint32_t heads = ring_.heads(0, static_cast<uint32_t>(count), staged.heads.data());
    const auto taken = static_cast<uint32_t>(burst.cache().allocate(staged.packets.data(), heads));
    uint32_t ready = taken;
    if (!ring_.singles(staged.heads.data(), taken, MemoryAccess::kRead, staged.single.data()))
        [[unlikely]] {
      ready = measure_others(staged, taken);
      for (uint32_t i = ready; i < taken; ++i) burst.cache().release(staged.packets[i]);
    }
    accept(staged, ready, burst, counters);
    ring_.put_used(staged.heads.data(), kNothingWritten.data(), ready);
    ring_.take(ready);
  }

  /// True when there is no frame, and nothing polled that was not returned. A broken ring is not
  /// idle: poll() is to find out.
  [[nodiscard]] bool idle() noexcept {
    return ring_.available(1) == 0 && !ring_.unpublished() &&
           ring_.error() == ring::RingError::none;
  }

  /// Returns everything polled to the driver; true when it wants to be notified.
  [[nodiscard]] bool complete() noexcept { return ring_.publish(); }
  /// The same in two steps, with a full fence between them: see SplitDeviceRing::show.
  [[nodiscard]] bool show() noexcept { return ring_.show(ring_.filled()); }
  [[nodiscard]] bool notification_wanted() noexcept { return ring_.notification_wanted(); }

  /// Asks the driver to notify us of the next frame; true when there are frames already.
  [[nodiscard]] bool arm() noexcept { return ring_.request_notifications(); }
  /// We poll again.
  void disarm() noexcept { ring_.suppress_notifications(); }

 private:
  /// As many frames as their first cache lines can be on their way at once.
  static constexpr size_t kMaxPoll = 32;
  static constexpr uint32_t kMinFrame = 14;
  static constexpr std::array<uint32_t, kMaxPoll> kNothingWritten{};

  /// What a first walk found out about a chain.
  struct ChainShape {
    uint64_t bytes;
    uint32_t pieces;
    ring::ChainStatus status;
  };

  struct Staged {
    std::array<Packet*, kMaxPoll> packets;
    std::array<uint16_t, kMaxPoll> heads;
    std::array<ring::SingleRun, kMaxPoll> single;  // size 0: the chain is of several pieces
    std::array<ChainShape, kMaxPoll> shape;        // only of those
  };

  /// Looks at the chains that are of several pieces. Returns how many chains can be taken: all
  /// before one whose address is not known yet.
  [[gnu::noinline]] uint32_t measure_others(Staged& staged, uint32_t count) noexcept {
    for (uint32_t i = 0; i < count; ++i) {
      if (staged.single[i].size != 0) continue;
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
  void ask_for_the_rest(const Staged& staged, uint32_t from, uint32_t count) noexcept {
    for (uint32_t i = from; i < count; ++i) {
      if (staged.single[i].size == 0) (void)measure(staged.heads[i]);
    }
  }

  /// The frames into their packets and the packets into the burst, or dropped.
  void accept(Staged& staged, uint32_t count, Burst& burst, QueueCounters& counters) noexcept {
    uint64_t bytes = 0;
    uint32_t good = 0;
    const uint32_t hdr_size = hdr_size_;
    for (uint32_t i = 0; i < count; ++i) {
      Packet& packet = *staged.packets[i];
      const bool taken = take_plain(packet, staged.single[i], hdr_size) ||
                         take_any(packet, staged, i, burst.cache(), counters);
      bytes += packet.size();
      if (taken) [[likely]] {
        staged.packets[good++] = &packet;
      } else {
        burst.cache().release(&packet);
      }
    }
    burst.append({staged.packets.data(), good});
    counters.packets.add(count);
    counters.bytes.add(bytes);
  }

  /// The common frame: one run of bytes and no offload. False when it is any other, and the packet
  /// then still empty.
  bool take_plain(Packet& packet, const ring::SingleRun at, uint32_t hdr_size) noexcept {
    const uint32_t size = at.size - hdr_size;
    if (size - kMinFrame > Packet::kMaxLength - kMinFrame) return false;
    // Whole words, which reach into the frame.
    using Words = std::array<uint64_t, 2>;
    static_assert(sizeof(Words) >= spec::kNetHdrSize &&
                  sizeof(Words) <= spec::kLegacyNetHdrSize + kMinFrame);
    const auto words = ring_.access().template snapshot<Words>(at.data);
    spec::virtio_net_hdr hdr;
    std::memcpy(&hdr, words.data(), sizeof hdr);
    if (!is_plain(hdr)) return false;
    take_frame(packet, at.data + hdr_size, size);
    return true;
  }

  void take_frame(Packet& packet, std::byte* frame, uint32_t size) noexcept {
    if (size <= Packet::kHeadCapacity) {
      ring_.access().copy_in(packet.head(), frame, size);
      packet.set_head_size(size);
      return;
    }
    constexpr auto kHead = static_cast<uint32_t>(Packet::kHeadCopy);
    ring_.access().copy_in(packet.head(), frame, kHead);
    packet.set_head_size(kHead);
    packet.append({frame + kHead, size - kHead, kBorrowed});
  }

  /// Any other. False when it was dropped, and the packet is to be released.
  [[gnu::noinline]] bool take_any(Packet& packet, const Staged& staged, uint32_t i,
                                  PoolCache& cache, QueueCounters& counters) noexcept {
    spec::virtio_net_hdr hdr{};
    const ring::SingleRun& at = staged.single[i];
    DropReason reason{};
    const bool good = at.size != 0 ? take_single(packet, hdr, at, reason)
                                   : take_chain(packet, hdr, staged, i, cache, reason);
    if (good && set_offloads(packet, hdr, reason)) return true;
    counters.drops.add(reason);
    return false;
  }

  /// One contiguous run of bytes: header, then frame.
  bool take_single(Packet& packet, spec::virtio_net_hdr& hdr, const ring::SingleRun& at,
                   DropReason& reason) noexcept {
    if (!fits(at.size, reason)) return false;
    ring_.access().copy_in(&hdr, at.data, std::min<size_t>(hdr_size_, spec::kNetHdrSize));
    take_frame(packet, at.data + hdr_size_, at.size - hdr_size_);
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
  bool take_chain(Packet& packet, spec::virtio_net_hdr& hdr, const Staged& staged, uint32_t i,
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
