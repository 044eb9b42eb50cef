// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/dirty_log.hpp"

#include <algorithm>
#include <utility>

namespace pollux {

Result<std::shared_ptr<DirtyLog>> DirtyLog::map(UniqueFd fd, uint64_t offset, uint64_t size) {
  auto mapping = PeerMapping::map(std::move(fd), offset, size);
  if (!mapping) return forward(mapping);
  auto log = std::make_shared<DirtyLog>(std::span((*mapping)->data(), (*mapping)->size()));
  log->mapping_ = std::move(*mapping);
  return log;
}

void DirtyLog::mark(uint64_t addr, uint64_t size) noexcept {
  if (size == 0) return;
  const uint64_t last_byte = addr + (size - 1);
  const uint64_t end = pages();
  uint64_t page = addr / kPage;
  uint64_t last = last_byte / kPage;
  if (last_byte < addr || last >= end) [[unlikely]] {
    set_incomplete();
    if (page >= end) return;
    last = end - 1;
  }
  for (; page <= last; ++page) {
    // A full read-modify-write even if the bit is set: it keeps the order of our bytes before the
    // mark, which a mere look at the bit would not.
    __atomic_fetch_or(reinterpret_cast<uint8_t*>(&bits_[page / 8]),
                      static_cast<uint8_t>(1U << (page % 8)), __ATOMIC_SEQ_CST);
  }
  if (!touched_.load(std::memory_order_relaxed)) touched_.store(true, std::memory_order_relaxed);
}

WriteLog::WriteLog(const PeerMemory& memory, std::shared_ptr<DirtyLog> log, const RingArea& ring)
    : log_(std::move(log)), ring_(ring) {
  for (const PeerRegion& region : memory.regions()) {
    ranges_.push_back({reinterpret_cast<uintptr_t>(region.host), region.size, region.guest.value});
  }
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& a, const Range& b) { return a.host < b.host; });
}

void WriteLog::note_buffer(const void* host, size_t size) const noexcept {
  if (size == 0) return;
  const auto at = reinterpret_cast<uintptr_t>(host);
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), at,
                       [](uintptr_t address, const Range& range) { return address < range.host; });
  if (after == ranges_.begin() || at - std::prev(after)->host >= std::prev(after)->size) {
    log_->set_incomplete();
    return;
  }
  const Range& range = *std::prev(after);
  log_->mark(range.guest + (at - range.host), size);
}

void WriteLog::note_ring(const void* host, size_t size) const noexcept {
  if (!ring_.logged) return;
  const uint64_t offset =
      reinterpret_cast<uintptr_t>(host) - reinterpret_cast<uintptr_t>(ring_.host);
  if (offset < ring_.size) {
    log_->mark(ring_.logged_at.value + offset, size);
  } else {
    note_buffer(host, size);
  }
}

void PeerView::note_buffer(const WriteLog& log, const void* host, size_t size) noexcept {
  log.note_buffer(host, size);
}

void PeerView::note_ring(const WriteLog& log, const void* host, size_t size) noexcept {
  log.note_ring(host, size);
}

}  // namespace pollux
