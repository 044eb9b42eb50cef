// SPDX-License-Identifier: Apache-2.0
// The network device's configuration space and control queue; VIRTIO 1.3, sections 5.1.4 and
// 5.1.6.5, and the hashes of 5.1.6.4.3.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "pollux/base/endian.hpp"

namespace pollux::spec {

// 5.1.4 Device configuration layout.
inline constexpr uint16_t VIRTIO_NET_S_LINK_UP = 1;
inline constexpr uint32_t VIRTIO_NET_SPEED_UNKNOWN = 0xffffffff;
inline constexpr uint8_t VIRTIO_NET_DUPLEX_FULL = 1;
inline constexpr uint8_t VIRTIO_NET_DUPLEX_UNKNOWN = 0xff;

struct virtio_net_config {
  std::array<uint8_t, 6> mac;
  Le16 status;
  Le16 max_virtqueue_pairs;
  Le16 mtu;
  Le32 speed;  // Mbit/s
  uint8_t duplex;
  uint8_t rss_max_key_size;
  Le16 rss_max_indirection_table_length;
  Le32 supported_hash_types;
  Le32 supported_tunnel_types;
};
static_assert(sizeof(virtio_net_config) == 28 && offsetof(virtio_net_config, speed) == 12 &&
              offsetof(virtio_net_config, rss_max_indirection_table_length) == 18 &&
              offsetof(virtio_net_config, supported_hash_types) == 20);

// 5.1.6.5 Control virtqueue: class, command, data, then the device's one byte of acknowledgement.
struct virtio_net_ctrl_hdr {
  uint8_t class_;
  uint8_t command;
};
static_assert(sizeof(virtio_net_ctrl_hdr) == 2);

inline constexpr uint8_t VIRTIO_NET_OK = 0;
inline constexpr uint8_t VIRTIO_NET_ERR = 1;

// 5.1.6.5.1 Packet receive filtering: data is one byte, 0 or 1.
inline constexpr uint8_t VIRTIO_NET_CTRL_RX = 0;
inline constexpr uint8_t VIRTIO_NET_CTRL_RX_PROMISC = 0;
inline constexpr uint8_t VIRTIO_NET_CTRL_RX_ALLMULTI = 1;
inline constexpr uint8_t VIRTIO_NET_CTRL_RX_ALLUNI = 2;
inline constexpr uint8_t VIRTIO_NET_CTRL_RX_NOMULTI = 3;
inline constexpr uint8_t VIRTIO_NET_CTRL_RX_NOUNI = 4;
inline constexpr uint8_t VIRTIO_NET_CTRL_RX_NOBCAST = 5;

// 5.1.6.5.2 MAC address filtering: two tables of le32 entries, u8 macs[entries][6]; or one address.
inline constexpr uint8_t VIRTIO_NET_CTRL_MAC = 1;
inline constexpr uint8_t VIRTIO_NET_CTRL_MAC_TABLE_SET = 0;
inline constexpr uint8_t VIRTIO_NET_CTRL_MAC_ADDR_SET = 1;

// 5.1.6.5.3 VLAN filtering: data is le16.
inline constexpr uint8_t VIRTIO_NET_CTRL_VLAN = 2;
inline constexpr uint8_t VIRTIO_NET_CTRL_VLAN_ADD = 0;
inline constexpr uint8_t VIRTIO_NET_CTRL_VLAN_DEL = 1;
inline constexpr uint16_t kVlanIds = 4096;

// 5.1.6.5.4 Gratuitous packet sending: no data.
inline constexpr uint8_t VIRTIO_NET_CTRL_ANNOUNCE = 3;
inline constexpr uint8_t VIRTIO_NET_CTRL_ANNOUNCE_ACK = 0;

// 5.1.6.5.5 to 5.1.6.5.7 Multiqueue.
inline constexpr uint8_t VIRTIO_NET_CTRL_MQ = 4;
inline constexpr uint8_t VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0;
inline constexpr uint8_t VIRTIO_NET_CTRL_MQ_RSS_CONFIG = 1;
inline constexpr uint8_t VIRTIO_NET_CTRL_MQ_HASH_CONFIG = 2;
inline constexpr uint16_t VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN = 1;

/// 5.1.6.5.7.1: the beginning of RSS_CONFIG; le16 indirection_table[indirection_table_mask + 1],
/// le16 max_tx_vq, u8 hash_key_length and the key follow.
struct virtio_net_rss_config_head {
  Le32 hash_types;
  Le16 indirection_table_mask;
  Le16 unclassified_queue;
};
static_assert(sizeof(virtio_net_rss_config_head) == 8);

// 5.1.6.5.8 Offloads state: data is le64 of GUEST_... feature bits.
inline constexpr uint8_t VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5;
inline constexpr uint8_t VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0;

// 5.1.6.4.3 Hash types, and what a header reports of them: type 1 << (report - 1).
inline constexpr uint32_t VIRTIO_NET_HASH_TYPE_IPv4 = 1U << 0;
inline constexpr uint32_t VIRTIO_NET_HASH_TYPE_TCPv4 = 1U << 1;
inline constexpr uint32_t VIRTIO_NET_HASH_TYPE_UDPv4 = 1U << 2;
inline constexpr uint32_t VIRTIO_NET_HASH_TYPE_IPv6 = 1U << 3;
inline constexpr uint32_t VIRTIO_NET_HASH_TYPE_TCPv6 = 1U << 4;
inline constexpr uint32_t VIRTIO_NET_HASH_TYPE_UDPv6 = 1U << 5;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_NONE = 0;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_IPv4 = 1;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_TCPv4 = 2;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_UDPv4 = 3;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_IPv6 = 4;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_TCPv6 = 5;
inline constexpr uint8_t VIRTIO_NET_HASH_REPORT_UDPv6 = 6;

/// Least that a device with RSS supports (5.1.4.1), and what drivers use.
inline constexpr size_t kRssKeySize = 40;
inline constexpr uint16_t kRssTableLength = 128;

}  // namespace pollux::spec
