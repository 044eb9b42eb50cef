// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/event_fd.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

namespace pollux::vhost {

Status prepare_event_fd(int fd, int access) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return fail_errno(errno, "can not inspect its descriptor");
  const bool anonymous = (st.st_mode & S_IFMT) == 0;
  if (!anonymous && !S_ISFIFO(st.st_mode)) {
    return fail(ErrorCode::kProtocol, "its descriptor is neither an eventfd nor a pipe");
  }
  const int flags = ::fcntl(fd, F_GETFL);
  const int mode = flags & O_ACCMODE;
  if (flags < 0 || (mode != O_RDWR && mode != access)) {
    return fail(ErrorCode::kProtocol, "its descriptor is open in the wrong direction");
  }
  if (::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return fail_errno(errno, "can not make its descriptor non-blocking");
  }
  return {};
}

}  // namespace pollux::vhost
