// SPDX-License-Identifier: Apache-2.0
// IPv4, RFC 791.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "pollux/base/endian.hpp"

namespace pollux::net {

// Protocol numbers (IANA), for IPv4's `protocol` and IPv6's `next_header`.
inline constexpr uint8_t kIpProtoIcmp = 1;
inline constexpr uint8_t kIpProtoTcp = 6;
inline constexpr uint8_t kIpProtoUdp = 17;
inline constexpr uint8_t kIpProtoIcmpv6 = 58;
inline constexpr uint8_t kIpProtoSctp = 132;

using Ipv4Address = std::array<uint8_t, 4>;

struct Ipv4Header {
  uint8_t version_ihl;
  uint8_t tos;
  Be16 total_length;
  Be16 identification;
  Be16 flags_fragment;
  uint8_t ttl;
  uint8_t protocol;
  Be16 checksum;
  Ipv4Address source;
  Ipv4Address destination;

  [[nodiscard]] constexpr uint8_t version() const { return version_ihl >> 4; }
  /// With options; 20 to 60 when the header is good.
  [[nodiscard]] constexpr size_t size() const { return size_t{version_ihl & 0x0fu} * 4; }
  [[nodiscard]] constexpr uint16_t fragment_offset() const {
    return static_cast<uint16_t>((flags_fragment.value() & 0x1fff) * 8);
  }
  [[nodiscard]] constexpr bool more_fragments() const {
    return (flags_fragment.value() & 0x2000) != 0;
  }
};
inline constexpr size_t kIpv4HeaderSize = 20;
static_assert(sizeof(Ipv4Header) == kIpv4HeaderSize);

}  // namespace pollux::net
