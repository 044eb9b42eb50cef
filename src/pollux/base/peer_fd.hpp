// SPDX-License-Identifier: Apache-2.0
// Descriptors that came from a peer. The peer keeps the file description that they name, and with
// it O_NONBLOCK: it can clear the flag between any two of our calls, and a call that relies on it
// then waits for as long as the peer likes.
#pragma once

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux {

/// Opens the pipe behind `fd` once more: non-blocking through a description that only we have.
/// For writing it is open for reading too, so that no write raises SIGPIPE. kPermission when the
/// peer runs as another user.
[[nodiscard]] Result<UniqueFd> open_own_pipe(int fd, bool writing);

/// Adds 1 to an eventfd, or writes 8 bytes to a pipe of our own, and never waits: for a worker. A
/// blocking eventfd whose counter the peer has filled would hold a write() for ever; so the kernel
/// adds for us, as it does when an asynchronous operation completes, and what is full stays full.
/// Some 0.6 us dearer than write(). Where the kernel has no such operations (io_setup(2)) it is
/// write(), with O_NONBLOCK set anew just before: a peer can win that race, but not by luck alone.
/// Any thread.
void signal_event(int fd) noexcept;

/// Whether signal_event() has its way of not waiting on this system.
[[nodiscard]] bool signals_without_waiting() noexcept;

}  // namespace pollux
