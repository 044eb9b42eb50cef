// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "pollux/port/quiescence.hpp"

namespace pollux {

/// Quiescence of a program whose one thread drives ports in turns: between turns it holds nothing
/// borrowed. Control work may be done by that thread between turns, or by others (a virtio-user
/// port has a thread of its own), which then wait for such a moment.
class TurnQuiescence final : public Quiescence {
 public:
  /// A turn: what happens from the first poll to the last complete() and flush().
  class Turn {
   public:
    explicit Turn(TurnQuiescence& owner) noexcept : owner_(owner) { owner_.step(); }
    ~Turn() { owner_.step(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    TurnQuiescence& owner_;
  };

  [[nodiscard]] bool synchronize(Nanos deadline) noexcept override {
    const auto until = std::chrono::steady_clock::now() + deadline;
    // This exchange comes before that of the next turn's begin, which so sees what the caller has
    // unpublished.
    const uint64_t then = steps_.fetch_add(0, std::memory_order_acq_rel);
    if (then % 2 == 0) return true;
    while (steps_.load(std::memory_order_acquire) == then) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return true;
  }

 private:
  void step() noexcept { steps_.fetch_add(1, std::memory_order_acq_rel); }

  std::atomic<uint64_t> steps_{0};  // odd: inside a turn
};

}  // namespace pollux
