// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/toeplitz.hpp"

#include <algorithm>

namespace pollux::net {
namespace {

using Key = std::array<uint8_t, Toeplitz::kKeySize + 1>;

/// The 32 bits of the key from bit `at` on.
uint32_t window(const Key& key, size_t at) {
  uint64_t bits = 0;
  for (size_t i = 0; i < 5; ++i) bits = bits << 8 | key[at / 8 + i];
  return static_cast<uint32_t>(bits >> (8 - at % 8));
}

}  // namespace

Toeplitz::Toeplitz(std::span<const std::byte> key) noexcept {
  Key padded{};
  for (size_t i = 0; i < std::min(key.size(), kKeySize); ++i) {
    padded[i] = static_cast<uint8_t>(key[i]);
  }
  for (size_t half = 0; half < table_.size(); ++half) {
    for (unsigned value = 0; value < 16; ++value) {
      uint32_t sum = 0;
      for (unsigned bit = 0; bit < 4; ++bit) {
        if ((value & (8U >> bit)) != 0) sum ^= window(padded, 4 * half + bit);
      }
      table_[half][value] = sum;
    }
  }
}

uint32_t Toeplitz::hash(std::span<const std::byte> input) const noexcept {
  uint32_t sum = 0;
  const size_t size = std::min(input.size(), kMaxInput);
  for (size_t i = 0; i < size; ++i) {
    const auto byte = static_cast<uint8_t>(input[i]);
    sum ^= table_[2 * i][byte >> 4] ^ table_[2 * i + 1][byte & 15];
  }
  return sum;
}

}  // namespace pollux::net
