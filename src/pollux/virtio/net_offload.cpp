// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_offload.hpp"

#include <cstdint>

#include "pollux/net/ethernet.hpp"
#include "pollux/net/tcp.hpp"
#include "pollux/net/udp.hpp"
#include "pollux/net/wire.hpp"
#include "pollux/packet/parse.hpp"

namespace pollux::virtio {
namespace {

/// Linux never goes below: the smallest MSS of 48 less the 40 bytes of options.
constexpr uint16_t kMinGsoSize = 8;

/// One descriptor must not make work without end: 64 KiB in segments of 64 bytes, less than any
/// path has.
constexpr uint32_t kMaxGsoSegments = 1024;

/// The GSO type that `gso_type` (without ECN) means for such a packet; kNone when it is not one.
GsoType gso_of(uint8_t gso_type, const net::ParsedHeaders& headers) noexcept {
  const bool v4 = headers.ip_version == 4;
  switch (gso_type) {
    case spec::VIRTIO_NET_HDR_GSO_TCPV4:
      return v4 && headers.is_tcp() ? GsoType::kTcp4 : GsoType::kNone;
    case spec::VIRTIO_NET_HDR_GSO_TCPV6:
      return !v4 && headers.is_tcp() ? GsoType::kTcp6 : GsoType::kNone;
    case spec::VIRTIO_NET_HDR_GSO_UDP_L4:
      if (!headers.is_udp()) return GsoType::kNone;
      return v4 ? GsoType::kUdp4 : GsoType::kUdp6;
    case spec::VIRTIO_NET_HDR_GSO_UDP:
      if (!headers.is_udp()) return GsoType::kNone;
      return v4 ? GsoType::kUfo4 : GsoType::kUfo6;
    default:
      return GsoType::kNone;
  }
}

bool has_cwr(const Packet& packet, uint16_t l4_offset) noexcept {
  net::TcpHeader tcp;
  return net::read_at(packet.head_bytes(), l4_offset, tcp) && (tcp.flags & net::kTcpCwr) != 0;
}

bool apply_checksum(Packet& packet, const spec::virtio_net_hdr& hdr) noexcept {
  const uint32_t field_end = uint32_t{hdr.csum_start} + hdr.csum_offset + 2;
  if (hdr.csum_start < net::kEthernetHeaderSize || field_end > packet.size()) return false;
  packet.meta.needs_csum = true;
  packet.meta.csum_start = hdr.csum_start;
  packet.meta.csum_offset = hdr.csum_offset;
  return true;
}

bool apply_gso(Packet& packet, const spec::virtio_net_hdr& hdr,
               const net::ParsedHeaders& headers) noexcept {
  const auto type = static_cast<uint8_t>(hdr.gso_type & ~spec::VIRTIO_NET_HDR_GSO_ECN);
  const GsoType gso = gso_of(type, headers);
  if (gso == GsoType::kNone || headers.fragment || hdr.gso_size < kMinGsoSize) return false;
  if (headers.l3_offset + headers.l3_size != packet.size()) return false;
  PacketMeta& meta = packet.meta;
  const uint16_t field = headers.is_tcp() ? net::kTcpChecksumOffset : net::kUdpChecksumOffset;
  if (!meta.needs_csum || meta.csum_start != headers.l4_offset || meta.csum_offset != field) {
    return false;
  }
  // What is fragmented is all that follows the IP header, in units of 8 bytes (RFC 791, 3.2).
  const bool fragments = is_fragmentation(gso);
  const auto gso_size = static_cast<uint16_t>(fragments ? hdr.gso_size & ~7U : hdr.gso_size);
  const uint32_t bytes = packet.size() - (fragments ? headers.l4_offset : headers.payload_offset);
  if (bytes <= gso_size) return true;
  if (bytes > gso_size * kMaxGsoSegments) return false;
  meta.gso = gso;
  meta.gso_size = gso_size;
  meta.gso_ecn = headers.is_tcp() && has_cwr(packet, headers.l4_offset);
  return true;
}

}  // namespace

bool apply_offload(Packet& packet, const spec::virtio_net_hdr& hdr) noexcept {
  packet.meta.needs_csum = false;
  packet.meta.gso = GsoType::kNone;
  const net::ParsedHeaders headers = parse_headers(packet);
  const bool wants_csum = (hdr.flags & spec::VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
  if (wants_csum && !apply_checksum(packet, hdr)) return false;
  if (hdr.gso_type == spec::VIRTIO_NET_HDR_GSO_NONE) return true;
  if (apply_gso(packet, hdr, headers)) return true;
  packet.meta.needs_csum = false;
  return false;
}

}  // namespace pollux::virtio
