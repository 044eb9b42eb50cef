// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/mem/peer_memory.hpp"

namespace pollux {

/// A userfaultfd: whoever holds it is asked for the pages of watched mappings that are not there
/// yet, while those who touch them wait in the kernel. The post-copy migration of a guest whose
/// front end fetches pages as they are needed. Control thread.
class PageFaults {
 public:
  /// Errors, with what to do: kUnsupported (the kernel has none for shared memory), kPermission.
  [[nodiscard]] static Result<PageFaults> open();

  [[nodiscard]] int fd() const { return fd_.get(); }

  /// From now on touching a page of the mapping that is absent waits for it.
  [[nodiscard]] Status watch(const PeerMapping& mapping) const;
  /// All pages are there: nobody waits any more.
  void unwatch(const PeerMapping& mapping) const noexcept;
  /// The pages will never come: puts zeros of our own in place of the mapping, and wakes whoever
  /// waits. Nothing is put into the peer's memory.
  void abandon(PeerMapping& mapping) const noexcept;

 private:
  explicit PageFaults(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace pollux
