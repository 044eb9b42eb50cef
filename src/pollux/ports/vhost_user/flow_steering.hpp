// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "pollux/net/flow_hash.hpp"
#include "pollux/packet/packet.hpp"

namespace pollux::vhost_user {

/// Remembers in which transmitq a driver sent each flow, so that what comes back goes into the
/// receiveq beside it, to the CPU that waits for it: automatic receive steering, VIRTIO 1.3,
/// 5.1.6.5.6. Flows share places by their hash, and the last one to send has the place; whoever
/// is mistaken for another comes by a receiveq that the driver looks into as well. Any number of
/// threads.
class FlowSteering {
 public:
  /// A frame that came from transmitq `pair`.
  void note(const Packet& packet, uint16_t pair) noexcept {
    Place& place = places_[hash(packet, net::FlowDirection::kReverse) % kPlaces];
    const auto value = static_cast<uint8_t>(pair + 1);
    // Mostly it is known, and the line stays shared.
    if (place.load(std::memory_order_relaxed) != value) {
      place.store(value, std::memory_order_relaxed);
    }
  }

  struct Choice {
    std::optional<uint16_t> pair;  ///< none: the driver has not sent in this flow
    uint32_t hash;                 ///< to spread such flows by
  };
  /// Where a frame for the driver belongs.
  [[nodiscard]] Choice choose(const Packet& packet) const noexcept {
    const uint32_t own = hash(packet, net::FlowDirection::kOwn);
    const uint8_t value = places_[own % kPlaces].load(std::memory_order_relaxed);
    if (value == 0) return {std::nullopt, own};
    return {static_cast<uint16_t>(value - 1), own};
  }

 private:
  using Place = std::atomic<uint8_t>;  // 1 + the pair; 0: nothing known
  static constexpr size_t kPlaces = 4096;
  /// Anybody may work out where a flow goes: all that is won is a driver's other receiveq.
  static constexpr uint64_t kSeed = 0;

  [[nodiscard]] static uint32_t hash(const Packet& packet, net::FlowDirection direction) noexcept {
    return net::flow_hash(packet.head_bytes(), net::parse(packet.head_bytes()), kSeed, direction);
  }

  std::array<Place, kPlaces> places_{};
};

}  // namespace pollux::vhost_user
