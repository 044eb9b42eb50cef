// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "apps/traffic/payload.hpp"
#include "bench/loop/frames.hpp"
#include "pollux/net/ethernet.hpp"
#include "pollux/net/ipv4.hpp"
#include "pollux/net/udp.hpp"

namespace pollux::bench {

/// Frames that know when they were sent: UDP headers as make_frame() has them, addresses and flow
/// by their number, then `gen`'s stamp and filling. Each byte follows from side, number and time.
class StampedFrames {
 public:
  explicit StampedFrames(const Traffic& traffic);

  /// Writes all of frame `number` of side `by` (0 or 1) but its time; returns its size.
  uint32_t write(std::byte* to, uint16_t by, uint64_t number) const noexcept;
  /// Puts the time into a frame that write() left.
  static void stamp(std::byte* frame, uint16_t by, uint64_t number, uint64_t time) noexcept;
  /// Number and time of a frame that side `by` sent; nothing if any byte is not as it was written.
  [[nodiscard]] std::optional<apps::Stamp> read(std::span<const std::byte> frame,
                                                uint16_t by) const noexcept;

 private:
  static constexpr size_t kStampAt =
      net::kEthernetHeaderSize + net::kIpv4HeaderSize + net::kUdpHeaderSize;
  static constexpr size_t kFillingAt = kStampAt + apps::Stamp::kSize;
  static_assert(kFillingAt <= kMinFrame);
  using Headers = std::array<std::byte, kStampAt>;

  [[nodiscard]] size_t kind(uint64_t number) const noexcept { return number % sizes_.size(); }
  void put_headers(std::byte* to, uint16_t by, uint64_t number) const noexcept;

  std::vector<uint32_t> sizes_;
  std::vector<Headers> headers_;  // for each of sizes_
  uint32_t first_mac_;
  uint32_t macs_;
  uint32_t flows_;
  apps::Filling filling_{1};
};

}  // namespace pollux::bench
