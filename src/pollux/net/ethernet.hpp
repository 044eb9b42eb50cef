// SPDX-License-Identifier: Apache-2.0
// Ethernet, IEEE 802.3 clause 3.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "pollux/base/endian.hpp"
#include "pollux/base/result.hpp"

namespace pollux::net {

/// A 48-bit address. As a number (`key`) the first byte on the wire is the lowest, so that the
/// group bit is bit 0 and a key can be read straight from a frame.
class MacAddress {
 public:
  static constexpr size_t kSize = 6;
  static constexpr uint64_t kKeyMask = 0xffff'ffff'ffff;

  constexpr MacAddress() = default;
  explicit constexpr MacAddress(const std::array<uint8_t, kSize>& bytes) : bytes_(bytes) {}

  [[nodiscard]] static constexpr MacAddress from_key(uint64_t key) {
    MacAddress mac;
    for (size_t i = 0; i < kSize; ++i) mac.bytes_[i] = static_cast<uint8_t>(key >> (8 * i));
    return mac;
  }

  /// Reads "52:54:00:12:34:56" (also with dashes).
  [[nodiscard]] static Result<MacAddress> from_text(std::string_view text);
  [[nodiscard]] std::string to_text() const;

  [[nodiscard]] constexpr uint64_t key() const {
    uint64_t key = 0;
    for (size_t i = 0; i < kSize; ++i) key |= uint64_t{bytes_[i]} << (8 * i);
    return key;
  }
  [[nodiscard]] constexpr const std::array<uint8_t, kSize>& bytes() const { return bytes_; }

  /// A group address; broadcast is one.
  [[nodiscard]] constexpr bool is_multicast() const { return (bytes_[0] & 1) != 0; }
  [[nodiscard]] constexpr bool is_broadcast() const { return key() == kKeyMask; }

  friend constexpr auto operator<=>(const MacAddress&, const MacAddress&) = default;

 private:
  std::array<uint8_t, kSize> bytes_{};
};
static_assert(sizeof(MacAddress) == 6 && std::is_trivially_copyable_v<MacAddress>);

inline constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

constexpr bool is_multicast_key(uint64_t key) { return (key & 1) != 0; }

// EtherTypes, in host order.
inline constexpr uint16_t kEtherTypeIpv4 = 0x0800;
inline constexpr uint16_t kEtherTypeArp = 0x0806;
inline constexpr uint16_t kEtherTypeRarp = 0x8035;
inline constexpr uint16_t kEtherTypeVlan = 0x8100;
inline constexpr uint16_t kEtherTypeIpv6 = 0x86dd;
inline constexpr uint16_t kEtherTypeQinQ = 0x88a8;
/// Below this the field is the length of an 802.3 frame, not a type.
inline constexpr uint16_t kFirstEtherType = 0x0600;

struct EthernetHeader {
  MacAddress dst;
  MacAddress src;
  Be16 ether_type;
};
inline constexpr size_t kEthernetHeaderSize = 14;
static_assert(sizeof(EthernetHeader) == kEthernetHeaderSize);

namespace detail {
inline uint64_t load_mac_key(const std::byte* from) noexcept {
  uint64_t word = 0;
  std::memcpy(&word, from, sizeof(word));
  if constexpr (std::endian::native == std::endian::big) word = byte_swap(word);
  return word & MacAddress::kKeyMask;
}
}  // namespace detail

/// MacAddress::key() of a frame's addresses. At least kEthernetHeaderSize bytes must be there.
inline uint64_t destination_key(const std::byte* frame) noexcept {
  return detail::load_mac_key(frame);
}
inline uint64_t source_key(const std::byte* frame) noexcept {
  return detail::load_mac_key(frame + MacAddress::kSize);  // bytes 6 to 13
}

}  // namespace pollux::net
