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
/// Flows that frames can be of.
inline constexpr uint32_t kMaxFlows = 1 << 24;

/// What the frames are.
struct Traffic {
  std::vector<uint32_t> sizes{64};  ///< in turn
  uint32_t in_flight = 256;         ///< frames on their way at most, each direction
  uint32_t first_mac = 0;           ///< pair of addresses to begin with
  uint32_t macs = 1;                ///< addresses on each side, in turn
  uint32_t flows = 1;               ///< of each direction, in turn; at most kMaxFlows
  bool touch = false;               ///< read and write all of each frame
  bool shared = false;              ///< there may be frames that are not for us
};

/// A frame that can be told from all others: UDP over IPv4, or a large TCP segment, of flow 0, with
/// a number and bytes that follow from it. `size`: kMinFrame to kMaxFrame.
[[nodiscard]] std::vector<std::byte> make_frame(uint32_t number, uint32_t size);

/// MAC addresses of pair `mac` for a frame that side `by` (0 or 1) sends:
/// 02:0a:... is on the first side, 02:0b:... on the second.
void put_macs(std::byte* frame, size_t by, uint32_t mac) noexcept;

/// Whether side `at` has the frame's destination address.
[[nodiscard]] bool is_for(const std::byte* frame, size_t at, const Traffic& traffic) noexcept;

/// A broadcast frame from the first address of side `by`, which tells a switch where that is.
[[nodiscard]] std::vector<std::byte> make_announcement(size_t by, const Traffic& traffic);

/// IP addresses and ports of flow `flow`; the checksums stay right.
void put_flow(std::byte* frame, uint32_t flow) noexcept;

/// The header that a driver puts before such a frame (VIRTIO 1.3, 5.1.6.2).
[[nodiscard]] spec::virtio_net_hdr header_for(uint32_t size);

/// The number in a frame; it may be any if the frame is none of ours.
[[nodiscard]] uint32_t number_of(std::span<const std::byte> frame);

/// Whether the frame is make_frame(number, size) of one of so many flows, but for its MAC addresses
/// and the checksum of a large segment, which somebody else is to fill in.
[[nodiscard]] bool is_whole(std::span<const std::byte> frame, uint32_t number, uint32_t size,
                            uint32_t flows);

}  // namespace pollux::bench
