// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux {

/// Which pages to ask the system for.
enum class HugePages {
  kTry,      ///< huge pages when there are enough free ones, else normal pages
  kNever,    ///< normal pages
  kRequire,  ///< huge pages, or an error that says how to get them
};

/// Memory of ours that can be shared with another process by passing its one descriptor: a
/// sealed memfd, on huge pages when there are any. Needs no root and no mounted hugetlbfs.
/// Populated when it is created, so that using it never faults. Move-only; unmapped when it dies.
class SharedRegion {
 public:
  /// Makes a zeroed region of at least `size` bytes (rounded up to whole pages); `name` shows in
  /// /proc/PID/maps. Errors: kResource with advice when memory or huge pages are short.
  [[nodiscard]] static Result<SharedRegion> create(const std::string& name, size_t size,
                                                   HugePages pages = HugePages::kTry);

  SharedRegion(SharedRegion&& other) noexcept;
  SharedRegion& operator=(SharedRegion&& other) noexcept;
  ~SharedRegion();

  [[nodiscard]] std::span<std::byte> bytes() const { return {base_, size_}; }
  [[nodiscard]] std::byte* data() const { return base_; }
  [[nodiscard]] size_t size() const { return size_; }
  /// The memfd; stays the region's own.
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] size_t page_size() const { return page_size_; }
  /// For people: "18 MiB on 2 MiB pages".
  [[nodiscard]] std::string describe() const;

 private:
  SharedRegion(UniqueFd fd, std::byte* base, size_t size, size_t page_size)
      : fd_(std::move(fd)), base_(base), size_(size), page_size_(page_size) {}

  UniqueFd fd_;
  std::byte* base_ = nullptr;
  size_t size_ = 0;
  size_t page_size_ = 0;
};

}  // namespace pollux
