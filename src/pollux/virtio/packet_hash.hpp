// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "pollux/net/toeplitz.hpp"
#include "pollux/packet/packet.hpp"
#include "pollux/virtio/net_control.hpp"

namespace pollux::virtio {

/// Computes the hashes of VIRTIO 1.3, 5.1.6.4.3, as a driver configured them. Immutable; any
/// number of threads.
class PacketHash {
 public:
  explicit PacketHash(const HashState& state) : types_(state.types), toeplitz_(state.key) {}

  struct Value {
    uint32_t hash = 0;
    uint8_t report = spec::VIRTIO_NET_HASH_REPORT_NONE;  ///< which kind; NONE: not computed
  };

  /// The hash of the most specific kind that is enabled and fits the packet: of addresses and
  /// ports (not of fragments), else of addresses. Extension headers of IPv6 are skipped.
  [[nodiscard]] Value of(const Packet& packet) const noexcept;

 private:
  [[nodiscard]] bool enabled(uint8_t report) const noexcept {
    return (types_ & (1U << (report - 1))) != 0;
  }

  uint32_t types_;
  net::Toeplitz toeplitz_;
};

}  // namespace pollux::virtio
