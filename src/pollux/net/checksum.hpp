// SPDX-License-Identifier: Apache-2.0
// The Internet checksum: RFC 1071, updated after RFC 1624.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "pollux/base/endian.hpp"
#include "pollux/net/ipv4.hpp"
#include "pollux/net/ipv6.hpp"

namespace pollux::net {

/// Ones' complement sum of `bytes` as 16-bit words in memory order, folded to 16 bits; an odd last
/// byte counts as if a zero followed. The plain routine: the reference, and for other machines.
[[nodiscard]] uint16_t sum_portable(std::span<const std::byte> bytes) noexcept;

/// The same by the fastest routine for this CPU.
[[nodiscard]] uint16_t sum_words(std::span<const std::byte> bytes) noexcept;

/// Adds two folded sums.
constexpr uint16_t add_folded(uint16_t a, uint16_t b) {
  const uint32_t sum = uint32_t{a} + b;
  return static_cast<uint16_t>(sum + (sum >> 16));
}

/// A sum over bytes that come in pieces of any length, odd ones too. Words are summed as they lie
/// in memory, so no byte is swapped (RFC 1071, 2(B)): what it takes and gives are raw wire words.
class ChecksumSum {
 public:
  constexpr ChecksumSum() = default;

  /// Continues with the next bytes of the message.
  void add(std::span<const std::byte> bytes) noexcept {
    uint16_t sum = sum_words(bytes);
    if (odd_) sum = byte_swap(sum);
    sum_ = add_folded(sum_, sum);
    odd_ = odd_ != ((bytes.size() & 1) != 0);
  }

  /// Adds a 16-bit word of a pseudo header, wherever the message stands.
  constexpr void add_word(Be16 word) { sum_ = add_folded(sum_, raw(word)); }

  /// The sum itself: what a driver leaves in the field for NEEDS_CSUM.
  [[nodiscard]] constexpr Be16 sum() const { return from_raw(sum_); }
  /// Its complement: what goes on the wire.
  [[nodiscard]] constexpr Be16 checksum() const { return from_raw(static_cast<uint16_t>(~sum_)); }

 private:
  static constexpr uint16_t raw(Be16 word) { return std::bit_cast<uint16_t>(word); }
  static constexpr Be16 from_raw(uint16_t word) { return std::bit_cast<Be16>(word); }

  uint16_t sum_ = 0;
  bool odd_ = false;
};

/// The checksum of one piece of bytes.
[[nodiscard]] inline Be16 checksum(std::span<const std::byte> bytes) noexcept {
  ChecksumSum sum;
  sum.add(bytes);
  return sum.checksum();
}

/// The sum of the pseudo header before TCP or UDP over IPv4 (RFC 9293, 3.1); `length` is that of
/// the transport header and data.
[[nodiscard]] ChecksumSum pseudo_header(const Ipv4Address& source, const Ipv4Address& destination,
                                        uint8_t protocol, uint32_t length) noexcept;
/// The same over IPv6 (RFC 8200, 8.1).
[[nodiscard]] ChecksumSum pseudo_header(const Ipv6Address& source, const Ipv6Address& destination,
                                        uint8_t protocol, uint32_t length) noexcept;

/// The checksum after a word of the message changed from `before` to `after` (RFC 1624, eqn. 3).
[[nodiscard]] constexpr Be16 update_checksum(Be16 checksum, Be16 before, Be16 after) {
  uint32_t sum = static_cast<uint16_t>(~checksum.value()) +
                 uint32_t{static_cast<uint16_t>(~before.value())} + after.value();
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return Be16(static_cast<uint16_t>(~sum));
}

}  // namespace pollux::net
