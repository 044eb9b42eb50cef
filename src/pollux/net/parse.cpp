// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/parse.hpp"

#include <algorithm>

#include "pollux/net/wire.hpp"

namespace pollux::net {
namespace {

using Bytes = std::span<const std::byte>;

/// TCP or UDP at `offset`; `end` is where the IP packet ends by its own account.
void parse_l4(Bytes head, size_t offset, size_t end, ParsedHeaders& out) noexcept {
  if (offset > head.size() || offset > end) return;
  out.l4_offset = static_cast<uint16_t>(offset);
  size_t size = 0;
  if (out.ip_proto == kIpProtoTcp) {
    TcpHeader tcp;
    if (!read_at(head, offset, tcp) || tcp.size() < kTcpHeaderSize) return;
    size = tcp.size();
  } else if (out.ip_proto == kIpProtoUdp) {
    UdpHeader udp;
    if (!read_at(head, offset, udp) || udp.length.value() < kUdpHeaderSize) return;
    size = kUdpHeaderSize;
  } else {
    return;
  }
  if (offset + size > head.size() || offset + size > end) return;
  out.payload_offset = static_cast<uint16_t>(offset + size);
}

void parse_ipv4(Bytes head, ParsedHeaders& out) noexcept {
  Ipv4Header ip;
  if (!read_at(head, out.l3_offset, ip)) return;
  const size_t size = ip.size();
  if (ip.version() != 4 || size < kIpv4HeaderSize || ip.total_length.value() < size) return;
  out.ip_version = 4;
  out.ip_proto = ip.protocol;
  out.l3_size = ip.total_length.value();
  out.fragment = ip.more_fragments() || ip.fragment_offset() != 0;
  if (ip.fragment_offset() != 0) return;
  parse_l4(head, out.l3_offset + size, out.l3_offset + out.l3_size, out);
}

void parse_ipv6(Bytes head, ParsedHeaders& out) noexcept {
  Ipv6Header ip;
  if (!read_at(head, out.l3_offset, ip) || ip.version() != 6) return;
  out.ip_version = 6;
  out.l3_size = static_cast<uint32_t>(kIpv6HeaderSize + ip.payload_length.value());
  const size_t end = out.l3_offset + out.l3_size;
  const Ipv6Chain chain = walk_ipv6_chain(head.first(std::min(head.size(), end)),
                                          out.l3_offset + kIpv6HeaderSize, ip.next_header);
  out.ip_proto = chain.protocol;
  out.fragment = chain.fragment;
  if (chain.complete && chain.first_fragment && chain.protocol != kIpv6NoNext) {
    parse_l4(head, chain.offset, end, out);
  }
}

}  // namespace

ParsedHeaders parse(Bytes head) noexcept {
  ParsedHeaders out;
  head = head.first(std::min<size_t>(head.size(), UINT16_MAX));
  EthernetHeader ethernet;
  if (!read_at(head, 0, ethernet)) return out;
  out.ether_type = ethernet.ether_type.value();
  size_t offset = kEthernetHeaderSize;
  while (is_vlan_type(out.ether_type)) {
    VlanTag tag;
    if (out.vlan_tags == kMaxVlanTags || !read_at(head, offset, tag)) return out;
    if (out.vlan_tags == 0) out.vlan_tci = tag.tci.value();
    ++out.vlan_tags;
    out.ether_type = tag.ether_type.value();
    offset += sizeof(VlanTag);
  }
  if (out.ether_type < kFirstEtherType) return out;
  out.l3_offset = static_cast<uint16_t>(offset);
  if (out.ether_type == kEtherTypeIpv4) parse_ipv4(head, out);
  if (out.ether_type == kEtherTypeIpv6) parse_ipv6(head, out);
  return out;
}

}  // namespace pollux::net
