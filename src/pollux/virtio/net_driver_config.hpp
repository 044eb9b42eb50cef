// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/shared_window.hpp"

namespace pollux::virtio {

/// What a driver queue for network packets has to know besides its ring.
struct NetDriverConfig {
  SharedWindow window;    ///< the pool's region as the device sees it
  uint64_t features = 0;  ///< what was negotiated
  /// Most buffers of the pool that may be with the device at a time, whatever the ring's size: so
  /// that a device that returns none can not starve others.
  uint32_t max_buffers = std::numeric_limits<uint32_t>::max();

  [[nodiscard]] constexpr bool has(uint64_t feature) const {
    return (features & feature) == feature;
  }
  /// 5.1.6.6: a legacy device that did not offer ANY_LAYOUT wants the header in a descriptor of its
  /// own.
  [[nodiscard]] constexpr bool separate_header() const {
    return (features & (spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_ANY_LAYOUT)) == 0;
  }
};

}  // namespace pollux::virtio
