// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>

namespace pollux {

/// Nanoseconds since an arbitrary start; monotonic within one Clock.
using Nanos = std::chrono::nanoseconds;

/// Where time comes from. Passed in, never global, so that tests and simulations own it.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Any thread.
  [[nodiscard]] virtual Nanos now() const noexcept = 0;
};

/// CLOCK_MONOTONIC.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] Nanos now() const noexcept override {
    return std::chrono::duration_cast<Nanos>(std::chrono::steady_clock::now().time_since_epoch());
  }
};

/// A clock that stands still until it is told to move; for tests.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] Nanos now() const noexcept override { return now_; }
  void advance(Nanos by) { now_ += by; }

 private:
  Nanos now_{0};
};

}  // namespace pollux
