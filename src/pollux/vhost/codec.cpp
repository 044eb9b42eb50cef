// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/codec.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "pollux/base/fd_passing.hpp"

namespace pollux::vhost {
namespace {

std::unexpected<Error> hung_up(const char* when) {
  return fail(ErrorCode::kDisconnected, fmt::format("the peer hung up{}", when));
}

std::unexpected<Error> socket_failed(int err, const char* doing) {
  if (err == EPIPE || err == ECONNRESET || err == ENOTCONN) return hung_up("");
  return fail_errno(err, fmt::format("can not {} the vhost-user socket", doing));
}

bool would_block(int err) { return err == EAGAIN || err == EWOULDBLOCK; }

}  // namespace

Result<std::optional<Message>> MessageReader::read(int socket) {
  while (header_have_ < sizeof(header_)) {
    auto* at = reinterpret_cast<std::byte*>(&header_) + header_have_;
    auto got = receive(socket, at, sizeof(header_) - header_have_);
    if (!got) return forward(got);
    if (*got == 0) return std::nullopt;
    header_have_ += *got;
    if (header_have_ == sizeof(header_)) {
      if (auto ok = take_header(); !ok) return forward(ok);
    }
  }
  while (payload_have_ < payload_.size()) {
    auto got = receive(socket, payload_.data() + payload_have_, payload_.size() - payload_have_);
    if (!got) return forward(got);
    if (*got == 0) return std::nullopt;
    payload_have_ += *got;
  }
  Message message{header_.request, header_.flags, std::move(payload_), std::move(fds_)};
  *this = MessageReader();
  return message;
}

Status MessageReader::take_header() {
  if ((header_.flags & spec::VHOST_USER_VERSION_MASK) != spec::VHOST_USER_VERSION) {
    return fail(ErrorCode::kProtocol,
                fmt::format("a message of version {} came; only version 1 is known",
                            header_.flags & spec::VHOST_USER_VERSION_MASK));
  }
  if (header_.size > kMaxPayload) {
    return fail(ErrorCode::kProtocol,
                fmt::format("request {} announces {} bytes; no message has more than {}",
                            header_.request, header_.size, kMaxPayload));
  }
  payload_.resize(header_.size);
  return {};
}

/// Reads at most `size` bytes; 0 when there are none now.
Result<size_t> MessageReader::receive(int socket, std::byte* to, size_t size) {
  FdControl control;
  iovec piece{to, size};
  msghdr msg{};
  msg.msg_iov = &piece;
  msg.msg_iovlen = 1;
  msg.msg_control = control.bytes.data();
  msg.msg_controllen = control.bytes.size();
  ssize_t got = 0;
  do {
    got = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (would_block(errno)) return 0;
    return socket_failed(errno, "read");
  }
  std::vector<UniqueFd> fds = take_fds(msg);
  if ((msg.msg_flags & MSG_CTRUNC) != 0) {
    return fail(ErrorCode::kResource,
                "descriptors of the peer were lost: raise the limit of open files (ulimit -n)");
  }
  if (got == 0) return hung_up(header_have_ == 0 ? "" : " in the middle of a message");
  if (!fds.empty() && header_have_ >= sizeof(header_)) {
    return fail(ErrorCode::kProtocol, "descriptors came with the middle of a message");
  }
  if (fds_.size() + fds.size() > spec::kMaxMessageFds) {
    return fail(ErrorCode::kProtocol,
                fmt::format("{} descriptors came with one message; none has more than {}",
                            fds_.size() + fds.size(), spec::kMaxMessageFds));
  }
  std::move(fds.begin(), fds.end(), std::back_inserter(fds_));
  return static_cast<size_t>(got);
}

Status MessageWriter::send(int socket, Message message) {
  if (queue_.size() >= kMaxQueued) {
    return fail(ErrorCode::kResource, "the peer does not read what it is sent");
  }
  const spec::VhostUserHeader header{message.request, message.flags,
                                     static_cast<uint32_t>(message.payload.size())};
  Item item;
  item.bytes.resize(sizeof(header) + message.payload.size());
  std::memcpy(item.bytes.data(), &header, sizeof(header));
  std::copy(message.payload.begin(), message.payload.end(), item.bytes.begin() + sizeof(header));
  item.fds = std::move(message.fds);
  queue_.push_back(std::move(item));
  return flush(socket);
}

Status MessageWriter::flush(int socket) {
  while (!queue_.empty()) {
    Item& item = queue_.front();
    FdControl control;
    iovec piece{item.bytes.data() + item.sent, item.bytes.size() - item.sent};
    msghdr msg{};
    msg.msg_iov = &piece;
    msg.msg_iovlen = 1;
    std::array<int, kMaxFdsAtOnce> fds;
    const size_t count = std::min(item.fds.size(), fds.size());
    for (size_t i = 0; i < count; ++i) fds[i] = item.fds[i].get();
    attach_fds(msg, control, std::span(fds).first(count));
    const ssize_t sent = sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (would_block(errno)) return {};
      return socket_failed(errno, "write to");
    }
    item.fds.clear();  // they went with the first byte
    item.sent += static_cast<size_t>(sent);
    if (item.sent == item.bytes.size()) queue_.pop_front();
  }
  return {};
}

}  // namespace pollux::vhost
