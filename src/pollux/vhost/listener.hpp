// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "pollux/base/clock.hpp"
#include "pollux/base/event_loop.hpp"
#include "pollux/base/fd_parcel.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/vhost/backend_connection.hpp"
#include "pollux/vhost/path_watch.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::vhost {

/// Waits between attempts to connect: doubles from 1 to 128 ms, and starts again after success.
class Backoff {
 public:
  static constexpr Nanos kFirst = std::chrono::milliseconds(1);
  static constexpr Nanos kLast = std::chrono::milliseconds(128);
  [[nodiscard]] Nanos next() {
    const Nanos delay = delay_;
    delay_ = std::min(kLast, delay_ * 2);
    return delay;
  }
  void reset() { delay_ = kFirst; }

 private:
  Nanos delay_ = kFirst;
};

/// Where a back end meets its front ends, one at a time: listens on a path (server), or connects
/// to one and goes on trying for ever, at once when somebody makes the socket (client). A front end
/// may come, go and come again. While one is attached, a second is turned away. Belongs to the
/// loop's thread.
class BackendEndpoint {
 public:
  enum class Mode { kServer, kClient };

  /// Starts listening or connecting. `loop` and `device` outlive the endpoint. Errors: those of
  /// UnixListener::bind for a server; only a path that can not be one for a client.
  [[nodiscard]] static Result<std::unique_ptr<BackendEndpoint>> start(
      EventLoop& loop, const std::string& path, Mode mode, BackendDevice& device, Log log);
  /// The same where another process was, from what it saved.
  [[nodiscard]] static Result<std::unique_ptr<BackendEndpoint>> adopt(
      EventLoop& loop, const std::string& path, Mode mode, BackendDevice& device, Log log,
      const nlohmann::json& values, FdParcel& fds);

  /// For hand-over: brings the session to rest and packs it with the sockets. Then resume(), or
  /// release(), after which the socket file is somebody else's.
  [[nodiscard]] Status can_hand_over() const {
    return connection_ ? connection_->can_hand_over() : Status();
  }
  [[nodiscard]] Status save(nlohmann::json& values, FdParcel& fds);
  void resume();
  void release();

  /// Lets the front end go, and removes the socket file if it is still ours.
  ~BackendEndpoint();
  BackendEndpoint(const BackendEndpoint&) = delete;
  BackendEndpoint& operator=(const BackendEndpoint&) = delete;

  /// The attached front end's connection, or null.
  [[nodiscard]] const BackendConnection* connection() const { return connection_.get(); }

  /// Ends the connection, e.g. because the peer's memory went away; a server goes on listening.
  void disconnect(const std::string& reason);

  /// One sentence for people: "waiting for a front end to connect to /run/v0.sock".
  [[nodiscard]] std::string describe() const;

  /// Front ends attached so far.
  [[nodiscard]] uint64_t attached() const { return attached_; }

 private:
  BackendEndpoint(EventLoop& loop, std::string path, Mode mode, BackendDevice& device, Log log);
  [[nodiscard]] Status watch_listener();
  void on_incoming();
  void attach(UniqueFd socket);
  [[nodiscard]] Status adopt_connection(const nlohmann::json& values, FdParcel& fds);
  void on_closed(const Error& error);
  void try_connect();
  void watch_path();
  void retry_later(Nanos delay);

  EventLoop& loop_;
  std::string path_;
  Mode mode_;
  BackendDevice& device_;
  Log log_;
  uint64_t attached_ = 0;
  std::string last_problem_;
  Backoff backoff_;
  std::optional<UnixListener> listener_;
  std::unique_ptr<BackendConnection> connection_;
  EventLoop::Watch watch_;               // incoming connections
  EventLoop::Watch retry_;               // the next attempt to connect
  std::optional<PathWatch> path_watch_;  // a client's, while it has no connection
  EventLoop::Watch made_;                // of path_watch_
};

}  // namespace pollux::vhost
