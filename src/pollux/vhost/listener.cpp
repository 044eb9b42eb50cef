// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/listener.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <utility>

#include <nlohmann/json.hpp>

namespace pollux::vhost {
namespace {

// After accept() failed, e.g. because this process has no descriptor left.
constexpr Nanos kAcceptPause = std::chrono::milliseconds(200);

std::string who(const PeerCredentials& peer) {
  const std::string known = peer.describe();
  return known.empty() ? "the front end" : "the front end, " + known + ",";
}

}  // namespace

Result<std::unique_ptr<BackendEndpoint>> BackendEndpoint::start(EventLoop& loop,
                                                                const std::string& path, Mode mode,
                                                                BackendDevice& device, Log log) {
  std::unique_ptr<BackendEndpoint> endpoint(
      new BackendEndpoint(loop, path, mode, device, std::move(log)));
  if (mode == Mode::kServer) {
    auto listener = UnixListener::bind(path);
    if (!listener) return forward(listener);
    endpoint->listener_ = std::move(*listener);
    if (auto ok = endpoint->watch_listener(); !ok) return forward(ok);
    return endpoint;
  }
  if (auto ok = check_socket_path(path); !ok) return forward(ok);
  endpoint->try_connect();
  return endpoint;
}

Result<std::unique_ptr<BackendEndpoint>> BackendEndpoint::adopt(EventLoop& loop,
                                                                const std::string& path, Mode mode,
                                                                BackendDevice& device, Log log,
                                                                const nlohmann::json& values,
                                                                FdParcel& fds) {
  std::unique_ptr<BackendEndpoint> endpoint(
      new BackendEndpoint(loop, path, mode, device, std::move(log)));
  endpoint->attached_ = values.at("attached");
  if (mode == Mode::kServer) {
    auto fd = fds.take(values.at("listener"));
    if (!fd) return forward(fd);
    endpoint->listener_ = UnixListener::adopt(std::move(*fd), path);
    if (auto ok = endpoint->watch_listener(); !ok) return forward(ok);
  }
  if (values.contains("connection")) {
    if (auto ok = endpoint->adopt_connection(values.at("connection"), fds); !ok) return forward(ok);
  } else if (mode == Mode::kClient) {
    endpoint->try_connect();
  }
  return endpoint;
}

Status BackendEndpoint::adopt_connection(const nlohmann::json& values, FdParcel& fds) {
  auto connection = BackendConnection::adopt(loop_, values, fds, device_, log_,
                                             [this](const Error& error) { on_closed(error); });
  if (!connection) return forward(connection);
  connection_ = std::move(*connection);
  return {};
}

Status BackendEndpoint::save(nlohmann::json& values, FdParcel& fds) {
  values["attached"] = attached_;
  if (listener_) values["listener"] = fds.lend(listener_->fd());
  if (!connection_) return {};
  return connection_->save(values["connection"], fds);
}

void BackendEndpoint::resume() {
  if (connection_) connection_->resume();
}

void BackendEndpoint::release() {
  if (listener_) listener_->disown();
}

BackendEndpoint::BackendEndpoint(EventLoop& loop, std::string path, Mode mode,
                                 BackendDevice& device, Log log)
    : loop_(loop), path_(std::move(path)), mode_(mode), device_(device), log_(std::move(log)) {}

BackendEndpoint::~BackendEndpoint() = default;

Status BackendEndpoint::watch_listener() {
  auto watch = loop_.watch_fd(listener_->fd(), EPOLLIN, [this](uint32_t) { on_incoming(); });
  if (!watch) return forward(watch);
  watch_ = std::move(*watch);
  return {};
}

void BackendEndpoint::on_incoming() {
  auto socket = listener_->accept();
  if (!socket) {
    log_.error(socket.error().what);
    watch_.reset();  // level-triggered: without a pause the loop would spin
    retry_later(kAcceptPause);
    return;
  }
  if (!*socket) return;
  // Whoever was here may have hung up a moment ago, with the loop not having come to it yet.
  if (connection_) connection_->poll();
  if (connection_) {
    log_.warn(fmt::format("turned {} away: {} is attached already",
                          peer_credentials(socket->get()).describe(),
                          connection_->peer().describe()));
    return;
  }
  attach(std::move(*socket));
}

void BackendEndpoint::attach(UniqueFd socket) {
  auto connection = BackendConnection::create(loop_, std::move(socket), device_, log_,
                                              [this](const Error& error) { on_closed(error); });
  if (!connection) {
    last_problem_ = connection.error().what;
    log_.error(last_problem_);
    if (mode_ == Mode::kClient) retry_later(backoff_.next());
    return;
  }
  connection_ = std::move(*connection);
  ++attached_;
  log_.info(fmt::format("{} attached", who(connection_->peer())));
}

void BackendEndpoint::on_closed(const Error& error) {
  const auto connection = std::move(connection_);
  last_problem_ = error.what;
  const std::string text = fmt::format("{} left: {}", who(connection->peer()), error.what);
  if (error.code == ErrorCode::kDisconnected) {
    log_.info(text);
  } else {
    log_.warn(text);
  }
  if (mode_ == Mode::kServer) return;
  // Only a front end that said something counts: one that hangs up at once must not be hammered.
  if (connection->session().state().messages != 0) backoff_.reset();
  retry_later(backoff_.next());
}

void BackendEndpoint::disconnect(const std::string& reason) {
  if (!connection_) return;
  connection_->close(Error{ErrorCode::kProtocol, 0, reason});
}

void BackendEndpoint::try_connect() {
  watch_path();  // before the attempt: what is made right after it is told
  auto socket = connect_unix(path_);
  if (socket) {
    made_.reset();
    path_watch_.reset();
    attach(std::move(*socket));
    return;
  }
  if (last_problem_ != socket.error().what) {
    last_problem_ = socket.error().what;
    log_.info(fmt::format("{}; trying again until it answers", last_problem_));
  }
  retry_later(backoff_.next());
}

void BackendEndpoint::watch_path() {
  if (!path_watch_) path_watch_.emplace(path_);
  path_watch_->renew();
  if (made_.active() || path_watch_->fd() < 0) return;
  auto watch = loop_.watch_fd(path_watch_->fd(), EPOLLIN, [this](uint32_t) {
    made_.reset();  // take() may close what it watches
    if (!path_watch_->take()) return watch_path();
    backoff_.reset();  // whoever made it may not have come to listen() yet
    retry_.reset();
    try_connect();
  });
  if (watch) made_ = std::move(*watch);  // else the timer has to do
}

void BackendEndpoint::retry_later(Nanos delay) {
  retry_.reset();
  auto timer = loop_.after(delay, [this] {
    if (mode_ == Mode::kClient) {
      try_connect();
    } else if (auto ok = watch_listener(); !ok) {
      log_.error(ok.error().what);
    }
  });
  if (!timer) {
    log_.error(timer.error().what);
    return;
  }
  retry_ = std::move(*timer);
}

std::string BackendEndpoint::describe() const {
  if (connection_) return fmt::format("{} is attached", who(connection_->peer()));
  std::string text = mode_ == Mode::kServer
                         ? fmt::format("waiting for a front end to connect to {}", path_)
                         : fmt::format("trying to connect to {}", path_);
  if (!last_problem_.empty()) text += fmt::format(" ({})", last_problem_);
  return text;
}

}  // namespace pollux::vhost
