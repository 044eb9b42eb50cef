// SPDX-License-Identifier: Apache-2.0
// Packets out of plain bytes, and bytes out of text, for unit tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include "pollux/packet/burst.hpp"

// A namespace of its own: other helpers have functions of the same names for other types.
namespace pollux::test::inline frames {

using Bytes = std::vector<uint8_t>;

inline std::span<const std::byte> as_span(const Bytes& bytes) {
  return std::as_bytes(std::span(bytes));
}

/// "45 00 0073" to bytes; everything that is no hexadecimal digit separates.
inline Bytes from_hex(std::string_view text) {
  Bytes bytes;
  int high = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high >= 0) bytes.push_back(static_cast<uint8_t>(high * 16 + digit));
    high = high >= 0 ? -1 : digit;
  }
  return bytes;
}

inline Bytes random_bytes(size_t size, std::mt19937& random) {
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline void put16(Bytes& bytes, size_t at, uint32_t value) {
  bytes.at(at) = static_cast<uint8_t>(value >> 8);
  bytes.at(at + 1) = static_cast<uint8_t>(value);
}
inline uint32_t get16(const Bytes& bytes, size_t at) {
  return bytes.at(at) << 8 | bytes.at(at + 1);
}

/// Everything in a packet, head and tail.
inline Bytes bytes_of(const Packet& packet) {
  Bytes bytes(packet.size());
  packet.copy_to(bytes.data(), 0, bytes.size());
  return bytes;
}

/// A small pool with one cache, and memory that tails are borrowed from.
class PacketMaker {
 public:
  explicit PacketMaker(uint32_t packets = 1024, uint32_t buffers = 256)
      : pool_(make_pool(packets, buffers)), cache_(*pool_) {}

  PoolCache& cache() { return cache_; }
  Pool& pool() { return *pool_; }

  /// A packet without tail, or as a port makes it: the rest beyond Packet::kHeadCopy borrowed.
  Packet* make(const Bytes& bytes) {
    const bool all = bytes.size() <= Packet::kHeadCapacity;
    return make(bytes, all ? bytes.size() : Packet::kHeadCopy, {});
  }

  /// A packet whose head holds `head_size` bytes and whose tail is cut before each offset of
  /// `cuts` (ascending, counted in the tail). The tail is borrowed from memory of this object.
  Packet* make(const Bytes& bytes, size_t head_size, const std::vector<size_t>& cuts) {
    Packet* packet = cache_.allocate();
    EXPECT_NE(packet, nullptr);
    head_size = std::min({head_size, bytes.size(), Packet::kHeadCapacity});
    std::copy_n(reinterpret_cast<const std::byte*>(bytes.data()), head_size, packet->head());
    packet->set_head_size(static_cast<uint32_t>(head_size));
    size_t begin = head_size;
    for (size_t i = 0; i <= cuts.size() && begin < bytes.size(); ++i) {
      const size_t end =
          i < cuts.size() ? std::min(head_size + cuts[i], bytes.size()) : bytes.size();
      if (end <= begin) continue;
      // Memory of exactly the segment's size each, so that a sanitizer sees a step outside.
      tails_.push_back(std::make_unique<std::byte[]>(end - begin));
      std::copy(bytes.begin() + begin, bytes.begin() + end,
                reinterpret_cast<uint8_t*>(tails_.back().get()));
      packet->append({tails_.back().get(), static_cast<uint32_t>(end - begin), kBorrowed});
      begin = end;
    }
    return packet;
  }

  /// The same, head and tail split anywhere, the tail in up to 36 segments.
  Packet* make_split(const Bytes& bytes, size_t least_head, std::mt19937& random) {
    const size_t most_head = std::min(bytes.size(), Packet::kHeadCapacity);
    least_head = std::min(least_head, most_head);
    const size_t head = least_head + random() % (most_head - least_head + 1);
    std::vector<size_t> cuts(random() % Packet::kMaxSegments);
    const size_t tail = bytes.size() - head;
    for (size_t& cut : cuts) cut = tail == 0 ? 0 : random() % tail;
    std::sort(cuts.begin(), cuts.end());
    return make(bytes, head, cuts);
  }

 private:
  static std::unique_ptr<Pool> make_pool(uint32_t packets, uint32_t buffers) {
    PoolConfig config;
    config.packets = packets;
    config.buffers = buffers;
    config.pages = HugePages::kNever;
    auto pool = Pool::create(config);
    EXPECT_TRUE(pool.has_value());
    return std::move(*pool);
  }

  std::unique_ptr<Pool> pool_;
  PoolCache cache_;
  std::vector<std::unique_ptr<std::byte[]>> tails_;
};

}  // namespace pollux::test::inline frames
