// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/event_fd.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "pollux/base/peer_fd.hpp"

namespace pollux::vhost {

Result<UniqueFd> check_event_fd(UniqueFd fd, int access) {
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(errno, "can not inspect its descriptor");
  if (S_ISFIFO(st.st_mode)) return open_own_pipe(fd.get(), access == O_WRONLY);
  const bool anonymous = (st.st_mode & S_IFMT) == 0;
  if (!anonymous) {
    return fail(ErrorCode::kProtocol, "its descriptor is neither an eventfd nor a pipe");
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  const int mode = flags & O_ACCMODE;
  if (flags < 0 || (mode != O_RDWR && mode != access)) {
    return fail(ErrorCode::kProtocol, "its descriptor is open in the wrong direction");
  }
  if (::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return fail_errno(errno, "can not make its descriptor non-blocking");
  }
  return fd;
}

}  // namespace pollux::vhost
