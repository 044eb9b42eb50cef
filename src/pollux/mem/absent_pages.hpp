// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "pollux/base/result.hpp"
#include "pollux/mem/peer_memory.hpp"

namespace pollux {

/// Which pages of a peer's memory are there already, while a front end fetches them from where the
/// guest was before (post-copy migration). Who touches a page that is not waits in the kernel until
/// it is, maybe for ever. No worker and no control thread must: they ask here first, and do
/// something else meanwhile; threads of its own do the waiting.
class AbsentPages {
 public:
  /// Longest range that is looked at at a time.
  static constexpr uint64_t kMaxRange = uint64_t{1} << 20;

  /// Knows of the pages of all `regions` that have a mapping. Errors: kResource.
  [[nodiscard]] static Result<std::shared_ptr<AbsentPages>> create(
      std::span<const PeerRegion> regions);
  /// Waits for nobody: a thread that still waits for a page goes once that has come or was
  /// abandoned, and keeps the mappings until then.
  ~AbsentPages();
  AbsentPages(const AbsentPages&) = delete;
  AbsentPages& operator=(const AbsentPages&) = delete;

  /// True when all of [at, at + len) can be touched without waiting (len up to kMaxRange). If not,
  /// the first page that is missing is asked for: try again later. Any thread.
  [[nodiscard]] bool present(const std::byte* at, uint64_t len) noexcept;

  /// Readable (an eventfd) when a page has come that was asked for.
  [[nodiscard]] int arrivals() const;

 private:
  class Table;

  explicit AbsentPages(std::shared_ptr<Table> table) : table_(std::move(table)) {}

  std::shared_ptr<Table> table_;
};

}  // namespace pollux
