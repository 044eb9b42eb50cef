// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace pollux {

/// Wakes one thread that sleeps while it has nothing to do. The others show it their work first
/// (a ring, a flag), then ring(); that costs one atomic exchange, and a system call only when the
/// thread sleeps.
class Doorbell {
 public:
  /// Sleeps until somebody rings, unless `ready()` says that there is work already. May return
  /// without either. One thread.
  template <typename Ready>
  void wait(Ready&& ready) noexcept {
    // Both sides exchange the same word, so either ring() sees the sleeper, or the sleeper sees
    // what was shown before ring().
    asleep_.exchange(1, std::memory_order_acq_rel);
    if (!ready()) asleep_.wait(1, std::memory_order_acquire);
    asleep_.store(0, std::memory_order_relaxed);
  }

  /// Any thread.
  void ring() noexcept {
    if (asleep_.exchange(0, std::memory_order_acq_rel) != 0) asleep_.notify_one();
  }

 private:
  std::atomic<uint32_t> asleep_{0};
};

}  // namespace pollux
