// SPDX-License-Identifier: Apache-2.0
// The network device; VIRTIO 1.3, section 5.1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/spec/virtio.hpp"

namespace pollux::spec {

// 5.1.3 Feature bits.
inline constexpr uint64_t VIRTIO_NET_F_CSUM = bit(0);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_CSUM = bit(1);
inline constexpr uint64_t VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = bit(2);
inline constexpr uint64_t VIRTIO_NET_F_MTU = bit(3);
inline constexpr uint64_t VIRTIO_NET_F_MAC = bit(5);
inline constexpr uint64_t VIRTIO_NET_F_GSO = bit(6);  // legacy, 5.1.3.3
inline constexpr uint64_t VIRTIO_NET_F_GUEST_TSO4 = bit(7);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_TSO6 = bit(8);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_ECN = bit(9);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_UFO = bit(10);
inline constexpr uint64_t VIRTIO_NET_F_HOST_TSO4 = bit(11);
inline constexpr uint64_t VIRTIO_NET_F_HOST_TSO6 = bit(12);
inline constexpr uint64_t VIRTIO_NET_F_HOST_ECN = bit(13);
inline constexpr uint64_t VIRTIO_NET_F_HOST_UFO = bit(14);
inline constexpr uint64_t VIRTIO_NET_F_MRG_RXBUF = bit(15);
inline constexpr uint64_t VIRTIO_NET_F_STATUS = bit(16);
inline constexpr uint64_t VIRTIO_NET_F_CTRL_VQ = bit(17);
inline constexpr uint64_t VIRTIO_NET_F_CTRL_RX = bit(18);
inline constexpr uint64_t VIRTIO_NET_F_CTRL_VLAN = bit(19);
inline constexpr uint64_t VIRTIO_NET_F_CTRL_RX_EXTRA = bit(20);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_ANNOUNCE = bit(21);
inline constexpr uint64_t VIRTIO_NET_F_MQ = bit(22);
inline constexpr uint64_t VIRTIO_NET_F_CTRL_MAC_ADDR = bit(23);
inline constexpr uint64_t VIRTIO_NET_F_VQ_NOTF_COAL = bit(52);
inline constexpr uint64_t VIRTIO_NET_F_NOTF_COAL = bit(53);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_USO4 = bit(54);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_USO6 = bit(55);
inline constexpr uint64_t VIRTIO_NET_F_HOST_USO = bit(56);
inline constexpr uint64_t VIRTIO_NET_F_HASH_REPORT = bit(57);
inline constexpr uint64_t VIRTIO_NET_F_GUEST_HDRLEN = bit(59);
inline constexpr uint64_t VIRTIO_NET_F_RSS = bit(60);
inline constexpr uint64_t VIRTIO_NET_F_STANDBY = bit(62);
inline constexpr uint64_t VIRTIO_NET_F_SPEED_DUPLEX = bit(63);

// 5.1.6 The header before each packet.
inline constexpr uint8_t VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
inline constexpr uint8_t VIRTIO_NET_HDR_F_DATA_VALID = 2;
inline constexpr uint8_t VIRTIO_NET_HDR_F_RSC_INFO = 4;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_NONE = 0;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_TCPV4 = 1;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_UDP = 3;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_TCPV6 = 4;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_UDP_L4 = 5;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_ECN = 0x80;

struct virtio_net_hdr {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;  // absent in the legacy layout without MRG_RXBUF, 5.1.6.1
};
static_assert(sizeof(virtio_net_hdr) == 12 && offsetof(virtio_net_hdr, num_buffers) == 10);

/// The header on the queues of a driver that negotiated HASH_REPORT, 5.1.6 and 5.1.6.4.4.
struct virtio_net_hdr_v1_hash {
  virtio_net_hdr hdr;
  uint32_t hash_value;
  uint16_t hash_report;
  uint16_t padding;
};
static_assert(sizeof(virtio_net_hdr_v1_hash) == 20);

/// 5.1.6.1: bytes of the header on a queue. Without VERSION_1 or MRG_RXBUF (legacy) it ends before
/// num_buffers.
inline constexpr size_t kNetHdrSize = 12;
inline constexpr size_t kLegacyNetHdrSize = 10;
inline constexpr size_t kHashNetHdrSize = 20;
constexpr size_t net_hdr_size(uint64_t features) {
  if ((features & VIRTIO_NET_F_HASH_REPORT) != 0) return kHashNetHdrSize;
  return (features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF)) != 0 ? kNetHdrSize
                                                                         : kLegacyNetHdrSize;
}

}  // namespace pollux::spec
