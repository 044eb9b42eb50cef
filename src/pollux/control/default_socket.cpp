// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/default_socket.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace pollux::control {

std::string default_control_socket(uid_t user, std::string_view runtime_dir) {
  if (user == 0) return "/run/pollux/control.sock";
  if (runtime_dir.starts_with('/')) return fmt::format("{}/pollux/control.sock", runtime_dir);
  return fmt::format("/tmp/pollux-{}/control.sock", user);
}

std::string default_control_socket() {
  const char* runtime_dir = std::getenv("XDG_RUNTIME_DIR");
  return default_control_socket(geteuid(), runtime_dir == nullptr ? "" : runtime_dir);
}

std::string default_run_directory() {
  const std::string path = default_control_socket();
  return path.substr(0, path.rfind('/'));
}

Status make_default_directory() {
  const std::string directory = default_run_directory();
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(errno, fmt::format("can not make the directory {} of the control socket "
                                         "(name another path with --control)",
                                         directory));
  }
  // /tmp is open to all: whoever made the directory before us must not be somebody else.
  struct stat st{};
  if (lstat(directory.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
      (st.st_mode & 022) != 0) {
    return fail(ErrorCode::kPermission,
                fmt::format("{} is not a directory that only you can write to: remove it, or name "
                            "another path with --control",
                            directory));
  }
  return {};
}

}  // namespace pollux::control
