// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/sim/config.hpp"
#include "tests/sim/run.hpp"

namespace pollux::sim {

struct Exploration {
  std::string failure;  ///< empty: nothing went wrong
  std::string choices;  ///< ... or those that led there
  bool complete = false;
  uint64_t runs = 0;
  uint64_t states = 0;
  uint64_t steps = 0;
};

/// Runs every order of both sides' accesses, and every value that each load may see, up to
/// `max_steps` accesses in all. States that were seen before are not entered again.
[[nodiscard]] Exploration explore(const Config& config, uint64_t max_steps);

/// Runs one of them.
[[nodiscard]] Outcome replay(const Config& config, std::string_view choices, bool trace);

}  // namespace pollux::sim
