// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "pollux/packet/packet.hpp"
#include "pollux/spec/virtio_net.hpp"

namespace pollux::virtio {

/// True when a header that a driver sent asks for nothing: the common case.
[[nodiscard]] inline bool is_plain(const spec::virtio_net_hdr& hdr) noexcept {
  return ((hdr.flags & spec::VIRTIO_NET_HDR_F_NEEDS_CSUM) | hdr.gso_type) == 0;
}

/// True when the packet can be sent with an empty header.
[[nodiscard]] inline bool is_plain(const PacketMeta& meta) noexcept {
  return !meta.needs_csum && !meta.csum_valid && meta.gso == GsoType::kNone;
}

/// The header's gso_type for a packet (5.1.6.2).
[[nodiscard]] inline uint8_t gso_type_of(const PacketMeta& meta) noexcept {
  const auto ecn = static_cast<uint8_t>(meta.gso_ecn ? spec::VIRTIO_NET_HDR_GSO_ECN : 0);
  switch (meta.gso) {
    case GsoType::kTcp4:
      return spec::VIRTIO_NET_HDR_GSO_TCPV4 | ecn;
    case GsoType::kTcp6:
      return spec::VIRTIO_NET_HDR_GSO_TCPV6 | ecn;
    case GsoType::kUdp4:
    case GsoType::kUdp6:
      return spec::VIRTIO_NET_HDR_GSO_UDP_L4;
    case GsoType::kUfo4:
    case GsoType::kUfo6:
      return spec::VIRTIO_NET_HDR_GSO_UDP;
    case GsoType::kNone:
      break;
  }
  return spec::VIRTIO_NET_HDR_GSO_NONE;
}

/// The header that tells a receiver about `meta` (5.1.6.4): it has agreed to what is in it.
/// num_buffers is left 1.
[[nodiscard]] inline spec::virtio_net_hdr to_header(const PacketMeta& meta) noexcept {
  spec::virtio_net_hdr hdr{};
  hdr.num_buffers = 1;
  if (meta.needs_csum) {
    hdr.flags = spec::VIRTIO_NET_HDR_F_NEEDS_CSUM;
    hdr.csum_start = meta.csum_start;
    hdr.csum_offset = meta.csum_offset;
  } else if (meta.csum_valid) {
    hdr.flags = spec::VIRTIO_NET_HDR_F_DATA_VALID;
  }
  if (meta.gso != GsoType::kNone) {
    hdr.gso_type = gso_type_of(meta);
    hdr.gso_size = meta.gso_size;
    hdr.hdr_len = meta.payload_offset;
  }
  return hdr;
}

}  // namespace pollux::virtio
