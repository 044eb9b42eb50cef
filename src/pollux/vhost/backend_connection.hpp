// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "pollux/base/event_loop.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/base/fd_parcel.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/codec.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::vhost {

/// A back-end session on a connected socket, driven by an event loop. A front end that does not
/// read its replies is not read from either. Belongs to the loop's thread.
class BackendConnection {
 public:
  /// Called once, last, when the connection is over: kDisconnected when the front end hung up,
  /// anything else when it was given up. The session has ended by then. May destroy the
  /// connection.
  using Closed = std::function<void(const Error&)>;

  /// Takes a non-blocking socket. `loop` and `device` outlive the connection.
  [[nodiscard]] static Result<std::unique_ptr<BackendConnection>> create(EventLoop& loop,
                                                                         UniqueFd socket,
                                                                         BackendDevice& device,
                                                                         Log log, Closed closed);
  /// The same with a session that another process began on that socket.
  [[nodiscard]] static Result<std::unique_ptr<BackendConnection>> adopt(
      EventLoop& loop, const nlohmann::json& values, FdParcel& fds, BackendDevice& device, Log log,
      Closed closed);

  /// Whether there is anything in the session that can not go to another process: kUnsupported.
  [[nodiscard]] Status can_hand_over() const { return session_.can_hand_over(); }
  /// For hand-over: brings the session to rest and packs it with its socket; then resume(), or the
  /// end of this process. Errors: kTimeout in the middle of a message, the device's.
  [[nodiscard]] Status save(nlohmann::json& values, FdParcel& fds);
  void resume() { session_.resume(); }

  /// Ends the session and closes the socket; `closed` is not called.
  ~BackendConnection();
  BackendConnection(const BackendConnection&) = delete;
  BackendConnection& operator=(const BackendConnection&) = delete;

  [[nodiscard]] const BackendSession& session() const { return session_; }
  [[nodiscard]] const PeerCredentials& peer() const { return peer_; }

  /// See BackendSession::request.
  [[nodiscard]] Status request(Message message, BackendChannel::Answered answered = nullptr);

  /// See BackendSession::config_changed.
  [[nodiscard]] Status config_changed();

  /// Handles what has arrived, without waiting for the loop to say so. May call `closed`.
  void poll();

  /// Ends the connection now and calls `closed` with `error`.
  void close(const Error& error);

 private:
  /// Something that the session has at times and that calls it, watched.
  template <typename Source>
  struct Followed {
    std::shared_ptr<Source> source;
    EventLoop::Watch watch;
  };

  BackendConnection(EventLoop& loop, UniqueFd socket, BackendDevice& device, Log log,
                    Closed closed);
  void on_ready(uint32_t events);
  [[nodiscard]] Status drain();
  [[nodiscard]] Status watch();
  [[nodiscard]] Status watch_channel();
  [[nodiscard]] Status watch_transfer();
  [[nodiscard]] Status watch_inband();
  [[nodiscard]] Status follow_session();
  template <typename Source>
  [[nodiscard]] Status follow(Followed<Source>& followed, std::shared_ptr<Source> now,
                              int (Source::*fd)() const, std::function<Status()> ready);
  void go_on(const Status& session);

  EventLoop& loop_;
  UniqueFd socket_;
  PeerCredentials peer_;
  Log log_;
  Closed closed_;
  MessageReader reader_;
  MessageWriter writer_;
  BackendSession session_;
  uint32_t watched_ = 0;
  SharedFd channel_socket_;  // what is watched of the channel, and for what
  uint32_t channel_events_ = 0;
  // Last: no event reaches a half-dismantled connection.
  Followed<MissBell> misses_;
  Followed<AbsentPages> arrivals_;
  EventLoop::Watch channel_watch_;
  EventLoop::Watch ticker_;
  EventLoop::Watch transfer_watch_;
  std::vector<EventLoop::Watch> inband_watches_;
  EventLoop::Watch watch_;
};

}  // namespace pollux::vhost
