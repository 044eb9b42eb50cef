// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/base/result.hpp"

namespace pollux {

/// Keeps the calling thread on one CPU. Fails when there is no such CPU or this process may not
/// use it.
[[nodiscard]] Status pin_this_thread(int cpu);

}  // namespace pollux
