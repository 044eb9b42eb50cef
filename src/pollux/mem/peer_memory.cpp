// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/peer_memory.hpp"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <limits>

#include "pollux/mem/absent_pages.hpp"
#include "pollux/mem/iotlb_reader.hpp"
#include "pollux/mem/sigbus_guard.hpp"

namespace pollux {
namespace {

/// Memory files only: a regular file could stall a worker on disk reads.
Status check_is_memory(int fd) {
  struct statfs fs{};
  if (fstatfs(fd, &fs) != 0) return fail_errno(errno, "can not inspect the peer's memory file");
  if (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC) {
    return fail(ErrorCode::kInvalidArgument,
                "the peer's memory is not on tmpfs, memfd or hugetlbfs: share it from one of those "
                "(QEMU: memory-backend-memfd with share=on)");
  }
  return {};
}

Status check_holds(int fd, uint64_t offset, uint64_t size) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return fail_errno(errno, "can not inspect the peer's memory file");
  if (!S_ISREG(st.st_mode) || size == 0 || offset > static_cast<uint64_t>(st.st_size) ||
      size > static_cast<uint64_t>(st.st_size) - offset) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the region at offset {:#x} of {:#x} bytes is not inside the peer's "
                            "file of {:#x} bytes",
                            offset, size, static_cast<uint64_t>(st.st_size)));
  }
  return {};
}

/// hugetlbfs maps whole huge pages only.
uint64_t page_size_of(int fd) {
  struct stat st{};
  return fstat(fd, &st) == 0 && st.st_blksize > 4096 ? static_cast<uint64_t>(st.st_blksize) : 4096;
}

}  // namespace

Result<std::shared_ptr<PeerMapping>> PeerMapping::map(UniqueFd fd, uint64_t offset, uint64_t size) {
  if (auto ok = check_is_memory(fd.get()); !ok) return forward(ok);
  if (auto ok = check_holds(fd.get(), offset, size); !ok) return forward(ok);
  const uint64_t page = page_size_of(fd.get());
  const uint64_t lead = offset % page;
  const uint64_t length = (lead + size + page - 1) / page * page;
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(),
                    static_cast<off_t>(offset - lead));
  if (base == MAP_FAILED) return fail_errno(errno, "can not map the peer's memory");
  madvise(base, length, MADV_DONTDUMP);  // a guest's secrets stay out of our core dumps

  struct stat file{};
  std::shared_ptr<PeerMapping> mapping(new PeerMapping);
  if (fstat(fd.get(), &file) == 0) mapping->place_ = {file.st_dev, file.st_ino, offset};
  mapping->base_ = base;
  mapping->length_ = length;
  mapping->data_ = static_cast<std::byte*>(base) + lead;
  mapping->size_ = size;
  mapping->guard_slot_ = sigbus_guard(base, length, &mapping->faulted_);
  if (mapping->guard_slot_ < 0) {
    return fail(ErrorCode::kResource,
                "too many memory regions of peers are mapped: let some of the peers go");
  }
  return mapping;
}

PeerMapping::~PeerMapping() {
  sigbus_unguard(guard_slot_);
  if (base_ != nullptr) munmap(base_, length_);
}

void PeerMapping::replace_by_zeros() noexcept {
  if (map_zeros(base_, length_)) faulted_.store(true, std::memory_order_relaxed);
}

Result<std::shared_ptr<const PeerMemory>> PeerMemory::create(std::vector<PeerRegion> regions,
                                                             std::shared_ptr<AbsentPages> absent) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  std::sort(regions.begin(), regions.end(),
            [](const PeerRegion& a, const PeerRegion& b) { return a.guest < b.guest; });
  uint64_t previous_end = 0;
  for (size_t i = 0; i < regions.size(); ++i) {
    const PeerRegion& r = regions[i];
    if (r.size == 0 || r.host == nullptr || r.guest.value > kMax - r.size ||
        r.user.value > kMax - r.size) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("memory region at guest address {:#x} is empty or wraps around",
                              r.guest.value));
    }
    if (i > 0 && r.guest.value < previous_end) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("memory regions overlap at guest address {:#x}", r.guest.value));
    }
    previous_end = r.guest.value + r.size;
  }
  return std::shared_ptr<const PeerMemory>(new PeerMemory(std::move(regions), std::move(absent)));
}

const PeerRegion* PeerMemory::find(GuestAddr addr) const noexcept {
  auto after =
      std::upper_bound(regions_.begin(), regions_.end(), addr,
                       [](GuestAddr a, const PeerRegion& region) { return a < region.guest; });
  if (after == regions_.begin()) return nullptr;
  const PeerRegion& region = *std::prev(after);
  return addr.value - region.guest.value < region.size ? &region : nullptr;
}

Translation PeerMemory::translate(GuestAddr addr, uint64_t len,
                                  MemoryAccess /*access*/) const noexcept {
  const PeerRegion* region = find(addr);
  if (region == nullptr) return {};
  const uint64_t offset = addr.value - region->guest.value;
  return when_present(
      {region->host + offset, std::min(len, region->size - offset), TranslationStatus::kOk});
}

Translation PeerMemory::when_present(Translation found) const noexcept {
  if (!absent_) [[likely]]
    return found;
  found.size = std::min(found.size, AbsentPages::kMaxRange);
  if (absent_->present(found.data, found.size)) return found;
  return {nullptr, 0, TranslationStatus::kMiss};
}

Translation PeerMemory::translate_user(UserAddr addr, uint64_t len) const noexcept {
  for (const PeerRegion& region : regions_) {
    const uint64_t offset = addr.value - region.user.value;
    if (addr < region.user || offset >= region.size || len > region.size - offset) continue;
    return {region.host + offset, len, TranslationStatus::kOk};
  }
  return {};
}

std::optional<GuestAddr> PeerMemory::guest_address(const std::byte* host) const noexcept {
  for (const PeerRegion& region : regions_) {
    const auto offset =
        reinterpret_cast<uintptr_t>(host) - reinterpret_cast<uintptr_t>(region.host);
    if (offset < region.size) return GuestAddr{region.guest.value + offset};
  }
  return std::nullopt;
}

bool PeerMemory::present(const std::byte* at, uint64_t len) const noexcept {
  return !absent_ || absent_->present(at, len);
}

std::optional<FilePlace> PeerMemory::file_place(const std::byte* host) const noexcept {
  for (const PeerRegion& region : regions_) {
    const auto offset =
        reinterpret_cast<uintptr_t>(host) - reinterpret_cast<uintptr_t>(region.host);
    if (offset >= region.size || !region.mapping) continue;
    FilePlace place = region.mapping->place();
    place.offset += static_cast<uint64_t>(region.host - region.mapping->data()) + offset;
    return place;
  }
  return std::nullopt;
}

bool PeerMemory::faulted() const {
  return std::any_of(regions_.begin(), regions_.end(), [](const PeerRegion& region) {
    return region.mapping && region.mapping->faulted();
  });
}

Translation PeerView::translate_slowly(uint64_t addr, uint64_t len, MemoryAccess access) noexcept {
  if (iotlb_ != nullptr) return translate_iova(addr, len, access);
  const PeerRegion* region = memory_->find(GuestAddr{addr});
  if (region != nullptr && !memory_->absent()) {  // else each page is looked at
    windows_[access == MemoryAccess::kWrite ? 1 : 0] = {region->guest.value, region->size,
                                                        region->host};
  }
  return memory_->translate(GuestAddr{addr}, len, access);
}

Translation PeerView::translate_iova(uint64_t addr, uint64_t len, MemoryAccess access) noexcept {
  const IotlbTable& table = iotlb_->table();
  const Translation found = table.translate(addr, len, access);
  if (found.status == TranslationStatus::kMiss) iotlb_->report(addr, access);
  if (found.status != TranslationStatus::kOk) return found;
  if (memory_->absent()) return memory_->when_present(found);
  const IotlbRun& run = *table.find(addr);
  // The size of all 64 bits would be 0: no window, no harm.
  windows_[access == MemoryAccess::kWrite ? 1 : 0] = {run.first, run.last - run.first + 1,
                                                      run.host};
  return found;
}

bool PeerView::refresh_mappings() noexcept {
  if (!iotlb_->refresh()) return false;
  windows_ = {};
  return true;
}

}  // namespace pollux
