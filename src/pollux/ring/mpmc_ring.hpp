// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>

#include "pollux/ring/bounded_ring.hpp"
#include "pollux/ring/ring_copy.hpp"

namespace pollux {

/// A bounded first-in first-out queue of trivially copyable values between any number of
/// producing and consuming threads of this process. No locks and no allocation after construction;
/// the values of one call stay together and in order.
///
/// A call reserves slots by moving its side's `head`, copies, and then shows them by moving the
/// `tail`, in the order of reservation. So a thread that loses its CPU between the two holds back
/// those of the same side that reserved after it (they spin, then yield), but nobody else.
///
/// Memory order, by pairs: P, values are written before producers' tail shows them; C, values are
/// read before consumers' tail gives their slots up; H, whoever sees a head also sees the opposite
/// tail by which its mover found room, so that the difference of the two is never too large;
/// T, a tail's mover has seen the tail before, so that P and C hold for all reservations below it.
template <typename T>
class MpmcRing : public BoundedRing<T, MpmcRing<T>> {
  friend BoundedRing<T, MpmcRing<T>>;
  using BoundedRing<T, MpmcRing<T>>::capacity_;
  using BoundedRing<T, MpmcRing<T>>::slots_;

 public:
  /// Room for at least `capacity` values, rounded up to a power of two.
  explicit MpmcRing(size_t capacity) : BoundedRing<T, MpmcRing<T>>(capacity) {}

  /// Values inside; exact only when nobody works on the ring. Any thread.
  [[nodiscard]] size_t size() const noexcept {
    const size_t out = consumer_.tail.load(std::memory_order_acquire);
    return producer_.tail.load(std::memory_order_acquire) - out;
  }

 private:
  struct alignas(ring_detail::kApart) Side {
    std::atomic<size_t> head{0};
    alignas(ring_detail::kApart) std::atomic<size_t> tail{0};
  };
  struct Reservation {
    size_t position;
    size_t count;
  };

  template <bool kAll>
  size_t move_in(const T* values, size_t count) noexcept {
    const Reservation mine = reserve<kAll>(producer_, consumer_, capacity_, count);
    if (mine.count == 0) return 0;
    ring_detail::copy_in(slots_.get(), capacity_, mine.position, values, mine.count);
    show(producer_, mine);  // P
    return mine.count;
  }

  template <bool kAll>
  size_t move_out(T* values, size_t count) noexcept {
    const Reservation mine = reserve<kAll>(consumer_, producer_, 0, count);
    if (mine.count == 0) return 0;
    ring_detail::copy_out(slots_.get(), capacity_, mine.position, values, mine.count);
    show(consumer_, mine);  // C
    return mine.count;
  }

  /// Moves side's head over up to `count` slots that `other`'s tail, plus `ahead`, has left free.
  template <bool kAll>
  static Reservation reserve(Side& side, const Side& other, size_t ahead, size_t count) noexcept {
    size_t position = side.head.load(std::memory_order_acquire);  // H
    for (;;) {
      const size_t free = other.tail.load(std::memory_order_acquire) + ahead - position;  // C, P
      size_t taken = count;
      if (free < count) {
        if (kAll || free == 0) return {position, 0};
        taken = free;
      }
      if (side.head.compare_exchange_weak(position, position + taken, std::memory_order_release,
                                          std::memory_order_acquire)) {  // H
        return {position, taken};
      }
    }
  }

  static void show(Side& side, Reservation mine) noexcept {
    for (unsigned spins = 0; side.tail.load(std::memory_order_acquire) != mine.position;) {  // T
      // Whoever is before us may have been descheduled when there are more threads than CPUs.
      if (++spins > 64) std::this_thread::yield();
    }
    side.tail.store(mine.position + mine.count, std::memory_order_release);
  }

  Side producer_;
  Side consumer_;
};

}  // namespace pollux
