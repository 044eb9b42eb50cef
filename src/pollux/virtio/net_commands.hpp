// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pollux/net/ethernet.hpp"

namespace pollux::virtio {

/// A command of the control queue as its driver sends it: class, command and data; VIRTIO 1.3,
/// 5.1.6.5.
using NetCommand = std::vector<std::byte>;

/// `mode` is one of VIRTIO_NET_CTRL_RX_..., 5.1.6.5.1.
[[nodiscard]] NetCommand rx_mode_command(uint8_t mode, bool on);
/// 5.1.6.5.2: the driver's own address.
[[nodiscard]] NetCommand mac_command(const net::MacAddress& mac);
/// 5.1.6.5.6: queue pairs that the driver uses, from the first on.
[[nodiscard]] NetCommand queue_pairs_command(uint16_t pairs);

}  // namespace pollux::virtio
