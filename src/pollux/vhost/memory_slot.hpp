// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/mem/peer_memory.hpp"
#include "pollux/vhost/session_state.hpp"

namespace pollux::vhost {

/// A region with its descriptor, if file offset and size make sense together.
[[nodiscard]] Result<MemorySlot> make_slot(const spec::VhostUserMemoryRegion& region, UniqueFd fd);

/// Maps a region. The slot keeps its descriptor, to map it again after a hand-over.
[[nodiscard]] Result<PeerRegion> map_region(const MemorySlot& slot);

/// The slot with these addresses and this size, or null. The file offset says nothing: text,
/// REM_MEM_REG.
[[nodiscard]] MemorySlot* find_slot(std::vector<MemorySlot>& slots,
                                    const spec::VhostUserMemoryRegion& region);

[[nodiscard]] inline bool same_place(const spec::VhostUserMemoryRegion& a,
                                     const spec::VhostUserMemoryRegion& b) {
  return a.guest_phys_addr == b.guest_phys_addr && a.userspace_addr == b.userspace_addr &&
         a.memory_size == b.memory_size;
}

}  // namespace pollux::vhost
