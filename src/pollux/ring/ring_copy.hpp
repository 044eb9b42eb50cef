// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace pollux::ring_detail {

/// What two threads write must lie this far apart: a cache line and the one that the prefetcher
/// takes along.
inline constexpr size_t kApart = 128;

/// Copies `count` values to the slots from `position` on, around the end of the ring.
template <typename T>
void copy_in(T* slots, size_t capacity, size_t position, const T* from, size_t count) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  const size_t start = position & (capacity - 1);
  const size_t first = std::min(count, capacity - start);
  std::memcpy(slots + start, from, first * sizeof(T));
  if (first != count) std::memcpy(slots, from + first, (count - first) * sizeof(T));
}

/// Copies `count` values out of the slots from `position` on.
template <typename T>
void copy_out(const T* slots, size_t capacity, size_t position, T* to, size_t count) noexcept {
  const size_t start = position & (capacity - 1);
  const size_t first = std::min(count, capacity - start);
  std::memcpy(to, slots + start, first * sizeof(T));
  if (first != count) std::memcpy(to + first, slots, (count - first) * sizeof(T));
}

}  // namespace pollux::ring_detail
