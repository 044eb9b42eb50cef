// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_commands.hpp"

#include <cstring>

#include "pollux/base/endian.hpp"
#include "pollux/spec/virtio_net_control.hpp"

namespace pollux::virtio {
namespace {

template <typename T>
NetCommand make(uint8_t class_, uint8_t command, const T& data) {
  const spec::virtio_net_ctrl_hdr hdr{class_, command};
  NetCommand bytes(sizeof hdr + sizeof data);
  std::memcpy(bytes.data(), &hdr, sizeof hdr);
  std::memcpy(bytes.data() + sizeof hdr, &data, sizeof data);
  return bytes;
}

}  // namespace

NetCommand rx_mode_command(uint8_t mode, bool on) {
  return make(spec::VIRTIO_NET_CTRL_RX, mode, static_cast<uint8_t>(on ? 1 : 0));
}

NetCommand mac_command(const net::MacAddress& mac) {
  return make(spec::VIRTIO_NET_CTRL_MAC, spec::VIRTIO_NET_CTRL_MAC_ADDR_SET, mac.bytes());
}

NetCommand queue_pairs_command(uint16_t pairs) {
  Le16 data{};
  data.set(pairs);
  return make(spec::VIRTIO_NET_CTRL_MQ, spec::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, data);
}

}  // namespace pollux::virtio
