// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "pollux/mem/peer_memory.hpp"

namespace pollux {

/// I/O virtual addresses [first, last] that lie one after the other in this process.
struct IotlbRun {
  uint64_t first = 0;
  uint64_t last = 0;          ///< inclusive: a run may end where 64 bits end
  std::byte* host = nullptr;  ///< of `first`
  uint32_t region = 0;        ///< which of the peer's regions; runs of two regions never join
  uint8_t granted = 0;        ///< MemoryAccess bits
  uint8_t denied = 0;         ///< MemoryAccess bits that the IOMMU refused when it was asked

  [[nodiscard]] std::byte* at(uint64_t iova) const noexcept { return host + (iova - first); }
};

/// An address that some queue needs and its IOMMU has not told us.
struct IotlbMiss {
  uint64_t iova = 0;
  MemoryAccess access = MemoryAccess::kRead;

  static constexpr uint64_t kPageMask = 0xfff;  ///< no IOMMU has smaller pages
  /// The same for all that one answer is expected to serve.
  [[nodiscard]] uint64_t key() const noexcept {
    return (iova & ~kPageMask) | static_cast<uint64_t>(access);
  }
};

/// What is known of an IOMMU's mappings at one moment. Immutable; any thread.
class IotlbTable {
 public:
  using Runs = std::vector<IotlbRun>;

  /// Neither list overlaps itself or the other; both are sorted. `settled` is shared between
  /// tables, so that a mapping more does not cost a copy of all.
  IotlbTable(uint64_t number, std::shared_ptr<const Runs> settled, Runs recent)
      : number_(number), settled_(std::move(settled)), recent_(std::move(recent)) {}

  /// Grows with each table of an Iotlb.
  [[nodiscard]] uint64_t number() const noexcept { return number_; }

  /// The run that holds `iova`, or null.
  [[nodiscard]] const IotlbRun* find(uint64_t iova) const noexcept;

  /// Translates the start of [iova, iova + len), over as many runs as lie one after the other in
  /// this process too. kMiss when the IOMMU has not said, kFault when it refused.
  [[nodiscard]] Translation translate(uint64_t iova, uint64_t len,
                                      MemoryAccess access) const noexcept;

  [[nodiscard]] const std::shared_ptr<const Runs>& settled() const { return settled_; }
  [[nodiscard]] const Runs& recent() const { return recent_; }

 private:
  uint64_t number_;
  std::shared_ptr<const Runs> settled_;
  Runs recent_;
};

}  // namespace pollux
