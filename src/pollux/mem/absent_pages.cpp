// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/absent_pages.hpp"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/quiet_thread.hpp"

namespace pollux {
namespace {

constexpr uintptr_t kPage = 4096;
constexpr uint64_t kBits = 64;
constexpr size_t kThreads = 4;
constexpr size_t kWanted = 64;

}  // namespace

/// What is known of the pages, shared with the threads that wait for them.
class AbsentPages::Table {
 public:
  Table(std::span<const PeerRegion> regions, UniqueFd arrivals) : arrivals_(std::move(arrivals)) {
    for (const PeerRegion& region : regions) {
      if (!region.mapping) continue;
      const std::span<std::byte> all = region.mapping->pages();
      const uint64_t pages = all.size() / kPage;
      areas_.push_back({reinterpret_cast<uintptr_t>(all.data()), pages,
                        std::make_unique<std::atomic<uint64_t>[]>((pages + kBits - 1) / kBits),
                        region.mapping});
    }
    std::sort(areas_.begin(), areas_.end(),
              [](const Area& a, const Area& b) { return a.base < b.base; });
  }

  [[nodiscard]] int arrivals() const { return arrivals_.get(); }
  [[nodiscard]] bool present(uintptr_t first, uint64_t len) noexcept;
  void fetch() noexcept;
  void stop() noexcept {
    stopping_.store(true);
    asked_.fetch_add(1);
    asked_.notify_all();
  }

 private:
  struct Area {
    uintptr_t base;
    uint64_t pages;
    std::unique_ptr<std::atomic<uint64_t>[]> there;  // a bit a page; set once, never cleared
    std::shared_ptr<PeerMapping> mapping;
  };

  [[nodiscard]] Area* find(uintptr_t at) noexcept;
  void ask(uintptr_t page) noexcept;

  std::vector<Area> areas_;  // sorted by base
  /// Pages asked for: 0, the page's address, or that with bit 0 set while a thread waits for it.
  std::array<std::atomic<uintptr_t>, kWanted> wanted_{};
  std::atomic<uint32_t> asked_{0};  // counts; threads sleep on it
  std::atomic<bool> stopping_{false};
  UniqueFd arrivals_;
};

AbsentPages::Table::Area* AbsentPages::Table::find(uintptr_t at) noexcept {
  const auto after =
      std::upper_bound(areas_.begin(), areas_.end(), at,
                       [](uintptr_t address, const Area& area) { return address < area.base; });
  if (after == areas_.begin()) return nullptr;
  Area& area = *std::prev(after);
  return at - area.base < area.pages * kPage ? &area : nullptr;
}

bool AbsentPages::Table::present(uintptr_t first, uint64_t len) noexcept {
  Area* area = len == 0 ? nullptr : find(first);
  if (area == nullptr) return true;  // memory of our own
  uint64_t page = (first - area->base) / kPage;
  const uint64_t end = std::min(area->pages, (first + (len - 1) - area->base) / kPage + 1);
  while (page < end) {
    std::atomic<uint64_t>& word = area->there[page / kBits];
    const uint64_t bit = uint64_t{1} << (page % kBits);
    if ((word.load(std::memory_order_acquire) & bit) != 0) {
      ++page;
      continue;
    }
    // The kernel knows, and what came stays.
    const uint64_t count = std::min(end - page, kBits - page % kBits);
    std::array<unsigned char, kBits> resident{};
    void* at = reinterpret_cast<void*>(area->base + page * kPage);
    if (mincore(at, count * kPage, resident.data()) != 0) return true;
    uint64_t known = 0;
    uint64_t run = 0;
    while (run < count && (resident[run] & 1) != 0) known |= bit << run++;
    if (known != 0) word.fetch_or(known, std::memory_order_release);
    page += run;
    if (run < count) {
      ask(area->base + page * kPage);
      return false;
    }
  }
  return true;
}

/// A place in the table that is taken is no loss: whoever misses a page asks again.
void AbsentPages::Table::ask(uintptr_t page) noexcept {
  std::atomic<uintptr_t>& place = wanted_[page / kPage % kWanted];
  uintptr_t nobody = 0;
  if (!place.compare_exchange_strong(nobody, page)) return;
  asked_.fetch_add(1);
  asked_.notify_one();
}

/// Takes what was asked for, waits for it by touching it, and says so.
void AbsentPages::Table::fetch() noexcept {
  while (!stopping_.load()) {
    const uint32_t seen = asked_.load();
    bool any = false;
    for (std::atomic<uintptr_t>& place : wanted_) {
      uintptr_t page = place.load();
      if (page == 0 || (page & 1) != 0 || !place.compare_exchange_strong(page, page | 1)) continue;
      (void)*reinterpret_cast<const volatile unsigned char*>(page);
      place.store(0);
      (void)eventfd_write(arrivals_.get(), 1);
      any = true;
      if (stopping_.load()) return;
    }
    if (!any) asked_.wait(seen);
  }
}

Result<std::shared_ptr<AbsentPages>> AbsentPages::create(std::span<const PeerRegion> regions) {
  UniqueFd arrivals(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!arrivals) return fail_errno(errno, "can not watch for the pages of a guest");
  auto table = std::make_shared<Table>(regions, std::move(arrivals));
  std::shared_ptr<AbsentPages> absent(new AbsentPages(table));
  for (size_t i = 0; i < kThreads; ++i) {
    std::thread thread = start_quiet_thread([table] {
      pthread_setname_np(pthread_self(), "pollux-pages");
      table->fetch();
    });
    // Nobody may wait for one that waits for a guest's page.
    thread.detach();
  }
  return absent;
}

AbsentPages::~AbsentPages() { table_->stop(); }

int AbsentPages::arrivals() const { return table_->arrivals(); }

bool AbsentPages::present(const std::byte* at, uint64_t len) noexcept {
  return table_->present(reinterpret_cast<uintptr_t>(at), len);
}

}  // namespace pollux
