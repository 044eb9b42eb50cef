// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "pollux/base/queue_counters.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/net_driver_config.hpp"
#include "pollux/virtio/net_header.hpp"
#include "pollux/virtio/net_offload.hpp"

namespace pollux::virtio {

/// The driver side of a network device's receiveq (VIRTIO 1.3, 5.1.6.3 and 5.1.6.4): posts buffers
/// of the pool and takes the frames that the device put there.
///
///     |<- head room ->|<----- buffer_size ----->|       one pool buffer
///           | header  | frame ...               |       what the device is told
///
/// A frame that fits into a packet's private head is copied there, and its buffer is posted again
/// at once; of a longer one the first bytes are copied and the rest stays in the buffer as an owned
/// tail. Whatever the device wrote is checked in private copies. `Ring` is a driver ring of either
/// format. One thread at a time; everything is noexcept and bounded by the ring's size.
template <typename Ring>
class NetDriverRx {
 public:
  /// The pool, whose region config.window is, outlives the queue, which must be stopped before it
  /// dies.
  NetDriverRx(Ring ring, Pool& pool, const NetDriverConfig& config)
      : ring_(std::move(ring)),
        pool_(&pool),
        config_(config),
        hdr_size_(static_cast<uint32_t>(spec::net_hdr_size(config.features))),
        each_(config.separate_header() ? 2 : 1),
        reserve_(ring_.size() - std::min(ring_.size(), each_ * config.max_buffers)),
        refill_at_(std::clamp((ring_.size() - reserve_) / each_ / 4, uint32_t{1}, kBatch)),
        mergeable_(config.has(spec::VIRTIO_NET_F_MRG_RXBUF)),
        posted_(std::make_unique<BufferIndex[]>(ring_.size())) {}

  [[nodiscard]] const Ring& ring() const noexcept { return ring_; }

  /// Posts as many buffers as ring and pool have. True when the device wants to be notified.
  [[nodiscard]] bool fill(PoolCache& cache) noexcept {
    refill(cache, 1);
    return ring_.publish();
  }

  /// Appends up to burst.room() frames, and posts fresh buffers for those taken. What is no frame
  /// is dropped under its reason. The burst's cache is one of the queue's pool. True when the
  /// device wants to be notified.
  [[nodiscard]] bool poll(Burst& burst, QueueCounters& counters) noexcept {
    if (&burst.cache().pool() != pool_) return false;
    fetch();
    if (begin_ != end_ || skip_ != 0) take(burst, counters);
    refill(burst.cache(), refill_at_);
    return ring_.publish();
  }

  /// Asks the device to interrupt at the next frame; true when there are frames already.
  [[nodiscard]] bool arm() noexcept {
    return begin_ != end_ || skip_ != 0 || ring_.arm_interrupts();
  }
  /// We poll again.
  void disarm() noexcept { ring_.suppress_interrupts(); }

  /// Gives every buffer back to the pool. The device must be gone.
  void stop(PoolCache& cache) noexcept {
    ring_.drain([&](uint16_t id) { cache.release_buffer(posted_[id]); });
    for (; begin_ != end_; ++begin_) cache.release_buffer(fetched_[begin_].buffer);
    for (; spare_begin_ != spare_end_; ++spare_begin_) {
      cache.release_buffer(spare_[spare_begin_ % kSpare]);
    }
  }

 private:
  static constexpr uint32_t kBatch = 32;
  static constexpr size_t kFetch = 64;     // more than the buffers of any frame that fits a packet
  static constexpr uint32_t kSpare = 128;  // a power of two
  static constexpr uint32_t kMinFrame = 14;

  /// A buffer that the device returned and that was not looked at yet.
  struct Fetched {
    std::byte* data;  // where a frame starts, behind its header
    BufferIndex buffer;
    uint32_t len;  // header included in a frame's first buffer
  };

  [[nodiscard]] std::byte* start(BufferIndex buffer) const noexcept {
    return pool_->buffer_data(buffer) - hdr_size_;
  }

  /// Stage 1: used entries into buffers, whose first lines are then on their way.
  void fetch() noexcept {
    if (begin_ != 0) {
      std::copy(fetched_.begin() + begin_, fetched_.begin() + end_, fetched_.begin());
      end_ -= begin_;
      begin_ = 0;
    }
    std::array<ring::UsedChain, kFetch> used;
    const size_t count = ring_.poll_used(used.data(), kFetch - end_);
    for (size_t i = 0; i < count; ++i) {
      const BufferIndex buffer = posted_[used[i].id];
      std::byte* data = pool_->buffer_data(buffer);
      fetched_[end_ + i] = {data, buffer, used[i].len};
      ring_.access().prefetch_read(data - hdr_size_);
      ring_.access().prefetch_read(data);
    }
    end_ += count;
  }

  /// Stage 2: buffers into packets.
  void take(Burst& burst, QueueCounters& counters) noexcept {
    std::array<Packet*, Burst::kCapacity> packets;
    const size_t got =
        burst.cache().allocate(packets.data(), std::min(burst.room(), size_t{end_ - begin_}));
    size_t taken = 0;
    uint64_t bytes = 0;
    while (skip(burst.cache()) && taken < got) {
      Packet& packet = *packets[taken];
      const uint32_t size = take_plain(packet, burst.cache());
      if (size != 0 || take_any(packet, burst.cache(), counters)) [[likely]] {
        burst.push(&packet);
        bytes += packet.size();
        ++taken;
      } else if (stalled_) {
        break;
      }
    }
    const size_t count = taken;
    for (; taken < got; ++taken) burst.cache().release(packets[taken]);
    counters.packets.add(count);
    counters.bytes.add(bytes);
  }

  /// The common frame: in one buffer, with an empty header. Its size, or 0 when it is none.
  uint32_t take_plain(Packet& packet, PoolCache& cache) noexcept {
    const Fetched from = fetched_[begin_];
    const uint32_t size = from.len - hdr_size_;
    if (from.len < hdr_size_ + kMinFrame || size > Packet::kMaxLength) return 0;
    const spec::virtio_net_hdr hdr = read_header(from.data);
    if ((hdr.flags | hdr.gso_type) != 0 || (mergeable_ && hdr.num_buffers != 1)) return 0;
    ++begin_;
    take_single(packet, from, size, cache);
    return size;
  }

  /// Any other frame, or what claims to be one. False when the packet is still unused; with
  /// stalled_ when there is nothing more to take now.
  bool take_any(Packet& packet, PoolCache& cache, QueueCounters& counters) noexcept {
    spec::virtio_net_hdr hdr{};
    const uint32_t buffers = frame_buffers(hdr, counters);
    stalled_ = buffers == 0;
    if (stalled_ || buffers > kFetch) return false;  // what is too long is skipped
    DropReason reason{};
    if (accept(packet, hdr, buffers, cache, reason)) return true;
    counters.drops.add(reason);
    cache.release_tail(packet);
    packet.reset();
    return false;
  }

  /// Drops the rest of a frame that no packet can hold. False when nothing is left after that.
  bool skip(PoolCache& cache) noexcept {
    for (; skip_ != 0 && begin_ != end_; --skip_) keep(fetched_[begin_++].buffer, cache);
    return begin_ != end_;
  }

  /// A copy that does not change any more; whole words, which may reach into the frame.
  spec::virtio_net_hdr read_header(const std::byte* data) const noexcept {
    using Words = std::array<uint64_t, 2>;
    static_assert(sizeof(Words) >= spec::kNetHdrSize);
    const auto words = ring_.access().template snapshot<Words>(data - hdr_size_);
    spec::virtio_net_hdr hdr;
    std::memcpy(&hdr, words.data(), sizeof hdr);
    return hdr;
  }

  /// Reads the next frame's header, and tells over how many buffers it is spread; 0 when they are
  /// not all there yet, or when the ring was broken.
  uint32_t frame_buffers(spec::virtio_net_hdr& hdr, QueueCounters& counters) noexcept {
    hdr = read_header(fetched_[begin_].data);
    // 2.7.8.2: nothing beyond the used length means anything; accept() drops such a frame.
    if (!mergeable_ || fetched_[begin_].len < hdr_size_) return 1;
    const uint32_t buffers = hdr.num_buffers;
    if (buffers == 1) [[likely]]
      return 1;
    if (buffers == 0 || buffers > ring_.size()) {
      ring_.fail(ring::RingError::num_buffers);
      return 0;
    }
    if (buffers > kFetch) {
      counters.drops.add(DropReason::too_long);
      skip_ = buffers;
      return buffers;
    }
    if (buffers > end_ - begin_) fetch();
    return buffers <= end_ - begin_ ? buffers : 0;
  }

  /// Makes a packet of the next `buffers` buffers, which are taken in any case.
  bool accept(Packet& packet, const spec::virtio_net_hdr& hdr, uint32_t buffers, PoolCache& cache,
              DropReason& reason) noexcept {
    const size_t first = begin_;
    begin_ += buffers;
    uint64_t total = 0;
    for (size_t i = first; i < begin_; ++i) total += fetched_[i].len;
    if (!fits(fetched_[first].len, total, reason)) {
      for (size_t i = first; i < begin_; ++i) keep(fetched_[i].buffer, cache);
      return false;
    }
    const auto size = static_cast<uint32_t>(total - hdr_size_);
    if (buffers == 1) [[likely]] {
      take_single(packet, fetched_[first], size, cache);
    } else if (!take_merged(packet, first, size, cache)) {
      reason = DropReason::too_long;
      return false;
    }
    return set_offloads(packet, hdr, reason);
  }

  bool fits(uint32_t first_len, uint64_t total, DropReason& reason) const noexcept {
    if (first_len < hdr_size_) {
      reason = DropReason::bad_net_header;
    } else if (total - hdr_size_ < kMinFrame) {
      reason = DropReason::runt;
    } else if (total - hdr_size_ > Packet::kMaxLength) {
      reason = DropReason::too_long;
    } else {
      return true;
    }
    return false;
  }

  void take_single(Packet& packet, const Fetched& from, uint32_t size, PoolCache& cache) noexcept {
    if (size <= Packet::kHeadCapacity) {
      ring_.access().copy_in(packet.head(), from.data, size);
      packet.set_head_size(size);
      keep(from.buffer, cache);
      return;
    }
    ring_.access().copy_in(packet.head(), from.data, Packet::kHeadCopy);
    packet.set_head_size(Packet::kHeadCopy);
    const auto head = static_cast<uint32_t>(Packet::kHeadCopy);
    packet.append({from.data + head, size - head, from.buffer});
  }

  /// A frame spread over several buffers: the head is collected from as many as it takes. False
  /// when there are more pieces than a packet has segments.
  bool take_merged(Packet& packet, size_t first, uint32_t size, PoolCache& cache) noexcept {
    const auto head =
        static_cast<uint32_t>(size <= Packet::kHeadCapacity ? size : Packet::kHeadCopy);
    uint32_t done = 0;
    bool whole = true;
    for (size_t i = first; i < begin_; ++i) {
      const BufferIndex buffer = fetched_[i].buffer;
      // Only a frame's first buffer begins with a header.
      std::byte* data = fetched_[i].data - (i == first ? 0 : hdr_size_);
      const uint32_t bytes = fetched_[i].len - (i == first ? hdr_size_ : 0);
      const uint32_t to_head = std::min(bytes, head - done);
      ring_.access().copy_in(packet.head() + done, data, to_head);
      done += to_head;
      whole = whole && (bytes == to_head || !packet.segments_full());
      if (bytes == to_head || !whole) {
        keep(buffer, cache);
      } else {
        packet.append({data + to_head, bytes - to_head, buffer});
      }
    }
    packet.set_head_size(head);
    return whole;
  }

  bool set_offloads(Packet& packet, const spec::virtio_net_hdr& hdr, DropReason& reason) noexcept {
    if ((hdr.flags | hdr.gso_type) == 0) [[likely]]
      return true;
    if (is_plain(hdr)) {
      // 5.1.6.4: the device's word, which only means something when it was asked for.
      packet.meta.csum_valid = config_.has(spec::VIRTIO_NET_F_GUEST_CSUM) &&
                               (hdr.flags & spec::VIRTIO_NET_HDR_F_DATA_VALID) != 0;
      return true;
    }
    if (agreed_to(hdr) && apply_offload(packet, hdr)) return true;
    reason = DropReason::bad_net_header;
    return false;
  }

  /// Whether the driver negotiated what the header asks of it (5.1.6.4).
  bool agreed_to(const spec::virtio_net_hdr& hdr) const noexcept {
    switch (hdr.gso_type & ~spec::VIRTIO_NET_HDR_GSO_ECN) {
      case spec::VIRTIO_NET_HDR_GSO_NONE:
        return config_.has(spec::VIRTIO_NET_F_GUEST_CSUM);
      case spec::VIRTIO_NET_HDR_GSO_TCPV4:
        return config_.has(spec::VIRTIO_NET_F_GUEST_TSO4);
      case spec::VIRTIO_NET_HDR_GSO_TCPV6:
        return config_.has(spec::VIRTIO_NET_F_GUEST_TSO6);
      case spec::VIRTIO_NET_HDR_GSO_UDP:
        return config_.has(spec::VIRTIO_NET_F_GUEST_UFO);
      case spec::VIRTIO_NET_HDR_GSO_UDP_L4:
        return config_.has(spec::VIRTIO_NET_F_GUEST_USO4) ||
               config_.has(spec::VIRTIO_NET_F_GUEST_USO6);
      default:
        return false;
    }
  }

  /// Keeps a buffer for posting it again. First in, first out: when the device returns buffers in
  /// order, each goes back to the descriptor that it came from.
  void keep(BufferIndex buffer, PoolCache& cache) noexcept {
    if (spare_end_ - spare_begin_ == kSpare) {
      cache.release_buffer(buffer);
    } else {
      spare_[spare_end_++ % kSpare] = buffer;
    }
  }

  /// Stage 3: posts buffers, if there is room for at least `least`.
  void refill(PoolCache& cache, uint32_t least) noexcept {
    const uint32_t free = ring_.free_descriptors();
    uint32_t room = free > reserve_ ? (free - reserve_) / each_ : 0;
    if (room < least) return;
    while (room != 0 && !ring_.broken()) {
      std::array<BufferIndex, kBatch> buffers;
      const uint32_t wanted = std::min(room, kBatch);
      const uint32_t count = get_buffers(buffers.data(), wanted, cache);
      post(buffers.data(), count);
      if (count < wanted) return;
      room -= count;
    }
  }

  uint32_t get_buffers(BufferIndex* out, uint32_t count, PoolCache& cache) noexcept {
    const uint32_t n = std::min(count, spare_end_ - spare_begin_);
    for (uint32_t i = 0; i < n; ++i) out[i] = spare_[(spare_begin_ + i) % kSpare];
    spare_begin_ += n;
    if (n == count) return n;
    return n + static_cast<uint32_t>(cache.allocate_buffers(out + n, count - n));
  }

  void post(const BufferIndex* buffers, uint32_t count) noexcept {
    if (each_ == 2) return post_separately(buffers, count);
    const uint32_t len = hdr_size_ + pool_->buffer_size();
    const Pool& pool = *pool_;
    const virtio::SharedWindow window = config_.window;
    const uint32_t before = hdr_size_;
    BufferIndex* const posted = posted_.get();
    ring_.add_writable(count, [=, &pool](size_t i, uint16_t id) {
      posted[id] = buffers[i];
      return ring::DriverBuffer{window.device_addr(pool.buffer_data(buffers[i]) - before), len};
    });
  }

  /// 5.1.6.6: legacy devices want the header in a descriptor of its own.
  void post_separately(const BufferIndex* buffers, uint32_t count) noexcept {
    for (uint32_t i = 0; i < count; ++i) {
      const uint64_t addr = config_.window.device_addr(start(buffers[i]));
      const std::array in{ring::DriverBuffer{addr, hdr_size_},
                          ring::DriverBuffer{addr + hdr_size_, pool_->buffer_size()}};
      posted_[ring_.add({}, in)] = buffers[i];
    }
  }

  Ring ring_;
  Pool* pool_;
  NetDriverConfig config_;
  uint32_t hdr_size_;
  uint32_t each_;       // descriptors of a posted buffer
  uint32_t reserve_;    // descriptors that stay free because of max_buffers
  uint32_t refill_at_;  // so many buffers missing are worth posting
  bool mergeable_;
  bool stalled_ = false;  // take_any met the end of what is there
  uint32_t skip_ = 0;     // buffers still to be dropped of a frame that is too long
  size_t begin_ = 0;      // fetched_[begin_, end_)
  size_t end_ = 0;
  uint32_t spare_begin_ = 0;  // free-running
  uint32_t spare_end_ = 0;
  std::unique_ptr<BufferIndex[]> posted_;  // by chain id
  std::array<Fetched, kFetch> fetched_;
  std::array<BufferIndex, kSpare> spare_;
};

}  // namespace pollux::virtio
