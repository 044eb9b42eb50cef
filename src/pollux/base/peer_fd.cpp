// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/peer_fd.hpp"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <ctime>
#include <string>

namespace pollux {
namespace {

/// Contexts of threads that have ended, for those that come. To destroy one takes the kernel some
/// 30 ms, and a switch whose workers rest for a hand-over has no such time.
class SpareContexts {
 public:
  /// 0: there is none.
  [[nodiscard]] aio_context_t take() noexcept {
    for (auto& place : places_) {
      if (const aio_context_t context = place.exchange(0); context != 0) return context;
    }
    return 0;
  }
  void put(aio_context_t context) noexcept {
    for (auto& place : places_) {
      aio_context_t nothing = 0;
      if (place.compare_exchange_strong(nothing, context)) return;
    }
    ::syscall(SYS_io_destroy, context);
  }

 private:
  std::array<std::atomic<aio_context_t>, 64> places_{};
};
constinit SpareContexts spare_contexts;

/// A thread's asynchronous operations: each polls a descriptor that is always ready, so it is over
/// when it is submitted, and the kernel signals the eventfd that came with it.
class Aio {
 public:
  Aio() noexcept : ready_(::eventfd(1, EFD_CLOEXEC)) {
    if (!ready_) return;
    context_ = spare_contexts.take();
    if (context_ == 0 && ::syscall(SYS_io_setup, kEvents, &context_) != 0) context_ = 0;
  }
  ~Aio() {
    if (context_ != 0) spare_contexts.put(context_);
  }
  Aio(const Aio&) = delete;
  Aio& operator=(const Aio&) = delete;

  [[nodiscard]] bool works() const noexcept { return context_ != 0; }

  /// False when `eventfd` is none, or nothing can be submitted here.
  bool signal(int eventfd) noexcept {
    if (context_ == 0) return false;
    iocb operation{};
    operation.aio_lio_opcode = IOCB_CMD_POLL;
    operation.aio_fildes = static_cast<uint32_t>(ready_.get());
    operation.aio_buf = POLLIN;
    operation.aio_flags = IOCB_FLAG_RESFD;
    operation.aio_resfd = static_cast<uint32_t>(eventfd);
    iocb* operations = &operation;
    if (::syscall(SYS_io_submit, context_, 1, &operations) == 1) return true;
    if (errno != EAGAIN) return false;
    forget_completions();
    return ::syscall(SYS_io_submit, context_, 1, &operations) == 1;
  }

 private:
  static constexpr unsigned kEvents = 64;

  void forget_completions() noexcept {
    std::array<io_event, kEvents> events;
    timespec now{};
    while (::syscall(SYS_io_getevents, context_, 0, kEvents, events.data(), &now) > 0) {
    }
  }

  UniqueFd ready_;
  aio_context_t context_ = 0;
};

Aio& this_threads_aio() noexcept {
  thread_local Aio aio;
  return aio;
}

}  // namespace

void signal_event(int fd) noexcept {
  const int saved = errno;
  if (!this_threads_aio().signal(fd)) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) == 0) (void)::fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    (void)eventfd_write(fd, 1);
  }
  errno = saved;
}

bool signals_without_waiting() noexcept { return this_threads_aio().works(); }

Result<UniqueFd> open_own_pipe(int fd, bool writing) {
  const int flags = ::fcntl(fd, F_GETFL);
  const int mode = flags & O_ACCMODE;
  if (flags < 0 || (mode != O_RDWR && mode != (writing ? O_WRONLY : O_RDONLY))) {
    return fail(ErrorCode::kProtocol, "the pipe is open in the wrong direction");
  }
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd own(::open(path.c_str(), (writing ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC));
  if (!own) {
    return fail_errno(errno,
                      "can not open a peer's pipe anew (run both sides as one user, or use an "
                      "eventfd or a socket)");
  }
  return own;
}

}  // namespace pollux
