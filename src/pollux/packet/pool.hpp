// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "pollux/base/result.hpp"
#include "pollux/mem/shared_region.hpp"
#include "pollux/packet/free_list.hpp"
#include "pollux/packet/packet.hpp"

namespace pollux {

struct PoolConfig {
  std::string name = "pollux-pool";
  uint32_t packets = 16384;
  uint32_t buffers = 16384;
  /// Bytes of payload a buffer holds after its head room; 2048 holds any frame of 1500 MTU.
  uint32_t buffer_size = 2048;
  HugePages pages = HugePages::kTry;
};

/// All packets and buffers of one program. Packets are private memory; buffers lie in one region
/// behind one descriptor, which can be shared with a peer whole. Threads use it through a
/// PoolCache each. Must outlive its caches, bursts and packets.
class Pool {
 public:
  /// Spare bytes before each buffer's data: the packet's head and a virtio-net header can be put
  /// back before a tail, so that a driver queue sends both as one descriptor.
  static constexpr uint32_t kBufferHeadRoom = 256;

  [[nodiscard]] static Result<std::unique_ptr<Pool>> create(const PoolConfig& config);

  /// First payload byte of a buffer; kBufferHeadRoom bytes before it are the buffer's too.
  [[nodiscard]] std::byte* buffer_data(BufferIndex index) const noexcept {
    return buffers_base_ + size_t{index} * buffer_stride_ + kBufferHeadRoom;
  }
  [[nodiscard]] uint32_t buffer_size() const noexcept { return buffer_size_; }
  [[nodiscard]] uint32_t packet_count() const noexcept { return packet_count_; }
  [[nodiscard]] uint32_t buffer_count() const noexcept { return buffer_count_; }
  [[nodiscard]] const SharedRegion& region() const noexcept { return region_; }

  /// Items that no cache holds; snapshots for statistics and leak tests.
  [[nodiscard]] size_t free_packets() noexcept { return free_packets_.size(); }
  [[nodiscard]] size_t free_buffers() noexcept { return free_buffers_.size(); }

 private:
  friend class PoolCache;
  Pool(const PoolConfig& config, uint32_t stride, SharedRegion region);

  SharedRegion region_;
  uint32_t packet_count_;
  uint32_t buffer_count_;
  uint32_t buffer_size_;
  uint32_t buffer_stride_;
  std::byte* buffers_base_;
  std::unique_ptr<Packet[]> packets_;
  FreeList<Packet*> free_packets_;
  FreeList<BufferIndex> free_buffers_;
};

/// One thread's way into a Pool. Not thread-safe.
class PoolCache {
 public:
  explicit PoolCache(Pool& pool)
      : pool_(&pool), packets_(pool.free_packets_), buffers_(pool.free_buffers_) {}

  [[nodiscard]] Pool& pool() const noexcept { return *pool_; }

  /// An empty packet, or null when the pool is empty.
  [[nodiscard]] Packet* allocate() noexcept {
    Packet* packet = nullptr;
    if (!packets_.get(packet)) return nullptr;
    packet->reset();
    return packet;
  }

  /// Up to `count` empty packets; returns how many.
  [[nodiscard]] size_t allocate(Packet** out, size_t count) noexcept {
    const size_t n = packets_.get_bulk(out, count);
    for (size_t i = 0; i < n; ++i) out[i]->reset();
    return n;
  }

  /// Gives a packet and the buffers that it owns back. A borrowed tail is just forgotten: its
  /// owner learns from RxQueue::complete.
  void release(Packet* packet) noexcept {
    if (packet->tail_to_return()) release_tail(*packet);
    packets_.put(packet);
  }

  [[nodiscard]] bool allocate_buffer(BufferIndex& out) noexcept { return buffers_.get(out); }
  /// Up to `count` buffers (at most 256); returns how many.
  [[nodiscard]] size_t allocate_buffers(BufferIndex* out, size_t count) noexcept {
    return buffers_.get_bulk(out, count);
  }
  void release_buffer(BufferIndex index) noexcept { buffers_.put(index); }

  /// Gives back the buffers of an owned tail, or a lent list, and leaves the packet without tail.
  void release_tail(Packet& packet) noexcept;

  /// Appends `len` bytes of room in fresh buffers to a packet whose tail is empty or owned; the
  /// caller fills it. False, with the packet unchanged, when buffers or segments run out.
  [[nodiscard]] bool append_room(Packet& packet, uint32_t len) noexcept;

  /// Copies a borrowed tail into buffers of the pool, so that the packet may be kept beyond the
  /// worker's turn. False, with the packet unchanged, when buffers run out.
  [[nodiscard]] bool make_owned(Packet& packet) noexcept;

  /// A packet with the same bytes and metadata whose tail is borrowed from `original`, which must
  /// live until the end of the turn. Null when the pool is empty.
  [[nodiscard]] Packet* clone_borrowing(const Packet& original) noexcept;

 private:
  Pool* pool_;
  FreeCache<Packet*> packets_;
  FreeCache<BufferIndex> buffers_;
};

}  // namespace pollux
