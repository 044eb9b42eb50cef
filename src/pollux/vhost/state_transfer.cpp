// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/state_transfer.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <utility>

#include "pollux/base/peer_fd.hpp"

namespace pollux::vhost {
namespace {

bool would_block(int err) { return err == EAGAIN || err == EWOULDBLOCK; }

}  // namespace

Result<StateTransfer> StateTransfer::open(UniqueFd channel, bool saving) {
  struct stat st{};
  if (::fstat(channel.get(), &st) != 0) return fail_errno(errno, "can not inspect the channel");
  if (S_ISSOCK(st.st_mode)) return StateTransfer(std::move(channel), true, saving);
  if (!S_ISFIFO(st.st_mode)) {
    return fail(ErrorCode::kProtocol, "the channel is neither a pipe nor a socket");
  }
  auto own = open_own_pipe(channel.get(), saving);
  if (!own) return forward(own);
  return StateTransfer(std::move(*own), false, saving);
}

Result<StateTransfer> StateTransfer::save(UniqueFd channel, std::vector<std::byte> state) {
  auto transfer = open(std::move(channel), true);
  if (transfer) transfer->state_ = std::move(state);
  return transfer;
}

Result<StateTransfer> StateTransfer::load(UniqueFd channel) {
  return open(std::move(channel), false);
}

uint32_t StateTransfer::events() const { return saving_ ? EPOLLOUT : EPOLLIN; }

bool StateTransfer::advance() {
  if (over_) return true;
  return saving_ ? advance_save() : advance_load();
}

bool StateTransfer::finish(Status outcome) {
  outcome_ = std::move(outcome);
  over_ = true;
  channel_.reset();
  return true;
}

bool StateTransfer::advance_save() {
  while (sent_ < state_.size()) {
    const std::byte* from = state_.data() + sent_;
    const size_t left = state_.size() - sent_;
    const ssize_t n = is_socket_ ? ::send(channel_.get(), from, left, MSG_DONTWAIT | MSG_NOSIGNAL)
                                 : ::write(channel_.get(), from, left);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && would_block(errno)) return false;
    if (n < 0) return finish(fail_errno(errno, "can not write the device's state"));
    sent_ += static_cast<size_t>(n);
  }
  return finish({});
}

bool StateTransfer::advance_load() {
  for (;;) {
    std::array<std::byte, 4096> part;
    const ssize_t n = is_socket_ ? ::recv(channel_.get(), part.data(), part.size(), MSG_DONTWAIT)
                                 : ::read(channel_.get(), part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && would_block(errno)) return false;
    if (n < 0) return finish(fail_errno(errno, "can not read the device's state"));
    if (n == 0) return finish({});
    if (state_.size() + static_cast<size_t>(n) > kMaxState) {
      return finish(fail(ErrorCode::kProtocol,
                         fmt::format("the device's state has more than {} bytes", kMaxState)));
    }
    state_.insert(state_.end(), part.begin(), part.begin() + n);
  }
}

}  // namespace pollux::vhost
