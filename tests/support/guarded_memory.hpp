// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define POLLUX_TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POLLUX_TEST_ASAN 1
#endif
#endif
#ifdef POLLUX_TEST_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace pollux::test {

/// `size` bytes of zeros that end right before a page that nobody may touch, with another such page
/// in front. The rest of the first page holds canaries; AddressSanitizer, if built in, does not let
/// it be touched either. Whatever reads or writes outside therefore faults, or is found out when
/// the memory dies.
class GuardedMemory {
 public:
  /// The first byte lies on a multiple of `align`, hence up to `align` - 1 canaries behind the end.
  explicit GuardedMemory(size_t size, size_t align = 1) : size_(size) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t tail = (align - size % align) % align;
    room_ = (size + tail + page - 1) / page * page;
    length_ = room_ + 2 * page;
    void* all =
        mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) std::abort();
    all_ = static_cast<std::byte*>(all);
    first_ = all_ + page;
    if (mprotect(first_, room_, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = first_ + room_ - size - tail;
    for (std::byte& b : before()) b = kCanary;
    for (std::byte& b : behind()) b = kCanary;
    poison(true);
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory() {
    poison(false);
    const auto intact = [](std::span<std::byte> bytes) {
      return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == kCanary; });
    };
    EXPECT_TRUE(intact(before())) << "somebody wrote before the memory's start";
    EXPECT_TRUE(intact(behind())) << "somebody wrote behind the memory's end";
    munmap(all_, length_);
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  static constexpr std::byte kCanary{0xc5};

  [[nodiscard]] std::span<std::byte> before() const { return {first_, data_}; }
  [[nodiscard]] std::span<std::byte> behind() const { return {data_ + size_, first_ + room_}; }
  void poison([[maybe_unused]] bool on) const {
#ifdef POLLUX_TEST_ASAN
    for (const std::span<std::byte> bytes : {before(), behind()}) {
      if (on) {
        ASAN_POISON_MEMORY_REGION(bytes.data(), bytes.size());
      } else {
        ASAN_UNPOISON_MEMORY_REGION(bytes.data(), bytes.size());
      }
    }
#endif
  }

  size_t size_;
  size_t room_ = 0;    // whole pages that may be touched
  size_t length_ = 0;  // with both guard pages
  std::byte* all_ = nullptr;
  std::byte* first_ = nullptr;
  std::byte* data_ = nullptr;
};

}  // namespace pollux::test
