// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pollux/net/ethernet.hpp"
#include "pollux/net/ipv4.hpp"
#include "pollux/net/ipv6.hpp"
#include "pollux/net/tcp.hpp"
#include "pollux/net/udp.hpp"
#include "pollux/net/vlan.hpp"

namespace pollux::net {

/// What was recognised at the beginning of a frame. Offsets count from its first byte; 0 means
/// that there is no such header, or that it was not good, and then all that follow are 0 too.
struct ParsedHeaders {
  uint16_t ether_type = 0;      ///< after VLAN tags; a value below kFirstEtherType is a length
  uint16_t vlan_tci = 0;        ///< of the outermost tag
  uint8_t vlan_tags = 0;        ///< how many were passed over
  uint8_t ip_version = 0;       ///< 4, 6, or 0 when there is no good IP header
  uint8_t ip_proto = 0;         ///< after IPv6 extension headers; meaningful with ip_version
  bool fragment = false;        ///< part of a fragmented IP packet
  uint16_t l3_offset = 0;       ///< the header after Ethernet and its tags, of whatever type
  uint16_t l4_offset = 0;       ///< what follows the IP headers; 0 in all fragments but the first
  uint16_t payload_offset = 0;  ///< what follows a good TCP or UDP header
  uint32_t l3_size = 0;  ///< IP headers and payload, as the IP header has it; may exceed the frame

  [[nodiscard]] bool is_tcp() const { return payload_offset != 0 && ip_proto == kIpProtoTcp; }
  [[nodiscard]] bool is_udp() const { return payload_offset != 0 && ip_proto == kIpProtoUdp; }
};

/// Recognises the headers of the frame that begins with `head`, which may be all of the frame or
/// only its first bytes (at most 65535 are looked at). Reads nothing outside, follows every chain
/// a bounded number of steps, and describes a malformed frame as far as it was good. Checksums are
/// not verified. A header counts as good only if it lies wholly inside `head`, and inside the
/// length that the header before it gives.
[[nodiscard]] ParsedHeaders parse(std::span<const std::byte> head) noexcept;

}  // namespace pollux::net
