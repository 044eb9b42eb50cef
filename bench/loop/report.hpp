// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "bench/loop/loop.hpp"
#include "bench/loop/paced.hpp"
#include "bench/loop/plan.hpp"

namespace pollux::bench {

/// Frames that went round and round.
struct LoopResult {
  double seconds = 0;
  std::array<double, 2> frames{};
  double bytes = 0;
  double busy = 0;  ///< ticks
  double hertz = 0;
  Accounting accounting;

  [[nodiscard]] bool good() const { return accounting.lost == 0 && accounting.corrupt == 0; }
};

/// Frames at a rate.
struct PacedResult {
  double seconds = 0;  ///< of the window, or of its undisturbed slices
  double hertz = 0;
  Passage passage;  ///< all of it, the warming too
  Window window;
  uint64_t slices = 0;  ///< of it, if somebody was watched
  uint64_t undisturbed = 0;

  /// Sent and never seen as they were.
  [[nodiscard]] uint64_t lost() const { return passage.sent - passage.received; }
  [[nodiscard]] bool good() const {
    return lost() == 0 && passage.repeated == 0 && passage.corrupt == 0;
  }
};

/// Prints for people, or one JSON object. `features`: what was negotiated.
void print(const Options& options, const Plan& plan, uint64_t features, const LoopResult& result);
void print(const Options& options, const Plan& plan, uint64_t features, const PacedResult& result);

}  // namespace pollux::bench
