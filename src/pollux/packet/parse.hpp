// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/net/parse.hpp"
#include "pollux/packet/packet.hpp"

namespace pollux {

/// Fills in a packet's offsets, EtherType, VLAN tag and IP protocol from its head, and returns
/// everything that was found. Malformed packets are described as far as they were good.
inline net::ParsedHeaders parse_headers(Packet& packet) noexcept {
  const net::ParsedHeaders headers = net::parse(packet.head_bytes());
  PacketMeta& meta = packet.meta;
  meta.l3_offset = headers.l3_offset;
  meta.l4_offset = headers.l4_offset;
  meta.payload_offset = headers.payload_offset;
  meta.ether_type = headers.ether_type;
  meta.vlan_tci = headers.vlan_tci;
  meta.ip_proto = headers.ip_proto;
  meta.parsed = true;
  return headers;
}

}  // namespace pollux
