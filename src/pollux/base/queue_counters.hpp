// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "pollux/base/counter.hpp"
#include "pollux/base/drop_reason.hpp"

namespace pollux {

/// Drops by reason. Rare, hence safe from any thread.
class DropCounters {
 public:
  void add(DropReason reason, uint64_t n = 1) noexcept {
    counts_[static_cast<size_t>(reason)].fetch_add(n, std::memory_order_relaxed);
  }
  [[nodiscard]] uint64_t value(DropReason reason) const noexcept {
    return counts_[static_cast<size_t>(reason)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, kDropReasonCount> counts_{};
};

/// What one direction of one queue has carried since its port was made; survives its peer.
/// `packets` and `bytes` have one writer at a time: the queue's worker, or whoever holds its lock.
/// rx: packets accepted from the peer. tx: packets given to the peer.
struct alignas(64) QueueCounters {
  Counter packets;
  Counter bytes;  ///< Ethernet frames without virtio-net header and FCS
  DropCounters drops;
};

}  // namespace pollux
