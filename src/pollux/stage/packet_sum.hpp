// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "pollux/net/checksum.hpp"
#include "pollux/packet/packet.hpp"

namespace pollux::stage {

/// The sum of a packet's bytes from `start` to its end, wherever head and segments meet.
[[nodiscard]] inline net::ChecksumSum sum_packet(const Packet& packet, uint32_t start) noexcept {
  net::ChecksumSum sum;
  const auto add = [&](const std::byte* data, uint32_t len) {
    const uint32_t skipped = std::min(start, len);
    start -= skipped;
    if (len != skipped) sum.add({data + skipped, len - skipped});
  };
  add(packet.head(), packet.head_size());
  for (const Segment& segment : packet.tail()) add(segment.data, segment.len);
  return sum;
}

}  // namespace pollux::stage
