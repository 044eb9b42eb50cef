// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/path_watch.hpp"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

#include "pollux/vhost/unix_socket.hpp"

namespace pollux::vhost {

PathWatch::PathWatch(std::string path)
    : directory_(directory_of(path)), name_(path.substr(path.rfind('/') + 1)) {
  renew();
}

void PathWatch::renew() {
  if (fd_) return;
  UniqueFd fd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  // IN_ATTRIB: the permissions that were missing.
  constexpr uint32_t kMask = IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR;
  if (!fd || ::inotify_add_watch(fd.get(), directory_.c_str(), kMask) < 0) return;
  fd_ = std::move(fd);
}

bool PathWatch::take() {
  bool concerned = false;
  for (;;) {
    alignas(inotify_event) std::array<std::byte, 4096> buffer;
    const ssize_t size = ::read(fd_.get(), buffer.data(), buffer.size());
    if (size <= 0) return concerned;
    for (size_t at = 0; at + sizeof(inotify_event) <= static_cast<size_t>(size);) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof(event));
      const auto* name = reinterpret_cast<const char*>(buffer.data() + at + sizeof(event));
      concerned |= event.len != 0 && name_ == name;
      if ((event.mask & (IN_IGNORED | IN_Q_OVERFLOW)) !=
          0) {  // the directory went, or we were slow
        fd_.reset();
        renew();
        return true;
      }
      at += sizeof(event) + event.len;
    }
  }
}

}  // namespace pollux::vhost
