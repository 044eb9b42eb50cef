// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "pollux/base/queue_counters.hpp"
#include "pollux/mem/peer_memory.hpp"
#include "pollux/packet/fill.hpp"
#include "tests/support/driver_image.hpp"

namespace pollux::test {

using Bytes = std::vector<std::byte>;

/// Bytes that differ from place to place and from seed to seed.
inline Bytes pattern(size_t size, unsigned seed = 1) {
  Bytes bytes(size);
  uint32_t state = seed * 2654435761U + 1;
  for (std::byte& b : bytes) {
    state = state * 1664525U + 1013904223U;
    b = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

/// The memory of a pretended guest: guarded regions at guest addresses, and a bump allocator in the
/// first of them.
class Guest {
 public:
  static constexpr uint64_t kBase = 0x10000;

  /// One region at kBase.
  explicit Guest(size_t size = 1 << 20) : Guest({{kBase, size}}) {}

  struct Place {
    uint64_t addr;
    size_t size;
  };
  /// `lent`: memory of somebody else that the guest shares too, like its own rings.
  explicit Guest(const std::vector<Place>& places, std::vector<PeerRegion> lent = {})
      : next_(places.front().addr) {
    std::vector<PeerRegion> regions = std::move(lent);
    for (const Place& place : places) {
      memory_.push_back(std::make_unique<GuardedMemory>(place.size));
      regions.push_back({GuestAddr{place.addr}, UserAddr{place.addr}, place.size,
                         memory_.back()->data(), nullptr});
    }
    peer_ = PeerMemory::create(std::move(regions)).value();
  }

  [[nodiscard]] const PeerMemory& memory() const { return *peer_; }
  [[nodiscard]] std::shared_ptr<const PeerMemory> shared_memory() const { return peer_; }
  [[nodiscard]] PeerView view() const { return PeerView(*peer_); }

  /// `size` bytes of the first region that nobody has yet; the address may be odd.
  uint64_t allocate(size_t size) {
    const uint64_t addr = next_;
    next_ += size;
    EXPECT_TRUE(size == 0 || at(next_ - 1) != nullptr) << "the guest's memory is used up";
    return addr;
  }

  /// Where a guest address lies here. It must be the guest's.
  [[nodiscard]] std::byte* at(uint64_t addr) const {
    const PeerRegion* region = peer_->find(GuestAddr{addr});
    return region == nullptr ? nullptr : region->host + (addr - region->guest.value);
  }

  /// Ranges may go on in the next region.
  void write(uint64_t addr, const Bytes& bytes) {
    each_piece(addr, bytes.size(), [&](std::byte* piece, size_t offset, size_t size) {
      std::memcpy(piece, bytes.data() + offset, size);
    });
  }
  [[nodiscard]] Bytes read(uint64_t addr, size_t size) const {
    Bytes bytes(size);
    each_piece(addr, size, [&](const std::byte* piece, size_t offset, size_t part) {
      std::memcpy(bytes.data() + offset, piece, part);
    });
    return bytes;
  }
  uint64_t place(const Bytes& bytes) {
    const uint64_t addr = allocate(bytes.size());
    write(addr, bytes);
    return addr;
  }

  /// Everything that the guest has, to be compared later.
  [[nodiscard]] std::vector<Bytes> snapshot() const {
    std::vector<Bytes> all;
    for (const auto& memory : memory_)
      all.emplace_back(memory->bytes().begin(), memory->bytes().end());
    return all;
  }

 private:
  template <typename Visit>
  void each_piece(uint64_t addr, size_t size, Visit visit) const {
    for (size_t done = 0; done != size;) {
      const PeerRegion* region = peer_->find(GuestAddr{addr + done});
      ASSERT_NE(region, nullptr) << "not the guest's memory";
      const uint64_t offset = addr + done - region->guest.value;
      const size_t part = std::min<size_t>(size - done, region->size - offset);
      visit(region->host + offset, done, part);
      done += part;
    }
  }

  std::vector<std::unique_ptr<GuardedMemory>> memory_;
  std::shared_ptr<const PeerMemory> peer_;
  uint64_t next_;
};

/// A pool whose packets and buffers must all be back when it dies.
class LeakChecked {
 public:
  explicit LeakChecked(uint32_t packets = 256, uint32_t buffers = 256, uint32_t buffer_size = 2048)
      : pool_(std::move(Pool::create({.name = "test",
                                      .packets = packets,
                                      .buffers = buffers,
                                      .buffer_size = buffer_size,
                                      .pages = HugePages::kNever})
                            .value())),
        cache_(std::make_unique<PoolCache>(*pool_)) {}
  LeakChecked(const LeakChecked&) = delete;
  LeakChecked& operator=(const LeakChecked&) = delete;
  ~LeakChecked() {
    for (Packet* packet : hidden_packets_) cache_->release(packet);
    for (const BufferIndex buffer : hidden_buffers_) cache_->release_buffer(buffer);
    cache_.reset();
    EXPECT_EQ(pool_->free_packets(), pool_->packet_count()) << "packets leaked";
    EXPECT_EQ(pool_->free_buffers(), pool_->buffer_count()) << "buffers leaked";
  }

  [[nodiscard]] Pool& pool() { return *pool_; }
  [[nodiscard]] PoolCache& cache() { return *cache_; }

  /// Makes the pool look as if only that much were left in it.
  void leave_packets(size_t count) {
    std::vector<Packet*> kept;
    while (Packet* packet = cache_->allocate()) hidden_packets_.push_back(packet);
    for (size_t i = 0; i < count; ++i) {
      cache_->release(hidden_packets_.back());
      hidden_packets_.pop_back();
    }
  }
  void leave_buffers(size_t count) {
    BufferIndex index{};
    while (cache_->allocate_buffer(index)) hidden_buffers_.push_back(index);
    for (size_t i = 0; i < count; ++i) {
      cache_->release_buffer(hidden_buffers_.back());
      hidden_buffers_.pop_back();
    }
  }

  /// A packet with these bytes, owned by the caller.
  Packet* packet_of(const Bytes& frame) {
    Packet* packet = cache_->allocate();
    if (packet == nullptr || !fill(*packet, *cache_, frame)) std::abort();
    return packet;
  }

 private:
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<PoolCache> cache_;
  std::vector<Packet*> hidden_packets_;
  std::vector<BufferIndex> hidden_buffers_;
};

[[nodiscard]] inline Bytes bytes_of(const Packet& packet) {
  Bytes frame(packet.size());
  EXPECT_EQ(packet.copy_to(frame.data(), 0, frame.size()), frame.size());
  return frame;
}

[[nodiscard]] inline uint64_t all_drops(const QueueCounters& counters) {
  uint64_t sum = 0;
  for (size_t r = 0; r < kDropReasonCount; ++r)
    sum += counters.drops.value(static_cast<DropReason>(r));
  return sum;
}

}  // namespace pollux::test
