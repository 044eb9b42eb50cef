// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/memory_slot.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

namespace pollux::vhost {

Result<MemorySlot> make_slot(const spec::VhostUserMemoryRegion& region, UniqueFd fd) {
  const uint64_t end = region.mmap_offset + region.memory_size;
  if (end < region.mmap_offset || end > static_cast<uint64_t>(INT64_MAX)) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the region of {:#x} bytes at file offset {:#x} wraps around",
                            region.memory_size, region.mmap_offset));
  }
  return MemorySlot{region, std::make_shared<const UniqueFd>(std::move(fd))};
}

Result<PeerRegion> map_region(const MemorySlot& slot) {
  UniqueFd fd(fcntl(slot.fd->get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "can not keep a descriptor of the peer's memory");
  const spec::VhostUserMemoryRegion& r = slot.region;
  auto mapping = PeerMapping::map(std::move(fd), r.mmap_offset, r.memory_size);
  if (!mapping) return forward(mapping);
  return PeerRegion{GuestAddr{r.guest_phys_addr}, UserAddr{r.userspace_addr}, r.memory_size,
                    (*mapping)->data(), *mapping};
}

MemorySlot* find_slot(std::vector<MemorySlot>& slots, const spec::VhostUserMemoryRegion& region) {
  const auto at = std::find_if(slots.begin(), slots.end(), [&](const MemorySlot& slot) {
    return same_place(slot.region, region);
  });
  return at == slots.end() ? nullptr : &*at;
}

}  // namespace pollux::vhost
