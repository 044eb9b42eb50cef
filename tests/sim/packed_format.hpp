// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "tests/sim/access.hpp"

namespace pollux::sim {

/// What the sides have to know of the packed format (VIRTIO 1.3, 2.8).
template <ring::UsedEntries kUsed>
struct PackedFormat {
  using Layout = ring::PackedLayout;
  using Driver = ring::PackedDriverRing<Access>;
  using Device = ring::PackedDeviceRing<Access, kUsed>;

  /// Where a dead device was does not show in the ring's memory: the driver has to say it.
  static constexpr bool kResumesFromMemory = false;
  static constexpr uint32_t kStart = 0x8000;  // descriptor 0, wrap counter 1

  static size_t bytes(uint32_t size) { return ring::packed_bytes(size); }
  static Layout place(std::byte* at, uint32_t size) { return ring::place_packed(at, size); }

  /// 2.8: both sides write descriptors in turn; each has an event structure of its own.
  static void add_parts(std::vector<Part>& parts, const std::byte* base, const Layout& layout) {
    const auto add = [&](const char* name, const void* at, size_t bytes, uint8_t may) {
      const auto begin = static_cast<size_t>(static_cast<const std::byte*>(at) - base);
      parts.push_back({name, begin, begin + bytes, may});
    };
    add("desc", layout.desc, spec::packed_desc_bytes(layout.size), 15);
    add("driver event", layout.driver, sizeof *layout.driver,
        Part::kDriverWrites | Part::kDeviceReads);
    add("device event", layout.device, sizeof *layout.device,
        Part::kDeviceWrites | Part::kDriverReads);
  }

  static Driver make_driver(World& world, const Layout& layout, const Config& config,
                            const ring::IndirectTables& tables) {
    return Driver(layout,
                  {.event_idx = config.event_idx, .in_order = config.in_order, .indirect = tables},
                  Access(world, Side::kDriver));
  }
  static Device make_device(World& world, const Layout& layout, const Config& config, PeerView view,
                            uint32_t resume) {
    return Device({layout, ring::PackedCursor::from_wire(static_cast<uint16_t>(resume)),
                   config.tables != 0, config.event_idx},
                  view, Access(world, Side::kDevice));
  }

  /// Where the next device goes on after an orderly stop.
  static uint32_t resume_point(const Device& device) { return device.next_avail().to_wire(); }
};

}  // namespace pollux::sim
