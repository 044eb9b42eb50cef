// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pollux/ring/split_device_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "tests/sim/access.hpp"

namespace pollux::sim {

/// What the sides have to know of the split format (VIRTIO 1.3, 2.7).
template <ring::UsedEntries kUsed>
struct SplitFormat {
  using Layout = ring::SplitLayout;
  using Driver = ring::SplitDriverRing<Access>;
  using Device = ring::SplitDeviceRing<Access, kUsed>;

  static constexpr bool kResumesFromMemory = true;
  static constexpr uint32_t kStart = 0;

  static size_t bytes(uint32_t size) { return ring::split_bytes(size); }
  static Layout place(std::byte* at, uint32_t size) { return ring::place_split(at, size); }

  /// 2.7.5.2, 2.7.6.3, 2.7.8: who writes what; nobody reads back what is his own.
  static void add_parts(std::vector<Part>& parts, const std::byte* base, const Layout& layout) {
    const auto add = [&](const char* name, const void* at, size_t bytes, uint8_t may) {
      const auto begin = static_cast<size_t>(static_cast<const std::byte*>(at) - base);
      parts.push_back({name, begin, begin + bytes, may});
    };
    constexpr uint8_t kFromDriver = Part::kDriverWrites | Part::kDeviceReads;
    constexpr uint8_t kFromDevice = Part::kDeviceWrites | Part::kDriverReads;
    add("desc", layout.desc, spec::desc_bytes(layout.size), kFromDriver);
    add("avail", layout.avail, spec::avail_bytes(layout.size), kFromDriver);
    add("used", layout.used, spec::used_bytes(layout.size), kFromDevice);
  }

  static Driver make_driver(World& world, const Layout& layout, const Config& config,
                            const ring::IndirectTables& tables) {
    return Driver(layout,
                  {.event_idx = config.event_idx, .in_order = config.in_order, .indirect = tables},
                  Access(world, Side::kDriver));
  }
  static Device make_device(World& world, const Layout& layout, const Config& config, PeerView view,
                            uint32_t resume) {
    return Device({layout, static_cast<uint16_t>(resume), config.tables != 0, config.event_idx},
                  view, Access(world, Side::kDevice));
  }

  /// Where the next device goes on: after an orderly stop, or after a death.
  static uint32_t resume_point(const Device& device) { return device.next_avail(); }
  static uint32_t resume_point(World& world, const Layout& layout) {
    const auto at = reinterpret_cast<const std::byte*>(&layout.used->idx) - world.base();
    return static_cast<uint32_t>(world.memory().newest(static_cast<size_t>(at), 2));
  }
  /// How many chains lie between two such points.
  static uint32_t distance(uint32_t from, uint32_t to, const Layout& /*layout*/) {
    return static_cast<uint16_t>(to - from);
  }
};

}  // namespace pollux::sim
