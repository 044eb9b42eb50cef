// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <variant>

#include "pollux/base/result.hpp"
#include "pollux/mem/peer_memory.hpp"
#include "pollux/ring/packed_layout.hpp"
#include "pollux/ring/split_layout.hpp"
#include "pollux/spec/vhost_user.hpp"

namespace pollux::vhost {

struct VringState;

/// Where a ring lies in this process, in the format that was negotiated.
using RingLayout = std::variant<ring::SplitLayout, ring::PackedLayout>;

[[nodiscard]] inline uint32_t size_of(const RingLayout& layout) {
  return std::visit([](const auto& l) { return l.size; }, layout);
}

// What messages say of a ring, checked by the rules of its format. Errors: kProtocol.

/// SET_VRING_NUM: 2.7 and 2.8.
[[nodiscard]] Status check_ring_size(bool packed, uint32_t size);
/// SET_VRING_ADDR: 2.7 and 2.8.10.1.
[[nodiscard]] Status check_ring_alignment(bool packed, const spec::vhost_vring_addr& addr);
/// SET_VRING_BASE: an index of 16 bits, or places inside a ring of `size`; 0: not known yet.
[[nodiscard]] Status check_ring_base(bool packed, uint32_t base, uint32_t size);

/// What a ring that never got SET_VRING_BASE starts with (2.8.1: packed counters begin at 1).
[[nodiscard]] constexpr uint32_t initial_ring_base(bool packed) {
  return packed ? ring::PackedPosition{}.to_wire() : 0;
}

/// One of the three parts of a ring, where SET_VRING_ADDR says that it is.
struct RingPart {
  const char* name;
  uint64_t at;
  uint64_t size;
  MemoryAccess access;  ///< what the device does there
};

/// Host pointers to the parts of a ring whose size and addresses are known, aligned. `find` finds
/// each part whole, or says why not; all are looked for, and the first failure is returned.
/// `features`: negotiated.
[[nodiscard]] Result<RingLayout> translate_ring(
    const VringState& vring, uint64_t features,
    const std::function<Result<std::byte*>(const RingPart&)>& find);

/// True when the ring can be touched without waiting for its pages; asks for them if not. See
/// PeerMemory::present.
[[nodiscard]] bool ring_is_here(const PeerMemory& memory, const RingLayout& layout);

}  // namespace pollux::vhost
