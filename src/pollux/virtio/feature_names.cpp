// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/feature_names.hpp"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "pollux/spec/vhost_user.hpp"
#include "pollux/spec/virtio_net.hpp"

namespace pollux::virtio {
namespace {

struct Name {
  uint64_t bit;
  std::string_view text;
};

constexpr std::array kNames{
    Name{spec::VIRTIO_NET_F_CSUM, "CSUM"},
    Name{spec::VIRTIO_NET_F_GUEST_CSUM, "GUEST_CSUM"},
    Name{spec::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, "CTRL_GUEST_OFFLOADS"},
    Name{spec::VIRTIO_NET_F_MTU, "MTU"},
    Name{spec::VIRTIO_NET_F_MAC, "MAC"},
    Name{spec::VIRTIO_NET_F_GSO, "GSO"},
    Name{spec::VIRTIO_NET_F_GUEST_TSO4, "GUEST_TSO4"},
    Name{spec::VIRTIO_NET_F_GUEST_TSO6, "GUEST_TSO6"},
    Name{spec::VIRTIO_NET_F_GUEST_ECN, "GUEST_ECN"},
    Name{spec::VIRTIO_NET_F_GUEST_UFO, "GUEST_UFO"},
    Name{spec::VIRTIO_NET_F_HOST_TSO4, "HOST_TSO4"},
    Name{spec::VIRTIO_NET_F_HOST_TSO6, "HOST_TSO6"},
    Name{spec::VIRTIO_NET_F_HOST_ECN, "HOST_ECN"},
    Name{spec::VIRTIO_NET_F_HOST_UFO, "HOST_UFO"},
    Name{spec::VIRTIO_NET_F_MRG_RXBUF, "MRG_RXBUF"},
    Name{spec::VIRTIO_NET_F_STATUS, "STATUS"},
    Name{spec::VIRTIO_NET_F_CTRL_VQ, "CTRL_VQ"},
    Name{spec::VIRTIO_NET_F_CTRL_RX, "CTRL_RX"},
    Name{spec::VIRTIO_NET_F_CTRL_VLAN, "CTRL_VLAN"},
    Name{spec::VIRTIO_NET_F_CTRL_RX_EXTRA, "CTRL_RX_EXTRA"},
    Name{spec::VIRTIO_NET_F_GUEST_ANNOUNCE, "GUEST_ANNOUNCE"},
    Name{spec::VIRTIO_NET_F_MQ, "MQ"},
    Name{spec::VIRTIO_NET_F_CTRL_MAC_ADDR, "CTRL_MAC_ADDR"},
    Name{spec::VIRTIO_F_NOTIFY_ON_EMPTY, "NOTIFY_ON_EMPTY"},
    Name{spec::VHOST_F_LOG_ALL, "LOG_ALL"},  // a front end's, while it migrates the guest
    Name{spec::VIRTIO_F_ANY_LAYOUT, "ANY_LAYOUT"},
    Name{spec::VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC"},
    Name{spec::VIRTIO_F_EVENT_IDX, "EVENT_IDX"},
    Name{spec::VIRTIO_F_VERSION_1, "VERSION_1"},
    Name{spec::VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM"},
    Name{spec::VIRTIO_F_RING_PACKED, "RING_PACKED"},
    Name{spec::VIRTIO_F_IN_ORDER, "IN_ORDER"},
    Name{spec::VIRTIO_F_ORDER_PLATFORM, "ORDER_PLATFORM"},
    Name{spec::VIRTIO_F_SR_IOV, "SR_IOV"},
    Name{spec::VIRTIO_F_NOTIFICATION_DATA, "NOTIFICATION_DATA"},
    Name{spec::VIRTIO_F_RING_RESET, "RING_RESET"},
    Name{spec::VIRTIO_NET_F_VQ_NOTF_COAL, "VQ_NOTF_COAL"},
    Name{spec::VIRTIO_NET_F_NOTF_COAL, "NOTF_COAL"},
    Name{spec::VIRTIO_NET_F_GUEST_USO4, "GUEST_USO4"},
    Name{spec::VIRTIO_NET_F_GUEST_USO6, "GUEST_USO6"},
    Name{spec::VIRTIO_NET_F_HOST_USO, "HOST_USO"},
    Name{spec::VIRTIO_NET_F_HASH_REPORT, "HASH_REPORT"},
    Name{spec::VIRTIO_NET_F_GUEST_HDRLEN, "GUEST_HDRLEN"},
    Name{spec::VIRTIO_NET_F_RSS, "RSS"},
    Name{spec::VIRTIO_NET_F_STANDBY, "STANDBY"},
    Name{spec::VIRTIO_NET_F_SPEED_DUPLEX, "SPEED_DUPLEX"},
};

// On a vhost-user socket bit 30 means VHOST_USER_F_PROTOCOL_FEATURES, nothing to a driver.
constexpr unsigned kVhostUserBit = 30;

}  // namespace

std::vector<std::string> net_feature_names(uint64_t features) {
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if ((features & spec::bit(bit)) == 0 || bit == kVhostUserBit) continue;
    std::string name = fmt::format("bit {}", bit);
    for (const Name& known : kNames) {
      if (known.bit == spec::bit(bit)) name = known.text;
    }
    names.push_back(std::move(name));
  }
  return names;
}

}  // namespace pollux::virtio
