// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/parcel_channel.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "pollux/base/fd_passing.hpp"

namespace pollux::control {
namespace {

constexpr uint32_t kMagic = 0x584c5550;  // "PULX"
constexpr uint64_t kMostBytes = uint64_t{256} << 20;
constexpr uint64_t kMostFds = 65536;

std::unexpected<Error> gone() {
  return fail(ErrorCode::kDisconnected, "the other process went away during the hand-over");
}

}  // namespace

Status ParcelChannel::wait(short events, Nanos deadline) const {
  for (;;) {
    const Nanos left = deadline - clock_->now();
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    pollfd fd{socket_.get(), events, 0};
    const int ready = ::poll(&fd, 1, static_cast<int>(std::clamp<int64_t>(ms, 0, 60'000)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "can not wait for the hand-over");
    if (left <= Nanos::zero()) {
      return fail(ErrorCode::kTimeout, "the other process of the hand-over does not answer");
    }
  }
}

Status ParcelChannel::send_bytes(const void* bytes, size_t size, std::span<const int> fds,
                                 Nanos deadline) const {
  const auto* from = static_cast<const std::byte*>(bytes);
  while (size != 0) {
    FdControl control;
    iovec piece{const_cast<std::byte*>(from), size};
    msghdr msg{};
    msg.msg_iov = &piece;
    msg.msg_iovlen = 1;
    attach_fds(msg, control, fds);
    const ssize_t sent = ::sendmsg(socket_.get(), &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      fds = {};  // they went with the first byte
      from += sent;
      size -= static_cast<size_t>(sent);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) return gone();
    if (errno != EAGAIN) return fail_errno(errno, "can not hand the switch over");
    if (auto ok = wait(POLLOUT, deadline); !ok) return ok;
  }
  return {};
}

Status ParcelChannel::receive_bytes(void* to, size_t size, std::vector<UniqueFd>* fds,
                                    Nanos deadline) const {
  auto* at = static_cast<std::byte*>(to);
  while (size != 0) {
    FdControl control;
    iovec piece{at, size};
    msghdr msg{};
    msg.msg_iov = &piece;
    msg.msg_iovlen = 1;
    msg.msg_control = control.bytes.data();
    msg.msg_controllen = control.bytes.size();
    const ssize_t got = ::recvmsg(socket_.get(), &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) {
      if (auto ok = wait(POLLIN, deadline); !ok) return ok;
      continue;
    }
    if (got < 0 && errno != ECONNRESET) return fail_errno(errno, "can not take the switch over");
    if (got <= 0) return gone();
    std::vector<UniqueFd> came = take_fds(msg);
    if ((msg.msg_flags & MSG_CTRUNC) != 0) {
      return fail(ErrorCode::kResource,
                  "descriptors were lost on their way: raise the limit of open files (ulimit -n)");
    }
    if (fds != nullptr) std::move(came.begin(), came.end(), std::back_inserter(*fds));
    at += got;
    size -= static_cast<size_t>(got);
  }
  return {};
}

Status ParcelChannel::send(HandOverStep step, const nlohmann::json& values, const FdParcel& fds,
                           Nanos patience) {
  const Nanos deadline = clock_->now() + patience;
  const std::vector<uint8_t> bytes = nlohmann::json::to_cbor(values);
  const Header header{kMagic, static_cast<uint32_t>(step), bytes.size(), fds.lent().size()};
  if (auto ok = send_bytes(&header, sizeof header, {}, deadline); !ok) return ok;
  for (auto left = fds.lent(); !left.empty();) {
    const auto batch = left.first(std::min(left.size(), kMaxFdsAtOnce));
    if (auto ok = send_bytes("d", 1, batch, deadline); !ok) return ok;
    left = left.subspan(batch.size());
  }
  return send_bytes(bytes.data(), bytes.size(), {}, deadline);
}

Result<HandOverMessage> ParcelChannel::receive(Nanos patience) {
  const Nanos deadline = clock_->now() + patience;
  Header header{};
  if (auto ok = receive_bytes(&header, sizeof header, nullptr, deadline); !ok) return forward(ok);
  if (header.magic != kMagic || header.bytes > kMostBytes || header.fds > kMostFds) {
    return fail(ErrorCode::kProtocol, "what came is no message of a hand-over");
  }
  std::vector<UniqueFd> fds;
  for (uint64_t batches = (header.fds + kMaxFdsAtOnce - 1) / kMaxFdsAtOnce; batches != 0;
       --batches) {
    char mark = 0;
    if (auto ok = receive_bytes(&mark, 1, &fds, deadline); !ok) return forward(ok);
  }
  if (fds.size() != header.fds) {
    return fail(ErrorCode::kProtocol, "a hand-over came with other descriptors than it says");
  }
  std::vector<uint8_t> bytes(header.bytes);
  if (auto ok = receive_bytes(bytes.data(), bytes.size(), nullptr, deadline); !ok) {
    return forward(ok);
  }
  auto values = nlohmann::json::from_cbor(bytes, true, false);
  if (!values.is_object()) {
    return fail(ErrorCode::kProtocol, "a message of the hand-over can not be read");
  }
  return HandOverMessage{static_cast<HandOverStep>(header.step), std::move(values),
                         FdParcel(std::move(fds))};
}

Result<HandOverMessage> ParcelChannel::expect(HandOverStep step, Nanos patience) {
  auto message = receive(patience);
  if (!message || message->step == step) return message;
  if (message->step == HandOverStep::kAbort) {
    return fail(ErrorCode::kUnsupported, message->values.value("error", "the hand-over was ended"));
  }
  return fail(ErrorCode::kProtocol, "the steps of a hand-over came out of order");
}

void ParcelChannel::close_receiving() noexcept { (void)::shutdown(socket_.get(), SHUT_RD); }

}  // namespace pollux::control
