// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <memory>
#include <type_traits>

namespace pollux {

/// What the rings between threads of this process have in common: a bounded first-in first-out
/// queue of trivially copyable values; "bulk" moves all or nothing, "burst" as many as there are or
/// fit. `Ring` brings `move_in<kAll>(values, count)` and `move_out<kAll>(values, count)`, which
/// return how many they moved, and says which threads may call. No allocation after construction.
template <typename T, typename Ring>
class BoundedRing {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  BoundedRing(const BoundedRing&) = delete;
  BoundedRing& operator=(const BoundedRing&) = delete;

  [[nodiscard]] size_t capacity() const noexcept { return capacity_; }

  /// All `count` values, or none and false. A producer's.
  [[nodiscard]] bool push_bulk(const T* values, size_t count) noexcept {
    return ring().template move_in<true>(values, count) == count;
  }
  /// The first values as far as they fit; returns how many. A producer's.
  [[nodiscard]] size_t push_burst(const T* values, size_t count) noexcept {
    return ring().template move_in<false>(values, count);
  }
  [[nodiscard]] bool push(const T& value) noexcept { return push_bulk(&value, 1); }

  /// Exactly `count` values, or none and false. A consumer's.
  [[nodiscard]] bool pop_bulk(T* values, size_t count) noexcept {
    return ring().template move_out<true>(values, count) == count;
  }
  /// Up to `count` values; returns how many. A consumer's.
  [[nodiscard]] size_t pop_burst(T* values, size_t count) noexcept {
    return ring().template move_out<false>(values, count);
  }
  [[nodiscard]] bool pop(T& value) noexcept { return pop_bulk(&value, 1); }

 protected:
  explicit BoundedRing(size_t capacity)
      : capacity_(std::bit_ceil(capacity)),
        slots_(std::make_unique_for_overwrite<T[]>(capacity_)) {}
  ~BoundedRing() = default;

  const size_t capacity_;
  const std::unique_ptr<T[]> slots_;

 private:
  Ring& ring() noexcept { return static_cast<Ring&>(*this); }
};

}  // namespace pollux
