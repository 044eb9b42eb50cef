// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace pollux::net {

/// The Toeplitz hash of receive-side scaling: for each bit of the input that is set, the 32 bits
/// of the key that begin at its place are added, without carry. Made once for a key; then half a
/// byte of the input costs one look-up.
class Toeplitz {
 public:
  /// Longest input: two IPv6 addresses and two ports.
  static constexpr size_t kMaxInput = 36;
  static constexpr size_t kKeySize = kMaxInput + 4;

  /// A key shorter than kKeySize goes on with zeros; of a longer one the rest is not used.
  explicit Toeplitz(std::span<const std::byte> key) noexcept;

  /// At most kMaxInput bytes are looked at.
  [[nodiscard]] uint32_t hash(std::span<const std::byte> input) const noexcept;

 private:
  /// By half byte of the input (high one first) and its value.
  std::array<std::array<uint32_t, 16>, 2 * kMaxInput> table_;
};

}  // namespace pollux::net
