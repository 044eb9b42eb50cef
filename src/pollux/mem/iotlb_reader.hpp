// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "pollux/base/fd.hpp"
#include "pollux/mem/iotlb.hpp"

namespace pollux {

/// How workers call control when they miss a translation: an eventfd that is written once, however
/// many workers call, until control answers.
class MissBell {
 public:
  /// `fd` may be invalid: then nobody is called, and control looks by itself.
  explicit MissBell(UniqueFd fd) : fd_(std::move(fd)) {}

  [[nodiscard]] int fd() const { return fd_.get(); }

  /// Any thread.
  void ring() noexcept {
    if (rung_.exchange(true, std::memory_order_acq_rel)) return;
    if (fd_) (void)eventfd_write(fd_.get(), 1);
  }

  /// Control, before it looks what there is: whoever finds more afterwards rings again.
  void answer() noexcept {
    eventfd_t count = 0;
    if (fd_) (void)eventfd_read(fd_.get(), &count);
    rung_.exchange(false, std::memory_order_acq_rel);
  }

 private:
  UniqueFd fd_;
  std::atomic<bool> rung_{false};
};

/// One queue's eye on an Iotlb, and its way to say what it misses: without lock, allocation or
/// wait, each page once a table. Whoever has the queue uses it; `take` is control's.
class IotlbReader {
 public:
  IotlbReader(std::shared_ptr<const Iotlb> iotlb, std::shared_ptr<MissBell> bell)
      : iotlb_(std::move(iotlb)), bell_(std::move(bell)), table_(iotlb_->table()) {}

  /// Looks for a newer table, at the beginning of a turn; true if there is one. What was translated
  /// in the same turn stays good to its end.
  [[nodiscard]] bool refresh() noexcept {
    table_ = iotlb_->table();
    if (table_->number() == seen_) return false;
    seen_ = table_->number();
    reported_count_ = 0;
    return true;
  }

  [[nodiscard]] const IotlbTable& table() const noexcept { return *table_; }

  /// Tells control that this address is missing, unless it was told already.
  void report(uint64_t iova, MemoryAccess access) noexcept {
    const uint64_t page = IotlbMiss{iova, access}.key();
    for (size_t i = 0; i < reported_count_; ++i) {
      if (reported_[i] == page) return;
    }
    const uint32_t head = head_.load(std::memory_order_relaxed);
    // Acquire: control has read the entry that is overwritten now.
    if (reported_count_ == kEntries || head - tail_.load(std::memory_order_acquire) == kEntries) {
      return;  // again once some of these were answered
    }
    reported_[reported_count_++] = page;
    entries_[head % kEntries] = {iova, access};
    // Release: control sees the entry that it takes.
    head_.store(head + 1, std::memory_order_release);
    bell_->ring();
  }

  /// Control: the next miss that was reported, if any.
  [[nodiscard]] bool take(IotlbMiss& out) noexcept {
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    if (tail == head_.load(std::memory_order_acquire)) return false;
    out = entries_[tail % kEntries];
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }

 private:
  static constexpr size_t kEntries = 64;

  std::shared_ptr<const Iotlb> iotlb_;
  std::shared_ptr<MissBell> bell_;
  const IotlbTable* table_;
  uint64_t seen_ = 0;
  std::array<uint64_t, kEntries> reported_;  // since `seen_`
  size_t reported_count_ = 0;
  std::array<IotlbMiss, kEntries> entries_;  // a ring: the worker writes, control reads
  std::atomic<uint32_t> head_{0};
  std::atomic<uint32_t> tail_{0};
};

}  // namespace pollux
