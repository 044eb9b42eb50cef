// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace pollux::virtio {

/// A run of our memory as a device sees it: what a driver queue makes descriptors of. The device
/// knows it by addresses of its own, which say nothing about where it lies here.
struct SharedWindow {
  const std::byte* base = nullptr;
  uint64_t size = 0;
  uint64_t addr = 0;  ///< the device's address of `base`

  [[nodiscard]] bool holds(const std::byte* at, uint64_t len) const noexcept {
    const auto offset = reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(base);
    return offset <= size && len <= size - offset;
  }

  /// The device's address of a byte inside.
  [[nodiscard]] uint64_t device_addr(const std::byte* at) const noexcept {
    return addr + static_cast<uint64_t>(at - base);
  }
};

}  // namespace pollux::virtio
