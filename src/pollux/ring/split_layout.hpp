// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/spec/virtio_ring.hpp"

namespace pollux::ring {

/// Where the three parts of a split virtqueue lie in this process; VIRTIO 1.3, section 2.7.
/// The parts are shared with a peer: nothing reads them but through SharedAccess.
struct SplitLayout {
  uint32_t size = 0;  ///< entries, a power of two up to 32768
  spec::virtq_desc* desc = nullptr;
  spec::virtq_avail* avail = nullptr;
  spec::virtq_used* used = nullptr;

  /// used_event, behind the available ring: written by the driver.
  [[nodiscard]] uint16_t* used_event() const noexcept { return &avail->ring[size]; }
  /// avail_event, behind the used ring: written by the device.
  [[nodiscard]] uint16_t* avail_event() const noexcept {
    return reinterpret_cast<uint16_t*>(&used->ring[size]);
  }
};

/// 2.7: a split queue's size is a power of two, at most 32768.
[[nodiscard]] constexpr bool valid_split_size(uint32_t size) {
  return size != 0 && size <= spec::kMaxSplitQueueSize && (size & (size - 1)) == 0;
}

/// Bytes that `place_split` needs for a queue whose parts lie one after the other, each on cache
/// lines of its own.
[[nodiscard]] constexpr size_t split_bytes(uint32_t size) {
  const auto lines = [](size_t n) { return (n + 63) / 64 * 64; };
  return lines(spec::desc_bytes(size)) + lines(spec::avail_bytes(size)) +
         lines(spec::used_bytes(size));
}

/// Lays a queue out in [at, at + split_bytes(size)), as a driver does; `at` is 64-byte aligned.
/// Nothing is written.
[[nodiscard]] inline SplitLayout place_split(std::byte* at, uint32_t size) {
  const auto lines = [](size_t n) { return (n + 63) / 64 * 64; };
  std::byte* avail = at + lines(spec::desc_bytes(size));
  std::byte* used = avail + lines(spec::avail_bytes(size));
  return {size, reinterpret_cast<spec::virtq_desc*>(at),
          reinterpret_cast<spec::virtq_avail*>(avail), reinterpret_cast<spec::virtq_used*>(used)};
}

}  // namespace pollux::ring
