// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/base/result.hpp"

namespace pollux::vhost {

/// Checks that a descriptor of the front end is an eventfd or a pipe, open for `access` (O_RDONLY,
/// O_WRONLY), and makes it non-blocking: a worker waits for no peer.
[[nodiscard]] Status prepare_event_fd(int fd, int access);

}  // namespace pollux::vhost
