// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

namespace pollux::sim {

/// Number of the mistake that the mutated rings make (`mutations.json`, from 1); 0: none.
inline int g_mutation = 0;

[[nodiscard]] constexpr bool mutated(int number) {
  return !std::is_constant_evaluated() && g_mutation == number;
}

}  // namespace pollux::sim
