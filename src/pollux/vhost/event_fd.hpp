// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux::vhost {

/// Checks that a descriptor of the front end is an eventfd or a pipe, open for `access` (O_RDONLY,
/// O_WRONLY). A pipe comes back opened anew, so that no front end can make it block; eventfds are
/// for signal_event() and drain_event_fd().
[[nodiscard]] Result<UniqueFd> check_event_fd(UniqueFd fd, int access);

}  // namespace pollux::vhost
