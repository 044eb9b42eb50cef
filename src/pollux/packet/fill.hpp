// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "pollux/packet/pool.hpp"

namespace pollux {

/// Puts a copy of `frame` into an empty packet: whole into the head if it fits there, else its
/// first kHeadCopy bytes, and the rest into buffers of the pool. False, with the packet still
/// empty, when buffers run out or the frame is longer than Packet::kMaxLength.
[[nodiscard]] inline bool fill(Packet& packet, PoolCache& cache,
                               std::span<const std::byte> frame) noexcept {
  if (frame.size() <= Packet::kHeadCapacity) {
    packet.set_head_size(static_cast<uint32_t>(frame.size()));
    if (!frame.empty()) std::memcpy(packet.head(), frame.data(), frame.size());
    return true;
  }
  if (frame.size() > Packet::kMaxLength) return false;
  const size_t rest = frame.size() - Packet::kHeadCopy;
  if (!cache.append_room(packet, static_cast<uint32_t>(rest))) return false;
  packet.set_head_size(Packet::kHeadCopy);
  std::memcpy(packet.head(), frame.data(), Packet::kHeadCopy);
  const std::byte* from = frame.data() + Packet::kHeadCopy;
  for (const Segment& segment : packet.tail()) {
    std::memcpy(segment.data, from, segment.len);
    from += segment.len;
  }
  return true;
}

}  // namespace pollux
