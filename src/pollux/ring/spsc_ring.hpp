// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <memory>
#include <type_traits>

#include "pollux/ring/ring_copy.hpp"

namespace pollux {

/// A bounded first-in first-out queue of trivially copyable values between one producing and one
/// consuming thread of this process. Wait-free; no allocation after construction.
///
/// "bulk" moves all or nothing, "burst" as many as there are or fit. Memory order: each side owns
/// one position, stored with release and loaded by the other with acquire; the pairs are marked
/// P (values written before they are shown) and C (values read before their slots are reused).
template <typename T>
class SpscRing {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  /// Room for at least `capacity` values, rounded up to a power of two.
  explicit SpscRing(size_t capacity)
      : capacity_(std::bit_ceil(capacity)),
        slots_(std::make_unique_for_overwrite<T[]>(capacity_)) {}
  SpscRing(const SpscRing&) = delete;
  SpscRing& operator=(const SpscRing&) = delete;

  [[nodiscard]] size_t capacity() const noexcept { return capacity_; }

  /// Values inside; exact only when neither side works. Any thread.
  [[nodiscard]] size_t size() const noexcept {
    const size_t out = consumer_.position.load(std::memory_order_acquire);
    return producer_.position.load(std::memory_order_acquire) - out;
  }

  /// All `count` values, or none and false. Producer only.
  [[nodiscard]] bool push_bulk(const T* values, size_t count) noexcept {
    return push<true>(values, count) == count;
  }
  /// The first values as far as they fit; returns how many. Producer only.
  [[nodiscard]] size_t push_burst(const T* values, size_t count) noexcept {
    return push<false>(values, count);
  }
  [[nodiscard]] bool push(const T& value) noexcept { return push_bulk(&value, 1); }

  /// Exactly `count` values, or none and false. Consumer only.
  [[nodiscard]] bool pop_bulk(T* values, size_t count) noexcept {
    return pop<true>(values, count) == count;
  }
  /// Up to `count` values; returns how many. Consumer only.
  [[nodiscard]] size_t pop_burst(T* values, size_t count) noexcept {
    return pop<false>(values, count);
  }
  [[nodiscard]] bool pop(T& value) noexcept { return pop_bulk(&value, 1); }

 private:
  template <bool kAll>
  size_t push(const T* values, size_t count) noexcept {
    const size_t position = producer_.position.load(std::memory_order_relaxed);
    size_t room = producer_.other + capacity_ - position;
    if (room < count) {
      producer_.other = consumer_.position.load(std::memory_order_acquire);  // C
      room = producer_.other + capacity_ - position;
      if (room < count) {
        if (kAll || room == 0) return 0;
        count = room;
      }
    }
    if (count == 0) return 0;
    ring_detail::copy_in(slots_.get(), capacity_, position, values, count);
    producer_.position.store(position + count, std::memory_order_release);  // P
    return count;
  }

  template <bool kAll>
  size_t pop(T* values, size_t count) noexcept {
    const size_t position = consumer_.position.load(std::memory_order_relaxed);
    size_t there = consumer_.other - position;
    if (there < count) {
      consumer_.other = producer_.position.load(std::memory_order_acquire);  // P
      there = consumer_.other - position;
      if (there < count) {
        if (kAll || there == 0) return 0;
        count = there;
      }
    }
    if (count == 0) return 0;
    ring_detail::copy_out(slots_.get(), capacity_, position, values, count);
    consumer_.position.store(position + count, std::memory_order_release);  // C
    return count;
  }

  // Positions only grow; a slot's index is the position modulo the capacity. Each side remembers
  // where it last saw the other one, so that its line is fetched once a round, not once a call.
  struct alignas(ring_detail::kApart) Side {
    std::atomic<size_t> position{0};
    size_t other = 0;
  };

  const size_t capacity_;
  const std::unique_ptr<T[]> slots_;
  Side producer_;
  Side consumer_;
};

}  // namespace pollux
