// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "pollux/mem/shared_access.hpp"
#include "pollux/ring/packed_layout.hpp"

namespace pollux::ring {

/// A chain that a device holds, from the moment that it was found until its used descriptor is
/// written.
struct PackedChain {
  uint64_t addr;  ///< of its first descriptor, as are len and flags
  uint32_t len;   ///< once it was put: the bytes written to it
  uint16_t flags;
  uint16_t id;
  uint32_t count;  ///< descriptors
  uint32_t rest;   ///< private to the ring
};
static_assert(sizeof(PackedChain) == 24);

/// The last used descriptors that a device wrote, or is about to write: a batch that its driver is
/// to see all or none of. As one number it is never half written.
struct PackedBatch {
  PackedCursor at;      ///< its first used descriptor
  uint16_t moved = 0;   ///< descriptors that it covers; 0: nothing was used yet from `at` on
  uint16_t first = 0;   ///< where its chains begin in PackedJournal::chains; they may wrap around
  uint16_t chains = 0;  ///< how many

  [[nodiscard]] static constexpr PackedBatch from_wire(uint64_t value) {
    const auto part = [value](int shift) { return static_cast<uint16_t>(value >> shift); };
    return {PackedCursor::from_wire(part(0)), part(16), part(32), part(48)};
  }
  [[nodiscard]] constexpr uint64_t to_wire() const {
    return at.to_wire() | uint64_t{moved} << 16 | uint64_t{first} << 32 | uint64_t{chains} << 48;
  }
};

/// Memory of ours in which a device side keeps what a packed ring does not say: how far it was
/// used. If it outlives the process (a shared file), another one can go on there. The chains are
/// where the ring keeps them anyway, so a burst costs one store.
struct PackedJournal {
  uint64_t* batch = nullptr;        ///< a PackedBatch; written before the first used descriptor is
  std::span<PackedChain> chains{};  ///< places_for(ring size) of them

  [[nodiscard]] static constexpr uint32_t places_for(uint32_t ring_size) {
    return std::bit_ceil(ring_size);
  }
};

/// How to go on with a ring whose device has died.
struct PackedResume {
  PackedCursor next;    ///< where the next used descriptor goes
  uint16_t first = 0;   ///< chains from here on in the journal were being shown and are not yet
  uint16_t chains = 0;  ///< how many
};

/// Whether anything was ever used in this ring since its driver set it up: then it can not be
/// started at the beginning.
[[nodiscard]] inline bool packed_ring_has_run(const PackedLayout& layout) {
  const SharedAccess access;
  for (uint32_t i = 0; i < layout.size; ++i) {
    if ((access.load(&layout.desc[i].flags) & spec::VIRTQ_DESC_F_USED) != 0) return true;
  }
  return false;
}

/// Whether the ring shows that nobody was at `at` last whom it could be gone on for: its driver has
/// set it up anew since, or another device has gone on from there.
[[nodiscard]] bool packed_ring_left_behind(const PackedLayout& layout, PackedCursor at);

/// Where the device that wrote `journal` was in this ring, or the beginning if its driver has set
/// the ring up anew since; nothing if the two do not fit. Both may hold anything: nothing is taken
/// for true that would lead out of either.
[[nodiscard]] std::optional<PackedResume> recall(const PackedLayout& layout,
                                                 const PackedJournal& journal);

}  // namespace pollux::ring
