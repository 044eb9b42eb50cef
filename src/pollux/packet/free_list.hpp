// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>

namespace pollux {

/// The free items of a pool that no cache holds: a bounded stack, last in first out so that what
/// is handed out is warm. Many threads; a lock is taken for a bulk of items, never for one packet.
template <typename T>
class FreeList {
 public:
  explicit FreeList(size_t capacity) : items_(std::make_unique<T[]>(capacity)) {}

  /// Takes up to `count` items; returns how many.
  size_t pop(T* out, size_t count) noexcept {
    lock();
    const size_t n = std::min(count, size_);
    size_ -= n;
    std::copy_n(items_.get() + size_, n, out);
    unlock();
    return n;
  }

  /// Gives items back. Never more than were taken out, hence always room.
  void push(const T* items, size_t count) noexcept {
    lock();
    std::copy_n(items, count, items_.get() + size_);
    size_ += count;
    unlock();
  }

  /// A snapshot, for statistics and tests.
  [[nodiscard]] size_t size() noexcept {
    lock();
    const size_t n = size_;
    unlock();
    return n;
  }

 private:
  void lock() noexcept {
    for (unsigned spins = 0; locked_.exchange(true, std::memory_order_acquire); ++spins) {
      // The holder may have been descheduled when there are more threads than CPUs.
      if (spins > 64) std::this_thread::yield();
    }
  }
  void unlock() noexcept { locked_.store(false, std::memory_order_release); }

  std::atomic<bool> locked_{false};
  size_t size_ = 0;
  std::unique_ptr<T[]> items_;
};

/// One thread's stock of free items before a FreeList: allocation and release are an array access.
template <typename T, size_t kCapacity = 512>
class FreeCache {
 public:
  explicit FreeCache(FreeList<T>& list) : list_(&list) {}
  FreeCache(const FreeCache&) = delete;
  FreeCache& operator=(const FreeCache&) = delete;
  ~FreeCache() { list_->push(items_.data(), size_); }

  /// One item, or false when pool and cache are empty.
  [[nodiscard]] bool get(T& out) noexcept {
    if (size_ == 0 && !refill(1)) return false;
    out = items_[--size_];
    return true;
  }

  /// Up to `count` items (at most kCapacity / 2); returns how many.
  [[nodiscard]] size_t get_bulk(T* out, size_t count) noexcept {
    if (size_ < count) refill(count);
    const size_t n = std::min(count, size_);
    size_ -= n;
    std::copy_n(items_.data() + size_, n, out);
    return n;
  }

  void put(const T& item) noexcept {
    if (size_ == kCapacity) spill();
    items_[size_++] = item;
  }

  void put_bulk(const T* items, size_t count) noexcept {
    for (size_t i = 0; i < count; ++i) put(items[i]);
  }

 private:
  bool refill(size_t least) noexcept {
    size_ += list_->pop(items_.data() + size_, std::max(least, kCapacity / 2) - size_);
    return size_ != 0;
  }
  // The coldest half goes back.
  void spill() noexcept {
    list_->push(items_.data(), kCapacity / 2);
    std::copy(items_.begin() + kCapacity / 2, items_.end(), items_.begin());
    size_ -= kCapacity / 2;
  }

  FreeList<T>* list_;
  size_t size_ = 0;
  std::array<T, kCapacity> items_;
};

}  // namespace pollux
