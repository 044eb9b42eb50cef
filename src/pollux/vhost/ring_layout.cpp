// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/ring_layout.hpp"

#include <fmt/format.h>

#include <array>

#include "pollux/spec/virtio.hpp"
#include "pollux/vhost/session_state.hpp"

namespace pollux::vhost {
namespace {

/// One of the three parts of a ring, in the order desc, avail, used of SET_VRING_ADDR.
struct Part {
  const char* name;
  size_t size;
  size_t align;
  MemoryAccess access;
};
using Parts = std::array<Part, 3>;

/// The event fields of a split ring belong to it only if they are used: a legacy driver's ring may
/// end right before them.
Parts parts_of_split(uint32_t size, bool event_idx) {
  const size_t unused = event_idx ? 0 : sizeof(uint16_t);
  return {
      {{"descriptor table", spec::desc_bytes(size), spec::kDescAlign, MemoryAccess::kRead},
       {"available ring", spec::avail_bytes(size) - unused, spec::kAvailAlign, MemoryAccess::kRead},
       {"used ring", spec::used_bytes(size) - unused, spec::kUsedAlign, MemoryAccess::kBoth}}};
}

Parts parts_of_packed(uint32_t size) {
  constexpr size_t kEvent = sizeof(spec::pvirtq_event_suppress);
  return {{{"descriptor ring", spec::packed_desc_bytes(size), spec::kPackedDescAlign,
            MemoryAccess::kBoth},
           {"driver event suppression", kEvent, spec::kPackedEventAlign, MemoryAccess::kRead},
           {"device event suppression", kEvent, spec::kPackedEventAlign, MemoryAccess::kWrite}}};
}

bool aligned(uint64_t address, size_t to) { return address % to == 0; }

}  // namespace

Status check_ring_size(bool packed, uint32_t size) {
  if (packed ? ring::valid_packed_size(size) : ring::valid_split_size(size)) return {};
  return fail(
      ErrorCode::kProtocol,
      packed ? fmt::format("{} is not a ring size: it is 1 to {}", size, spec::kMaxPackedQueueSize)
             : fmt::format("{} is not a ring size: it is a power of two up to {}", size,
                           spec::kMaxSplitQueueSize));
}

Status check_ring_alignment(bool packed, const spec::vhost_vring_addr& addr) {
  const Parts parts = packed ? parts_of_packed(1) : parts_of_split(1, true);
  if (aligned(addr.desc_user_addr, parts[0].align) &&
      aligned(addr.avail_user_addr, parts[1].align) &&
      aligned(addr.used_user_addr, parts[2].align)) {
    return {};
  }
  return fail(ErrorCode::kProtocol, fmt::format("ring {} is misaligned", addr.index));
}

Status check_ring_base(bool packed, uint32_t base, uint32_t size) {
  if (!packed) {
    if (base <= UINT16_MAX) return {};
    return fail(ErrorCode::kProtocol, fmt::format("{:#x} is not an index of a split ring", base));
  }
  const auto at = ring::PackedPosition::from_wire(base);
  if (size == 0 || (at.avail.index < size && at.used.index < size)) return {};
  return fail(ErrorCode::kProtocol,
              fmt::format("{:#x} is not a position in a packed ring of {} entries", base, size));
}

Result<RingLayout> translate_ring(const VringState& vring, uint64_t features,
                                  const std::function<Result<std::byte*>(const RingPart&)>& find) {
  const bool packed = (features & spec::VIRTIO_F_RING_PACKED) != 0;
  const Parts parts = packed
                          ? parts_of_packed(vring.size)
                          : parts_of_split(vring.size, (features & spec::VIRTIO_F_EVENT_IDX) != 0);
  const std::array at{vring.desc, vring.avail, vring.used};
  std::array<std::byte*, 3> host{};
  Status all;
  for (size_t i = 0; i < parts.size(); ++i) {
    auto found = find({parts[i].name, at[i].value, parts[i].size, parts[i].access});
    if (!found) {
      if (all) all = forward(found);
      continue;
    }
    if (all && !aligned(reinterpret_cast<uintptr_t>(*found), parts[i].align)) {
      all = fail(ErrorCode::kProtocol, fmt::format("its {} is misaligned", parts[i].name));
    }
    host[i] = *found;
  }
  if (!all) return forward(all);
  if (packed) {
    return ring::PackedLayout{vring.size, reinterpret_cast<spec::pvirtq_desc*>(host[0]),
                              reinterpret_cast<spec::pvirtq_event_suppress*>(host[1]),
                              reinterpret_cast<spec::pvirtq_event_suppress*>(host[2])};
  }
  return ring::SplitLayout{vring.size, reinterpret_cast<spec::virtq_desc*>(host[0]),
                           reinterpret_cast<spec::virtq_avail*>(host[1]),
                           reinterpret_cast<spec::virtq_used*>(host[2])};
}

bool ring_is_here(const PeerMemory& memory, const RingLayout& layout) {
  // All parts, so that all that are missing are asked for.
  const auto here = [&](const auto* part, uint64_t size) {
    return static_cast<unsigned>(memory.present(reinterpret_cast<const std::byte*>(part), size));
  };
  if (const auto* split = std::get_if<ring::SplitLayout>(&layout)) {
    return (here(split->desc, spec::desc_bytes(split->size)) &
            here(split->avail, spec::avail_bytes(split->size)) &
            here(split->used, spec::used_bytes(split->size))) != 0;
  }
  const auto& packed = std::get<ring::PackedLayout>(layout);
  return (here(packed.desc, spec::packed_desc_bytes(packed.size)) &
          here(packed.driver, sizeof *packed.driver) &
          here(packed.device, sizeof *packed.device)) != 0;
}

}  // namespace pollux::vhost
