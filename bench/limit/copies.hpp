// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pollux::bench {

struct CopyJob {
  std::byte* to;
  const std::byte* from;
  size_t size;
};

/// A way to copy a burst of frames.
struct CopyVariant {
  const char* name;
  void (*copy)(std::byte* to, const std::byte* from, size_t size);
  uint32_t ahead;  ///< how many frames before its turn one's cache lines are asked for; 0: not
};

/// Those that this CPU has.
[[nodiscard]] std::span<const CopyVariant> copy_variants();

void copy_all(const CopyVariant& variant, std::span<const CopyJob> jobs);

}  // namespace pollux::bench
