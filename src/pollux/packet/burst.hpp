// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <span>
#include <utility>

#include "pollux/packet/pool.hpp"

namespace pollux {

/// Up to kCapacity packets in order, owned: what is left when the Burst dies goes back to the
/// cache. Taken from the front, added at the back. One thread; not copyable.
class Burst {
 public:
  static constexpr size_t kCapacity = 64;

  explicit Burst(PoolCache& cache) noexcept : cache_(&cache) {}
  Burst(const Burst&) = delete;
  Burst& operator=(const Burst&) = delete;
  ~Burst() { clear(); }

  [[nodiscard]] PoolCache& cache() const noexcept { return *cache_; }
  [[nodiscard]] size_t size() const noexcept { return end_ - begin_; }
  [[nodiscard]] bool empty() const noexcept { return begin_ == end_; }
  /// How many more packets fit.
  [[nodiscard]] size_t room() const noexcept { return kCapacity - size(); }

  [[nodiscard]] Packet& operator[](size_t i) const noexcept { return *packets_[begin_ + i]; }
  [[nodiscard]] std::span<Packet* const> packets() const noexcept {
    return {packets_.data() + begin_, size()};
  }

  /// Adds a packet that the caller owns. There must be room.
  void push(Packet* packet) noexcept {
    if (end_ == kCapacity) compact();
    packets_[end_++] = packet;
  }

  /// Adds packets that the caller owns. There must be room for all.
  void append(std::span<Packet* const> packets) noexcept {
    if (end_ + packets.size() > kCapacity) compact();
    for (Packet* packet : packets) packets_[end_++] = packet;
  }

  /// Takes the first packet out; the caller owns it. Must not be empty.
  [[nodiscard]] Packet* pop_front() noexcept {
    Packet* packet = packets_[begin_++];
    if (begin_ == end_) begin_ = end_ = 0;
    return packet;
  }

  /// Forgets the first `count` packets: the caller has taken them over.
  void take_front(size_t count) noexcept {
    begin_ += count;
    if (begin_ == end_) begin_ = end_ = 0;
  }

  /// Gives the first `count` packets back to the pool.
  void release_front(size_t count) noexcept {
    for (size_t i = 0; i < count; ++i) cache_->release(packets_[begin_ + i]);
    take_front(count);
  }

  /// Keeps the packets for which `keep(Packet&)` is true, in order; releases the others.
  template <typename Predicate>
  void retain(Predicate keep) noexcept {
    size_t out = begin_;
    for (size_t i = begin_; i < end_; ++i) {
      if (keep(*packets_[i])) {
        packets_[out++] = packets_[i];
      } else {
        cache_->release(packets_[i]);
      }
    }
    end_ = out;
    if (begin_ == end_) begin_ = end_ = 0;
  }

  void clear() noexcept { release_front(size()); }

 private:
  void compact() noexcept {
    for (size_t i = begin_; i < end_; ++i) packets_[i - begin_] = packets_[i];
    end_ -= begin_;
    begin_ = 0;
  }

  PoolCache* cache_;
  size_t begin_ = 0;
  size_t end_ = 0;
  std::array<Packet*, kCapacity> packets_;
};

}  // namespace pollux
