// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/backend_channel.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "pollux/vhost/request_table.hpp"

namespace pollux::vhost {
namespace {

// One wake-up serves at most this many answers: the loop has others to serve too.
constexpr int kAnswersATurn = 64;

int socket_option(int socket, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  return ::getsockopt(socket, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

}  // namespace

Status BackendChannel::check_socket(int socket) {
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  if (socket_option(socket, SO_DOMAIN) != AF_UNIX ||
      socket_option(socket, SO_TYPE) != SOCK_STREAM ||
      ::getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &size) != 0) {
    return fail(ErrorCode::kProtocol, "its descriptor is not a connected Unix stream socket");
  }
  const int flags = ::fcntl(socket, F_GETFL);
  if (flags < 0 || ::fcntl(socket, F_SETFL, flags | O_NONBLOCK) != 0) {
    return fail_errno(errno, "can not make its descriptor non-blocking");
  }
  return {};
}

Status BackendChannel::send(Message request, Answered answered) {
  const std::string name = backend_request_name(request.request);
  if (answered && unanswered_.size() >= kMaxUnanswered) {
    return fail(ErrorCode::kResource,
                fmt::format("{} was not sent: the front end has {} requests to answer", name,
                            unanswered_.size()));
  }
  if (writer_.full()) {
    return fail(ErrorCode::kResource,
                fmt::format("{} was not sent: the front end does not read its requests", name));
  }
  const uint32_t id = request.request;
  if (answered) {
    request.flags |= spec::VHOST_USER_NEED_REPLY_MASK;
    unanswered_.push_back({id, 0, std::move(answered)});
  }
  (void)writer_.send(socket_->get(), std::move(request));
  return {};
}

uint32_t BackendChannel::events() const {
  return writer_.pending() ? EPOLLIN | EPOLLOUT : static_cast<uint32_t>(EPOLLIN);
}

Status BackendChannel::on_ready() {
  if (auto ok = writer_.flush(socket_->get()); !ok) return ok;
  if (!writer_.pending()) unread_ticks_ = 0;
  for (int i = 0; i < kAnswersATurn; ++i) {
    auto message = reader_.read(socket_->get());
    if (!message) return forward(message);
    if (!message->has_value()) return {};
    if (auto ok = take_answer(std::move(**message)); !ok) return ok;
  }
  return {};
}

Status BackendChannel::take_answer(Message message) {
  const std::string name = backend_request_name(message.request);
  if (!message.is_reply() || unanswered_.empty() ||
      unanswered_.front().request != message.request) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the front end said {} where no such answer is due", name));
  }
  if (message.payload.size() < sizeof(uint64_t)) {
    return fail(ErrorCode::kProtocol, fmt::format("the answer to {} is too short", name));
  }
  const Answered answered = std::move(unanswered_.front().answered);
  unanswered_.pop_front();
  answered(std::move(message));
  return {};
}

Status BackendChannel::tick() {
  if (writer_.pending() && ++unread_ticks_ > kPatience) {
    return fail(ErrorCode::kTimeout, "the front end does not read the back end's requests");
  }
  for (Waiting& waiting : unanswered_) ++waiting.ticks;
  if (!unanswered_.empty() && unanswered_.front().ticks > kPatience) {
    return fail(ErrorCode::kTimeout,
                fmt::format("the front end did not answer {}",
                            backend_request_name(unanswered_.front().request)));
  }
  return {};
}

void BackendChannel::give_up(const Error& because) {
  const auto waiting = std::exchange(unanswered_, {});
  for (const Waiting& w : waiting) w.answered(std::unexpected(because));
}

}  // namespace pollux::vhost
