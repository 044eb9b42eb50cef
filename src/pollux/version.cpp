// SPDX-License-Identifier: Apache-2.0
#include "pollux/version.hpp"

namespace pollux {

std::string_view version() noexcept { return kVersion; }

}  // namespace pollux
