// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "pollux/base/result.hpp"

namespace pollux::control {

/// Where a switch's control socket is unless somebody says otherwise, so that `pollux stats` finds
/// it: /run/pollux/control.sock for root, $XDG_RUNTIME_DIR/pollux/control.sock for others, and
/// /tmp/pollux-UID/control.sock when that variable is not set.
[[nodiscard]] std::string default_control_socket();

/// The same for a given user and value of the variable ("" when not set).
[[nodiscard]] std::string default_control_socket(uid_t user, std::string_view runtime_dir);

/// The directory of that socket, for what else belongs to a run: /run/pollux for root.
[[nodiscard]] std::string default_run_directory();

/// Makes the last directory of the default path if it is missing, for its owner only. Errors:
/// kPermission when it belongs to somebody else or is open to others, the system's.
[[nodiscard]] Status make_default_directory();

}  // namespace pollux::control
