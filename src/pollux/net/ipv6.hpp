// SPDX-License-Identifier: Apache-2.0
// IPv6, RFC 8200.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "pollux/base/endian.hpp"
#include "pollux/net/ipv4.hpp"

namespace pollux::net {

// Extension headers, RFC 8200 section 4, and RFC 4302.
inline constexpr uint8_t kIpv6HopByHop = 0;
inline constexpr uint8_t kIpv6Routing = 43;
inline constexpr uint8_t kIpv6Fragment = 44;
inline constexpr uint8_t kIpv6Authentication = 51;
inline constexpr uint8_t kIpv6NoNext = 59;
inline constexpr uint8_t kIpv6DestinationOptions = 60;

using Ipv6Address = std::array<uint8_t, 16>;

struct Ipv6Header {
  Be32 version_class_flow;
  Be16 payload_length;
  uint8_t next_header;
  uint8_t hop_limit;
  Ipv6Address source;
  Ipv6Address destination;

  [[nodiscard]] constexpr uint8_t version() const {
    return static_cast<uint8_t>(version_class_flow.value() >> 28);
  }
};
inline constexpr size_t kIpv6HeaderSize = 40;
static_assert(sizeof(Ipv6Header) == kIpv6HeaderSize);

struct Ipv6FragmentHeader {
  uint8_t next_header;
  uint8_t reserved;
  Be16 offset_flags;
  Be32 identification;

  [[nodiscard]] constexpr uint16_t fragment_offset() const { return offset_flags.value() & 0xfff8; }
  [[nodiscard]] constexpr bool more_fragments() const { return (offset_flags.value() & 1) != 0; }
};
static_assert(sizeof(Ipv6FragmentHeader) == 8);

/// Where a chain of extension headers leads.
struct Ipv6Chain {
  uint8_t protocol = kIpv6NoNext;  ///< of what follows the last header that could be read
  size_t offset = 0;               ///< where that is
  bool complete = false;       ///< `protocol` is no extension header: the chain was walked whole
  bool fragment = false;       ///< there is a fragment header ...
  bool first_fragment = true;  ///< ... and its offset is not 0 when this is false
};

/// Longest chain that is walked; RFC 8200 lists seven headers, each once.
inline constexpr size_t kMaxIpv6Extensions = 8;

/// Walks the extension headers of type `protocol` and so on from `offset` of `bytes`. Ends at a
/// header that does not fit, after kMaxIpv6Extensions, and at a later fragment, whose data are in
/// the middle of something.
[[nodiscard]] Ipv6Chain walk_ipv6_chain(std::span<const std::byte> bytes, size_t offset,
                                        uint8_t protocol) noexcept;

}  // namespace pollux::net
