// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/unix_socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

namespace pollux::vhost {
namespace {

constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
constexpr int kBacklog = 16;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "can not make a Unix socket");
  return fd;
}

int try_bind(int fd, const std::string& path) {
  const sockaddr_un address = address_of(path);
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
}

int try_connect(int fd, const std::string& path) {
  const sockaddr_un address = address_of(path);
  const int r = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  return r == 0 ? 0 : errno;
}

std::unexpected<Error> bind_failed(int err, const std::string& path) {
  const std::string directory = directory_of(path);
  switch (err) {
    case EACCES:
    case EPERM:
    case EROFS:
      return fail(
          ErrorCode::kPermission,
          fmt::format("no permission to make the socket {}: choose a directory that you may "
                      "write to, or give yourself access to {}",
                      path, directory));
    case ENOENT:
    case ENOTDIR:
      return fail(ErrorCode::kNotFound,
                  fmt::format("can not make the socket {}: there is no directory {}; create it",
                              path, directory));
    default:
      return fail_errno(err, fmt::format("can not listen on {}", path));
  }
}

/// Removes a socket file that its process left behind. Fails if anybody answers on it.
Status remove_stale(const std::string& path) {
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) return {};  // gone meanwhile
  if (!S_ISSOCK(st.st_mode)) {
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("{} exists and is not a socket: remove it or choose another path", path));
  }
  auto probe = make_socket();
  if (!probe) return forward(probe);
  const int err = try_connect(probe->get(), path);
  if (err != ECONNREFUSED && err != ENOENT) {
    return fail(ErrorCode::kAlreadyExists,
                fmt::format("another process listens on {}: stop it or choose another path", path));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return bind_failed(errno, path);
  return {};
}

/// Holds others of our kind off a directory's sockets. Whoever can not have the lock in time, or at
/// all, goes on without: anybody who may read the directory can hold it.
UniqueFd lock_directory_of(const std::string& path) {
  constexpr auto kPause = std::chrono::milliseconds(1);
  constexpr int kAttempts = 1000;
  UniqueFd directory(::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; directory && i < kAttempts; ++i) {
    if (::flock(directory.get(), LOCK_EX | LOCK_NB) == 0) return directory;
    if (errno != EWOULDBLOCK && errno != EINTR) break;
    std::this_thread::sleep_for(kPause);
  }
  return {};
}

}  // namespace

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status check_socket_path(const std::string& path) {
  if (path.empty()) return fail(ErrorCode::kInvalidArgument, "a socket path is missing");
  if (path.find('\0') != std::string::npos)
    return fail(ErrorCode::kInvalidArgument, "a socket path can not hold a zero byte");
  if (path.size() > kMaxPath) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the socket path {} has {} bytes and the system takes {}: choose a "
                            "shorter one, e.g. below /run or /tmp",
                            path, path.size(), kMaxPath));
  }
  return {};
}

Result<UnixListener> UnixListener::bind(const std::string& path, std::optional<mode_t> mode) {
  if (auto ok = check_socket_path(path); !ok) return forward(ok);
  auto fd = make_socket();
  if (!fd) return forward(fd);
  // Before bind the mode is the socket's own, from which bind makes that of the file.
  if (mode && ::fchmod(fd->get(), *mode) != 0) return bind_failed(errno, path);
  const UniqueFd lock = lock_directory_of(path);  // until it listens: then others see that it lives
  int err = try_bind(fd->get(), path);
  if (err == EADDRINUSE) {
    if (auto ok = remove_stale(path); !ok) return forward(ok);
    err = try_bind(fd->get(), path);
  }
  if (err != 0) return bind_failed(err, path);
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) return bind_failed(errno, path);
  UnixListener listener(std::move(*fd), path, st.st_dev, st.st_ino);
  if (::listen(listener.fd(), kBacklog) != 0) return bind_failed(errno, path);
  return listener;
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::move(other.fd_)),
      path_(std::exchange(other.path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
  if (this == &other) return *this;
  unlink_own();
  fd_ = std::move(other.fd_);
  path_ = std::exchange(other.path_, {});
  device_ = other.device_;
  inode_ = other.inode_;
  return *this;
}

UnixListener UnixListener::adopt(UniqueFd fd, const std::string& path) {
  struct stat st{};
  // A path that is gone, or somebody else's by now, has no such inode: it will be left alone.
  if (::lstat(path.c_str(), &st) != 0) st = {};
  return UnixListener(std::move(fd), path, st.st_dev, st.st_ino);
}

Status UnixListener::move_to(const std::string& path) {
  if (::rename(path_.c_str(), path.c_str()) != 0) {
    return fail_errno(errno, fmt::format("can not move the socket {} to {}", path_, path));
  }
  path_ = path;
  return {};
}

UnixListener::~UnixListener() { unlink_own(); }

void UnixListener::unlink_own() noexcept {
  if (path_.empty()) return;
  const UniqueFd lock = lock_directory_of(path_);
  struct stat st{};
  if (::lstat(path_.c_str(), &st) == 0 && st.st_dev == device_ && st.st_ino == inode_)
    ::unlink(path_.c_str());
}

Result<UniqueFd> UnixListener::accept() const {
  for (;;) {
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd) return fd;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return UniqueFd();
    return fail_errno(errno, fmt::format("can not take a connection on {}", path_));
  }
}

Result<UniqueFd> connect_unix(const std::string& path) {
  if (auto ok = check_socket_path(path); !ok) return forward(ok);
  auto fd = make_socket();
  if (!fd) return forward(fd);
  switch (const int err = try_connect(fd->get(), path); err) {
    case 0:
      return std::move(*fd);
    case ENOENT:
      return fail(ErrorCode::kNotFound,
                  fmt::format("there is no socket {}: start whoever listens there", path));
    case ECONNREFUSED:
      return fail(ErrorCode::kDisconnected,
                  fmt::format("nobody listens on {}: start whoever should", path));
    case EAGAIN:
      return fail(ErrorCode::kTimeout, fmt::format("whoever listens on {} is busy", path));
    case EACCES:
    case EPERM:
      return fail(ErrorCode::kPermission,
                  fmt::format("no permission to connect to {}: ask whoever listens there for write "
                              "access to the socket",
                              path));
    default:
      return fail_errno(err, fmt::format("can not connect to {}", path));
  }
}

std::string PeerCredentials::describe() const {
  if (pid == 0) return {};
  return command.empty() ? fmt::format("pid {}", pid) : fmt::format("pid {} ({})", pid, command);
}

PeerCredentials peer_credentials(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return {};
  PeerCredentials peer;
  peer.pid = credentials.pid;
  std::ifstream comm(fmt::format("/proc/{}/comm", peer.pid));
  std::getline(comm, peer.command);
  // The peer chooses its name, and people read it in a terminal.
  std::erase_if(peer.command, [](char c) { return c < ' ' || c > '~'; });
  return peer;
}

}  // namespace pollux::vhost
