// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux::vhost {

/// A Unix stream socket that listens on a path. Removes the path when it dies, but only if it
/// still is the one that it made. Whoever binds or removes holds the directory's lock (flock)
/// meanwhile, so that of two that start at once neither takes the other's new socket for one left
/// behind. Move-only.
class UnixListener {
 public:
  /// Makes and binds the socket, non-blocking. A socket file that nobody answers on is replaced.
  /// Errors, each with advice: kInvalidArgument (path too long or empty, something else than a
  /// socket is there), kAlreadyExists (another process listens there), kPermission, kNotFound
  /// (the directory). With `mode` the socket file has no other permissions at any moment, less
  /// the umask; without, all that the umask leaves.
  [[nodiscard]] static Result<UnixListener> bind(const std::string& path,
                                                 std::optional<mode_t> mode = std::nullopt);

  /// A socket that another process bound to `path` and passed on; it is this process's to remove.
  [[nodiscard]] static UnixListener adopt(UniqueFd fd, const std::string& path);

  /// Gives the socket file another path, in the place of what is there, in one step.
  [[nodiscard]] Status move_to(const std::string& path);

  /// Leaves the socket file to somebody else: it is not removed in the end.
  void disown() noexcept { path_.clear(); }

  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&& other) noexcept;
  ~UnixListener();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }

  /// Takes a waiting connection, non-blocking and close-on-exec; an invalid descriptor when none
  /// waits.
  [[nodiscard]] Result<UniqueFd> accept() const;

 private:
  UnixListener(UniqueFd fd, std::string path, dev_t device, ino_t inode)
      : fd_(std::move(fd)), path_(std::move(path)), device_(device), inode_(inode) {}
  void unlink_own() noexcept;

  UniqueFd fd_;
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

/// Connects to a listening socket, non-blocking. kNotFound when there is no such path,
/// kDisconnected when nobody listens there, kTimeout when its queue is full, kPermission,
/// kInvalidArgument.
[[nodiscard]] Result<UniqueFd> connect_unix(const std::string& path);

/// The directory part of a path: "/run" of "/run/v0.sock", "." of "v0.sock".
[[nodiscard]] std::string directory_of(const std::string& path);

/// Fails with advice when `path` can not be a socket's address (empty, or above 107 bytes).
[[nodiscard]] Status check_socket_path(const std::string& path);

/// Who is at the other end of a connected Unix socket.
struct PeerCredentials {
  pid_t pid = 0;        ///< 0: not known (another PID namespace)
  std::string command;  ///< e.g. "qemu-system-x86"; empty when it can not be read
  /// "pid 4711 (qemu-system-x86)", or "" when not known.
  [[nodiscard]] std::string describe() const;
};
[[nodiscard]] PeerCredentials peer_credentials(int socket);

}  // namespace pollux::vhost
