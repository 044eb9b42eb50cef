// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>

#include "pollux/ring/bounded_ring.hpp"
#include "pollux/ring/ring_copy.hpp"

namespace pollux {

/// A bounded first-in first-out queue of trivially copyable values between one producing and one
/// consuming thread of this process. Wait-free; no allocation after construction.
///
/// Memory order: each side owns one position, stored with release and loaded by the other with
/// acquire; the pairs are marked P (values written before they are shown) and C (values read before
/// their slots are reused).
template <typename T>
class SpscRing : public BoundedRing<T, SpscRing<T>> {
  friend BoundedRing<T, SpscRing<T>>;
  using BoundedRing<T, SpscRing<T>>::capacity_;
  using BoundedRing<T, SpscRing<T>>::slots_;

 public:
  /// Room for at least `capacity` values, rounded up to a power of two.
  explicit SpscRing(size_t capacity) : BoundedRing<T, SpscRing<T>>(capacity) {}

  /// Values inside; exact only when neither side works. Any thread.
  [[nodiscard]] size_t size() const noexcept {
    const size_t out = consumer_.position.load(std::memory_order_acquire);
    return producer_.position.load(std::memory_order_acquire) - out;
  }

 private:
  template <bool kAll>
  size_t move_in(const T* values, size_t count) noexcept {
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
  size_t move_out(T* values, size_t count) noexcept {
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

  Side producer_;
  Side consumer_;
};

}  // namespace pollux
