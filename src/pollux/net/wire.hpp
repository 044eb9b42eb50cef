// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

namespace pollux::net {

/// Copies a wire structure out of `bytes` at `offset`, whatever its alignment. False, with `out`
/// untouched, when it is not wholly inside.
template <typename T>
[[nodiscard]] inline bool read_at(std::span<const std::byte> bytes, size_t offset,
                                  T& out) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return false;
  std::memcpy(&out, bytes.data() + offset, sizeof(T));
  return true;
}

/// The same the other way round.
template <typename T>
[[nodiscard]] inline bool write_at(std::span<std::byte> bytes, size_t offset,
                                   const T& value) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return false;
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
  return true;
}

}  // namespace pollux::net
