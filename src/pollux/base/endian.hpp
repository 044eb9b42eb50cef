// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace pollux {

template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 1) return value;
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

/// An integer kept in the byte order `Order`, for wire structures. Trivially copyable, with no
/// implicit conversion in either direction, so that no host-order value slips onto the wire.
template <std::unsigned_integral T, std::endian Order>
class EndianInt {
 public:
  EndianInt() = default;
  explicit constexpr EndianInt(T host) : raw_(convert(host)) {}

  /// The value in the host's byte order.
  [[nodiscard]] constexpr T value() const { return convert(raw_); }
  constexpr void set(T host) { raw_ = convert(host); }

  friend constexpr bool operator==(EndianInt, EndianInt) = default;

 private:
  static constexpr T convert(T v) { return Order == std::endian::native ? v : byte_swap(v); }
  T raw_;
};

using Le16 = EndianInt<uint16_t, std::endian::little>;
using Le32 = EndianInt<uint32_t, std::endian::little>;
using Le64 = EndianInt<uint64_t, std::endian::little>;
using Be16 = EndianInt<uint16_t, std::endian::big>;
using Be32 = EndianInt<uint32_t, std::endian::big>;
using Be64 = EndianInt<uint64_t, std::endian::big>;

static_assert(std::is_trivially_copyable_v<Le64> && sizeof(Le64) == 8);
static_assert(std::is_trivially_default_constructible_v<Be16> && sizeof(Be16) == 2);

}  // namespace pollux
