// SPDX-License-Identifier: Apache-2.0
// What the guests of session_fuzz.cpp are offered, and what two bytes of an input negotiate.
#pragma once

#include <cstdint>

#include "tests/support/lying_terms.hpp"

namespace pollux::liar {

inline constexpr uint64_t kSendsLarge = spec::VIRTIO_NET_F_HOST_TSO4 | spec::VIRTIO_NET_F_HOST_TSO6;
inline constexpr uint64_t kOffloads = spec::VIRTIO_NET_F_CSUM | spec::VIRTIO_NET_F_GUEST_CSUM |
                                      kSendsLarge | spec::VIRTIO_NET_F_GUEST_TSO4 |
                                      spec::VIRTIO_NET_F_GUEST_TSO6;
inline constexpr uint64_t kCommands =
    spec::VIRTIO_NET_F_CTRL_VQ | spec::VIRTIO_NET_F_CTRL_RX | spec::VIRTIO_NET_F_CTRL_RX_EXTRA |
    spec::VIRTIO_NET_F_CTRL_VLAN | spec::VIRTIO_NET_F_CTRL_MAC_ADDR |
    spec::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
inline constexpr uint64_t kHashes = spec::VIRTIO_NET_F_RSS | spec::VIRTIO_NET_F_HASH_REPORT;
inline constexpr uint64_t kAlways = spec::VIRTIO_F_VERSION_1 |
                                    spec::VHOST_USER_F_PROTOCOL_FEATURES | spec::VIRTIO_NET_F_MQ |
                                    spec::VIRTIO_NET_F_MTU | spec::VIRTIO_NET_F_GUEST_ANNOUNCE;
inline constexpr uint64_t kOffered = kAlways | kOffloads | kCommands | kHashes |
                                     spec::VIRTIO_F_INDIRECT_DESC | spec::VIRTIO_F_EVENT_IDX |
                                     spec::VIRTIO_F_RING_PACKED | spec::VIRTIO_F_IN_ORDER |
                                     spec::VIRTIO_F_ACCESS_PLATFORM | spec::VIRTIO_NET_F_MRG_RXBUF;

inline Terms terms_of(uint16_t bits) {
  Terms terms;
  const auto has = [&](unsigned n) { return (bits >> n & 1) != 0; };
  terms.packed = has(0);
  terms.odd_size = has(1);
  terms.iommu = has(2);
  terms.in_band = has(3);
  terms.logged = has(4);
  terms.oblige = !has(5);
  terms.ready = !has(11);
  terms.inflight = has(14);
  terms.features = kAlways;
  if (has(0)) terms.features |= spec::VIRTIO_F_RING_PACKED;
  if (has(2)) terms.features |= spec::VIRTIO_F_ACCESS_PLATFORM;
  if (has(6)) terms.features |= spec::VIRTIO_F_EVENT_IDX;
  if (has(7)) terms.features |= spec::VIRTIO_F_IN_ORDER;
  if (!has(8)) terms.features |= spec::VIRTIO_F_INDIRECT_DESC;
  if (!has(9)) terms.features |= spec::VIRTIO_NET_F_MRG_RXBUF;
  if (!has(10)) terms.features |= kOffloads;
  if (!has(12)) terms.features |= kCommands;
  if (has(13)) terms.features |= kHashes;
  if (has(15)) terms.features &= ~kSendsLarge;  // so that its segments are joined for others
  return terms;
}

}  // namespace pollux::liar
