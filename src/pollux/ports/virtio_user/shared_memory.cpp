// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/virtio_user/shared_memory.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace pollux::virtio_user {
namespace {

constexpr uint64_t kGap = uint64_t{1} << 30;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

vhost::SharedMemoryRegion region(uint64_t addr, uint64_t offset, uint64_t size, int fd) {
  return {GuestAddr{addr}, size, UserAddr{addr}, offset, fd};
}

/// The pool's region in `pieces` that follow each other, whole pages each.
std::vector<vhost::SharedMemoryRegion> cut(const SharedRegion& pool, uint32_t pieces) {
  const uint64_t page = pool.page_size();
  const uint64_t pages = pool.size() / page;
  const uint64_t count = std::clamp<uint64_t>(pieces, 1, std::max<uint64_t>(pages, 1));
  std::vector<vhost::SharedMemoryRegion> regions;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t from = pages * i / count * page;
    const uint64_t to = i + 1 == count ? pool.size() : pages * (i + 1) / count * page;
    regions.push_back(region(SharedMemory::kPoolAddr + from, from, to - from, pool.fd()));
  }
  return regions;
}

}  // namespace

size_t SharedMemory::ring_bytes(const Shape& shape) {
  return shape.packed ? ring::packed_bytes(shape.size) : ring::split_bytes(shape.size);
}

size_t SharedMemory::tables_bytes(const Shape& shape) {
  return size_t{std::min(shape.size, kMaxTables)} * shape.table_entries * sizeof(spec::virtq_desc);
}

size_t SharedMemory::pair_bytes(const Shape& shape) {
  return 2 * ring_bytes(shape) + round_up(tables_bytes(shape), 64);
}

Result<SharedMemory> SharedMemory::create(const Pool& pool, const Shape& shape) {
  const size_t control = shape.control ? round_up(ring_bytes(shape), 64) + kControlRoom : 0;
  auto rings = SharedRegion::create("pollux-rings", pair_bytes(shape) * (shape.rings / 2) + control,
                                    HugePages::kNever);
  if (!rings) return forward(rings);
  SharedMemory memory(std::move(*rings), shape);
  const SharedRegion& buffers = pool.region();
  memory.pool_ = {buffers.data(), buffers.size(), kPoolAddr};
  memory.rings_addr_ = round_up(kPoolAddr + buffers.size(), kGap) + kGap;
  memory.regions_ = cut(buffers, shape.pool_regions);
  memory.regions_.push_back(
      region(memory.rings_addr_, 0, memory.rings_.size(), memory.rings_.fd()));
  return memory;
}

std::byte* SharedMemory::place(uint32_t index) const {
  return rings_.data() + size_t{index / 2} * pair_bytes(shape_) +
         size_t{index % 2} * ring_bytes(shape_);
}

ring::SplitLayout SharedMemory::split_layout(uint32_t index) const {
  return ring::place_split(place(index), shape_.size);
}

ring::PackedLayout SharedMemory::packed_layout(uint32_t index) const {
  return ring::place_packed(place(index), shape_.size);
}

uint64_t SharedMemory::device_addr(const void* at) const {
  return rings_addr_ + static_cast<uint64_t>(static_cast<const std::byte*>(at) - rings_.data());
}

vhost::VringAddresses SharedMemory::addresses(uint32_t index) const {
  const auto tell = [this](const void* desc, const void* driver, const void* device) {
    vhost::VringAddresses addresses;
    addresses.desc = UserAddr{device_addr(desc)};
    addresses.avail = UserAddr{device_addr(driver)};
    addresses.used = UserAddr{device_addr(device)};
    return addresses;
  };
  if (shape_.packed) {
    const ring::PackedLayout at = packed_layout(index);
    return tell(at.desc, at.driver, at.device);
  }
  const ring::SplitLayout at = split_layout(index);
  return tell(at.desc, at.avail, at.used);
}

ring::IndirectTables SharedMemory::tables(uint32_t index) const {
  if (shape_.table_entries == 0 || index % 2 == 0) return {};
  std::byte* at = place(index) + ring_bytes(shape_);
  return {at, device_addr(at), std::min(shape_.size, kMaxTables), shape_.table_entries};
}

virtio::ControlRoom SharedMemory::control_room() const {
  std::byte* at = place(control_index()) + round_up(ring_bytes(shape_), 64);
  return {at, kControlRoom, device_addr(at)};
}

std::string SharedMemory::describe() const {
  uint64_t bytes = 0;
  for (const auto& r : regions_) bytes += r.size;
  return fmt::format("{} regions, {} MiB", regions_.size(), bytes >> 20);
}

}  // namespace pollux::virtio_user
