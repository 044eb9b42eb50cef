// SPDX-License-Identifier: Apache-2.0
// A pool, a queue laid out in memory, and a device's hands on it, for tests of driver queues.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pollux/packet/burst.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"

// A namespace of its own: other helpers have functions of the same names for other types.
namespace pollux::test::inline driver {

using Bytes = std::vector<uint8_t>;

/// `size` bytes that tell their place: a second one with another seed differs.
inline Bytes pattern(size_t size, unsigned seed = 1) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 256 + seed * 31);
  return bytes;
}

inline Bytes bytes_of(const Packet& packet) {
  Bytes bytes(packet.size());
  packet.copy_to(bytes.data(), 0, bytes.size());
  return bytes;
}

/// One queue and its device, which reads and writes the ring by the plain fields.
class NetQueue {
 public:
  static constexpr uint64_t kAddr = 0x7000000000;

  NetQueue(Pool& pool, uint32_t size)
      : memory_(ring::split_bytes(size) + 64),
        layout(ring::place_split(reinterpret_cast<std::byte*>(
                                     (reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64),
                                 size)),
        window{pool.region().data(), pool.region().size(), kAddr} {}

  [[nodiscard]] std::byte* at(uint64_t addr) const {
    EXPECT_GE(addr, kAddr);
    EXPECT_LT(addr - kAddr, window.size);
    return const_cast<std::byte*>(window.base) + (addr - kAddr);
  }

  [[nodiscard]] uint16_t available() const {
    return static_cast<uint16_t>(layout.avail->idx - next_);
  }
  /// The head of the next available chain.
  uint16_t take() {
    EXPECT_NE(available(), 0);
    return layout.avail->ring[next_++ % layout.size];
  }
  /// The chain's descriptors; those of an indirect table when it is one.
  [[nodiscard]] std::vector<spec::virtq_desc> chain(uint16_t head,
                                                    const std::byte* tables = nullptr,
                                                    uint64_t tables_addr = 0) const {
    std::vector<spec::virtq_desc> all;
    const spec::virtq_desc* table = layout.desc;
    uint16_t index = head;
    while (true) {
      const spec::virtq_desc desc = table[index];
      if ((desc.flags & spec::VIRTQ_DESC_F_INDIRECT) != 0) {
        table = reinterpret_cast<const spec::virtq_desc*>(tables + (desc.addr - tables_addr));
        index = 0;
        continue;
      }
      all.push_back(desc);
      if ((desc.flags & spec::VIRTQ_DESC_F_NEXT) == 0) return all;
      index = desc.next;
    }
  }
  /// All bytes of a chain.
  [[nodiscard]] Bytes read(const std::vector<spec::virtq_desc>& chain) const {
    Bytes all;
    for (const auto& desc : chain) {
      const auto* from = reinterpret_cast<const uint8_t*>(at(desc.addr));
      all.insert(all.end(), from, from + desc.len);
    }
    return all;
  }
  void use(uint16_t head, uint32_t len) {
    layout.used->ring[layout.used->idx % layout.size] = {head, len};
    layout.used->idx = static_cast<uint16_t>(layout.used->idx + 1);
  }
  /// Writes `bytes` into the next available chains, `piece` bytes each at most, as a device with
  /// mergeable buffers does; returns how many chains it took. One jump of the used index.
  size_t deliver(const Bytes& bytes, size_t piece = ~size_t{0}) {
    size_t done = 0, chains = 0;
    do {
      const uint16_t head = take();
      size_t here = 0;
      for (const auto& desc : chain(head)) {
        const size_t n = std::min({size_t{desc.len}, bytes.size() - done, piece - here});
        std::memcpy(at(desc.addr), bytes.data() + done, n);
        done += n;
        here += n;
      }
      layout.used->ring[(layout.used->idx + chains) % layout.size] = {head,
                                                                      static_cast<uint32_t>(here)};
      ++chains;
    } while (done < bytes.size());
    layout.used->idx = static_cast<uint16_t>(layout.used->idx + chains);
    return chains;
  }

 private:
  std::vector<std::byte> memory_;
  uint16_t next_ = 0;

 public:
  ring::SplitLayout layout;
  virtio::SharedWindow window;
};

/// A virtio-net header with num_buffers, little-endian.
inline Bytes net_header(uint16_t num_buffers, uint8_t flags = 0, uint8_t gso_type = 0,
                        uint16_t gso_size = 0, uint16_t csum_start = 0, uint16_t csum_offset = 0) {
  const auto lo = [](uint16_t v) { return static_cast<uint8_t>(v); };
  const auto hi = [](uint16_t v) { return static_cast<uint8_t>(v >> 8); };
  return {flags,
          gso_type,
          0,
          0,
          lo(gso_size),
          hi(gso_size),
          lo(csum_start),
          hi(csum_start),
          lo(csum_offset),
          hi(csum_offset),
          lo(num_buffers),
          hi(num_buffers)};
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A pool that must be whole again when the test ends.
class PoolTest : public testing::Test {
 protected:
  explicit PoolTest(PoolConfig config = {
                        .packets = 256, .buffers = 512, .pages = HugePages::kNever}) {
    auto made = Pool::create(config);
    EXPECT_TRUE(made.has_value());
    pool = std::move(*made);
    cache = std::make_unique<PoolCache>(*pool);
  }
  ~PoolTest() override {
    cache.reset();
    EXPECT_EQ(pool->free_packets(), pool->packet_count());
    EXPECT_EQ(pool->free_buffers(), pool->buffer_count());
  }

  /// A packet whose head holds the first `head` bytes and whose owned tail the rest, `piece` bytes
  /// a segment, each `offset` bytes into its buffer.
  Packet* make_packet(const Bytes& bytes, size_t head, size_t piece = 2048, size_t offset = 0) {
    Packet* packet = cache->allocate();
    head = std::min(head, bytes.size());
    packet->set_head_size(static_cast<uint32_t>(head));
    std::memcpy(packet->head(), bytes.data(), head);
    for (size_t at = head; at < bytes.size(); at += piece) {
      BufferIndex buffer;
      EXPECT_TRUE(cache->allocate_buffer(buffer));
      const size_t n = std::min(piece, bytes.size() - at);
      std::byte* data = pool->buffer_data(buffer) + offset;
      std::memcpy(data, bytes.data() + at, n);
      packet->append({data, static_cast<uint32_t>(n), buffer});
    }
    return packet;
  }

  std::unique_ptr<Pool> pool;
  std::unique_ptr<PoolCache> cache;
  QueueCounters counters;
};

}  // namespace pollux::test::inline driver
