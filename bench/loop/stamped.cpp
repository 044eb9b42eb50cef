// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/stamped.hpp"

#include <cstring>

namespace pollux::bench {

StampedFrames::StampedFrames(const Traffic& traffic)
    : sizes_(traffic.sizes),
      first_mac_(traffic.first_mac),
      macs_(traffic.macs),
      flows_(traffic.flows) {
  for (const uint32_t size : sizes_) {
    const std::vector<std::byte> frame = make_frame(0, size);
    std::memcpy(headers_.emplace_back().data(), frame.data(), kStampAt);
  }
}

void StampedFrames::put_headers(std::byte* to, uint16_t by, uint64_t number) const noexcept {
  std::memcpy(to, headers_[kind(number)].data(), kStampAt);
  put_macs(to, by, first_mac_ + static_cast<uint32_t>(number % macs_));
  put_flow(to, static_cast<uint32_t>(number % flows_));
}

uint32_t StampedFrames::write(std::byte* to, uint16_t by, uint64_t number) const noexcept {
  put_headers(to, by, number);
  const uint32_t size = sizes_[kind(number)];
  const size_t filling = size - kFillingAt;
  std::memcpy(to + kFillingAt, filling_.window(number, filling).data(), filling);
  return size;
}

void StampedFrames::stamp(std::byte* frame, uint16_t by, uint64_t number, uint64_t time) noexcept {
  const auto bytes = apps::Stamp{by, number, time}.encode();
  std::memcpy(frame + kStampAt, bytes.data(), bytes.size());
}

std::optional<apps::Stamp> StampedFrames::read(std::span<const std::byte> frame,
                                               uint16_t by) const noexcept {
  if (frame.size() < kFillingAt) return std::nullopt;
  apps::Stamp stamp;
  if (!stamp.decode(reinterpret_cast<const uint8_t*>(frame.data() + kStampAt)) ||
      stamp.stream != by || frame.size() != sizes_[kind(stamp.sequence)]) {
    return std::nullopt;
  }
  Headers want;
  put_headers(want.data(), by, stamp.sequence);
  const size_t filling = frame.size() - kFillingAt;
  if (std::memcmp(frame.data(), want.data(), want.size()) != 0 ||
      std::memcmp(frame.data() + kFillingAt, filling_.window(stamp.sequence, filling).data(),
                  filling) != 0) {
    return std::nullopt;
  }
  return stamp;
}

}  // namespace pollux::bench
