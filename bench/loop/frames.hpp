// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pollux/spec/virtio_net.hpp"

namespace pollux::bench {

/// Frames without FCS: room for IPv4, UDP or TCP, and a number; and the largest that can be asked
/// for.
inline constexpr uint32_t kMinFrame = 62;
inline constexpr uint32_t kMaxFrame = 65535;
/// Larger ones are TCP segments to be cut by whoever needs them smaller.
inline constexpr uint32_t kMaxPlainFrame = 9216;
/// What is cut off such a segment: an MTU of 1500 with timestamps.
inline constexpr uint16_t kSegment = 1448;

/// A frame that can be told from all others: UDP over IPv4, or a large TCP segment, with a number
/// and bytes that follow from it. `size`: kMinFrame to kMaxFrame.
[[nodiscard]] std::vector<std::byte> make_frame(uint32_t number, uint32_t size);

/// The header that a driver puts before such a frame (VIRTIO 1.3, 5.1.6.2).
[[nodiscard]] spec::virtio_net_hdr header_for(uint32_t size);

/// The number in a frame; it may be any if the frame is none of ours.
[[nodiscard]] uint32_t number_of(std::span<const std::byte> frame);

/// Whether the frame is make_frame(number, size), but for its MAC addresses and the checksum of a
/// large segment, which somebody else is to fill in.
[[nodiscard]] bool is_whole(std::span<const std::byte> frame, uint32_t number, uint32_t size);

}  // namespace pollux::bench
