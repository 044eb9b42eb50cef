// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "pollux/base/fd.hpp"

namespace pollux {

/// Linux passes at most this many descriptors at once (SCM_MAX_FD). With room for all of them none
/// is lost unseen, so that a surplus can be told from a shortage of our own (MSG_CTRUNC).
inline constexpr size_t kMaxFdsAtOnce = 253;

/// Room for the descriptors of one sendmsg() or recvmsg().
struct FdControl {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMaxFdsAtOnce * sizeof(int))> bytes{};
};

/// Sends `fds`, at most kMaxFdsAtOnce of them, along with a message's first byte; they stay the
/// caller's. `control` lives until the message is sent.
inline void attach_fds(msghdr& msg, FdControl& control, std::span<const int> fds) {
  if (fds.empty()) return;
  msg.msg_control = control.bytes.data();
  msg.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* part = CMSG_FIRSTHDR(&msg);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
}

/// The descriptors that came with a received message. Each is owned from here on, whatever becomes
/// of the message.
[[nodiscard]] inline std::vector<UniqueFd> take_fds(msghdr& msg) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&msg); part != nullptr; part = CMSG_NXTHDR(&msg, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace pollux
