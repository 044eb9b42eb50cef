// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/config.hpp"
#include "tests/sim/world.hpp"

namespace pollux::sim {

struct Outcome {
  std::string failure;  ///< empty: nothing went wrong
  uint64_t steps = 0;
};

/// One run: a driver and a device of the configured format, whose every doubt `chooser` decides.
[[nodiscard]] Outcome run_queue(const Config& config, Chooser& chooser, bool trace);

/// One run whose doubts config.seed decides.
[[nodiscard]] Outcome run_random(const Config& config, bool trace);

}  // namespace pollux::sim
