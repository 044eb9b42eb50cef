// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/tcp_segment.hpp"

#include <cstddef>
#include <cstring>
#include <span>

#include "pollux/net/checksum.hpp"
#include "pollux/net/ipv4.hpp"
#include "pollux/net/ipv6.hpp"
#include "pollux/net/tcp.hpp"
#include "pollux/net/wire.hpp"
#include "pollux/packet/parse.hpp"
#include "pollux/packet/tx_offloads.hpp"
#include "pollux/stage/packet_sum.hpp"

namespace pollux::stage {
namespace {

using net::read_at;
using Kind = TcpSegment::Kind;

constexpr uint8_t kEnding = net::kTcpPsh | net::kTcpFin;
constexpr uint8_t kAllowed = net::kTcpAck | kEnding | net::kTcpEce;

/// Addresses lie before the transport header's place and ports at its beginning, in both versions.
uint32_t hash_connection(std::span<const std::byte> head, const TcpSegment& segment) noexcept {
  const size_t addresses = segment.v6 ? offsetof(net::Ipv6Header, source)  //
                                      : offsetof(net::Ipv4Header, source);
  const size_t size = segment.v6 ? 2 * sizeof(net::Ipv6Address) : 2 * sizeof(net::Ipv4Address);
  uint64_t state = 0;
  const auto add = [&](size_t at, size_t len) {
    for (; len != 0; at += 4, len -= 4) {
      uint32_t word = 0;
      (void)read_at(head, at, word);
      state = (state ^ word) * 0x9e37'79b9'7f4a'7c15;  // 2^64 / golden ratio
      state ^= state >> 32;
    }
  };
  add(segment.l3 + addresses, size);
  add(segment.l4, 4);
  return static_cast<uint32_t>(state);
}

/// Whether a packet whose headers are good TCP can be what segmentation makes; fills in the rest.
bool is_segment(const Packet& packet, const net::ParsedHeaders& headers,
                TcpSegment& segment) noexcept {
  const std::span<const std::byte> head = packet.head_bytes();
  const PacketMeta& meta = packet.meta;
  if (meta.gso != GsoType::kNone || head.size() > Packet::kHeadCapacity ||
      segment.l4 != segment.l3 + (segment.v6 ? net::kIpv6HeaderSize : net::kIpv4HeaderSize) ||
      headers.l3_offset + headers.l3_size != packet.size()) {
    return false;
  }
  if (meta.needs_csum &&
      (meta.csum_start != segment.l4 || meta.csum_offset != net::kTcpChecksumOffset)) {
    return false;
  }
  net::Ipv4Header ip{};
  if (!segment.v6 && read_at(head, segment.l3, ip)) {
    segment.identification = ip.identification.value();
  }
  net::TcpHeader tcp;
  if (!read_at(head, segment.l4, tcp)) return false;
  segment.sequence = tcp.sequence.value();
  segment.ends = (tcp.flags & kEnding) != 0;
  segment.payload = packet.size() - segment.payload_at;
  return (tcp.flags & net::kTcpAck) != 0 && (tcp.flags & ~kAllowed) == 0 &&
         segment.payload >= kLeastPayload;
}

}  // namespace

TcpSegment look_at(Packet& packet, uint32_t types) noexcept {
  TcpSegment segment;
  const net::ParsedHeaders headers = parse_headers(packet);
  if (headers.ip_version == 0) return segment;
  if (headers.fragment || headers.l4_offset == 0 ||
      (headers.ip_proto == net::kIpProtoTcp && !headers.is_tcp())) {
    segment.kind = Kind::kUnclear;
    return segment;
  }
  if (!headers.is_tcp()) return segment;
  segment.kind = Kind::kApart;
  segment.v6 = headers.ip_version == 6;
  segment.l3 = headers.l3_offset;
  segment.l4 = headers.l4_offset;
  segment.payload_at = headers.payload_offset;
  segment.connection = hash_connection(packet.head_bytes(), segment);
  const bool wanted = (types & (segment.v6 ? kTxTso6 : kTxTso4)) != 0;
  if (wanted && is_segment(packet, headers, segment)) segment.kind = Kind::kSegment;
  return segment;
}

bool same_headers(const Packet& earlier, const TcpSegment& of_earlier, const Packet& later,
                  const TcpSegment& of_later) noexcept {
  if (of_earlier.l3 != of_later.l3 || of_earlier.l4 != of_later.l4 ||
      of_earlier.payload_at != of_later.payload_at || of_earlier.v6 != of_later.v6 ||
      earlier.meta.needs_csum != later.meta.needs_csum) {
    return false;
  }
  const auto same = [&](size_t at, size_t len) {
    return std::memcmp(earlier.head() + at, later.head() + at, len) == 0;
  };
  const size_t l3 = of_earlier.l3;
  const size_t l4 = of_earlier.l4;
  if (!same(0, l3)) return false;
  if (of_earlier.v6) {
    // All but the payload's length.
    if (!same(l3, offsetof(net::Ipv6Header, payload_length)) ||
        !same(l3 + offsetof(net::Ipv6Header, next_header),
              net::kIpv6HeaderSize - offsetof(net::Ipv6Header, next_header))) {
      return false;
    }
  } else if (!same(l3, offsetof(net::Ipv4Header, total_length)) ||
             !same(l3 + offsetof(net::Ipv4Header, flags_fragment), 4) ||  // flags to protocol
             !same(l3 + offsetof(net::Ipv4Header, source), 2 * sizeof(net::Ipv4Address))) {
    return false;
  }
  net::TcpHeader a;
  net::TcpHeader b;
  if (!read_at(earlier.head_bytes(), l4, a) || !read_at(later.head_bytes(), l4, b)) return false;
  const size_t options = l4 + net::kTcpHeaderSize;
  return same(l4, 4) && same(l4 + offsetof(net::TcpHeader, acknowledgment), 4) &&
         a.data_offset == b.data_offset && ((a.flags ^ b.flags) & ~kEnding) == 0 &&
         same(l4 + offsetof(net::TcpHeader, window), 2) &&
         same(l4 + offsetof(net::TcpHeader, urgent_pointer), 2) &&
         same(options, of_earlier.payload_at - options);
}

bool checksums_right(const Packet& packet, const TcpSegment& segment) noexcept {
  const std::span<const std::byte> head = packet.head_bytes();
  net::Ipv4Header ip;
  net::TcpHeader tcp;
  if (!read_at(head, segment.l4, tcp)) return false;
  if (!segment.v6 && (!read_at(head, segment.l3, ip) || ip.checksum.value() == 0xffff ||
                      net::checksum(head.subspan(segment.l3, sizeof ip)).value() != 0)) {
    return false;
  }
  const Be16 pseudo = pseudo_sum(packet, segment, packet.size() - segment.l4);
  if (packet.meta.needs_csum) return tcp.checksum == pseudo;
  if (tcp.checksum.value() == 0xffff) return false;
  net::ChecksumSum sum = sum_packet(packet, segment.l4);
  sum.add_word(pseudo);
  return sum.checksum().value() == 0;
}

Be16 pseudo_sum(const Packet& packet, const TcpSegment& segment, uint32_t length) noexcept {
  const std::span<const std::byte> head = packet.head_bytes();
  net::Ipv4Header v4{};
  net::Ipv6Header v6{};
  if (segment.v6) {
    (void)read_at(head, segment.l3, v6);
    return net::pseudo_header(v6.source, v6.destination, net::kIpProtoTcp, length).sum();
  }
  (void)read_at(head, segment.l3, v4);
  return net::pseudo_header(v4.source, v4.destination, net::kIpProtoTcp, length).sum();
}

}  // namespace pollux::stage
