// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>

#include "pollux/base/clock.hpp"
#include "pollux/base/result.hpp"
#include "pollux/vhost/codec.hpp"
#include "pollux/vhost/device.hpp"
#include "pollux/vhost/message.hpp"

namespace pollux::vhost {

/// The way back: requests of the back end to its front end, and the answers to them, on the socket
/// that SET_BACKEND_REQ_FD brought. Text: "Back-end communication". Never waits: what the front end
/// does not read piles up to a bound, and one that leaves a request unread or unanswered for
/// kPatience is given up. One thread; it neither watches its socket nor has a clock: whoever owns
/// it calls `on_ready` and `tick`.
class BackendChannel {
 public:
  /// Called once for a request that wanted an answer: with the answer, whose first 8 bytes are 0
  /// for success, or with why there will be none. May send further requests.
  using Answered = std::function<void(Result<Message>)>;

  /// Requests that may wait for their answers at a time.
  static constexpr size_t kMaxUnanswered = 64;
  /// What one tick stands for.
  static constexpr Nanos kTick = std::chrono::milliseconds(100);
  /// Ticks that the front end may take to read or answer a request: 30 s. A guest's monitor may be
  /// busy with other things for a while, and nothing here waits for it.
  static constexpr uint32_t kPatience = 300;

  /// Checks that `socket` is a connected Unix stream socket, and makes it non-blocking.
  /// kProtocol when it is something else.
  [[nodiscard]] static Status check_socket(int socket);

  /// Takes a socket that `check_socket` liked.
  explicit BackendChannel(SharedFd socket) : socket_(std::move(socket)) {}
  /// Calls no `answered` any more.
  ~BackendChannel() = default;
  BackendChannel(const BackendChannel&) = delete;
  BackendChannel& operator=(const BackendChannel&) = delete;

  /// Sends a request. With `answered` the answer is asked for (REPLY_ACK must be negotiated).
  /// kResource when too many requests wait already: this one was not sent, and may be tried again
  /// later. Whether the socket still works is for `on_ready` to find out.
  [[nodiscard]] Status send(Message request, Answered answered = nullptr);

  [[nodiscard]] const SharedFd& socket() const { return socket_; }
  /// The events to watch the socket for: EPOLLIN, and EPOLLOUT while something waits to be written.
  [[nodiscard]] uint32_t events() const;
  /// True while something waits to be read or answered: `tick` is to be called every kTick.
  [[nodiscard]] bool busy() const { return writer_.pending() || !unanswered_.empty(); }
  [[nodiscard]] size_t unanswered() const { return unanswered_.size(); }

  /// Reads answers, and writes what waits. An error is the end of the channel: kDisconnected when
  /// the front end closed it, kProtocol when it says what nobody asked for.
  [[nodiscard]] Status on_ready();

  /// kTimeout, the end of the channel, when the front end's time is up.
  [[nodiscard]] Status tick();

  /// Tells everybody who still waits for an answer that there will be none.
  void give_up(const Error& because);

 private:
  struct Waiting {
    uint32_t request;
    uint32_t ticks;
    Answered answered;
  };

  [[nodiscard]] Status take_answer(Message message);

  SharedFd socket_;
  MessageReader reader_;
  MessageWriter writer_;
  std::deque<Waiting> unanswered_;  // oldest first: answers come in order
  uint32_t unread_ticks_ = 0;
};

}  // namespace pollux::vhost
