// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstdint>

namespace pollux {

/// Takes what was written to an eventfd (or pipe) that a peer holds too, so that it is not readable
/// any more. Never waits, even if the peer has made the descriptor blocking. False when the
/// descriptor is of a kind that can not be read so: then its being readable means nothing.
inline bool drain_event_fd(int fd) noexcept {
  uint64_t count = 0;
  const iovec where{&count, sizeof count};
  const ssize_t got = preadv2(fd, &where, 1, -1, RWF_NOWAIT);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

}  // namespace pollux
