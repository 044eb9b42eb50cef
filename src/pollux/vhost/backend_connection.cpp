// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/backend_connection.hpp"

#include <sys/epoll.h>

#include <utility>

#include <nlohmann/json.hpp>

#include "pollux/vhost/session_parcel.hpp"

namespace pollux::vhost {
namespace {

// A front end that sends without end must leave the loop to the others now and then.
constexpr int kMessagesATurn = 64;

}  // namespace

Result<std::unique_ptr<BackendConnection>> BackendConnection::create(EventLoop& loop,
                                                                     UniqueFd socket,
                                                                     BackendDevice& device, Log log,
                                                                     Closed closed) {
  std::unique_ptr<BackendConnection> connection(
      new BackendConnection(loop, std::move(socket), device, std::move(log), std::move(closed)));
  if (auto ok = connection->watch(); !ok) return forward(ok);
  return connection;
}

BackendConnection::BackendConnection(EventLoop& loop, UniqueFd socket, BackendDevice& device,
                                     Log log, Closed closed)
    : loop_(loop),
      socket_(std::move(socket)),
      peer_(peer_credentials(socket_.get())),
      log_(std::move(log)),
      closed_(std::move(closed)),
      session_(device, log_) {}

BackendConnection::~BackendConnection() = default;

Result<std::unique_ptr<BackendConnection>> BackendConnection::adopt(EventLoop& loop,
                                                                    const nlohmann::json& values,
                                                                    FdParcel& fds,
                                                                    BackendDevice& device, Log log,
                                                                    Closed closed) {
  auto socket = fds.take(values.at("socket"));
  if (!socket) return forward(socket);
  auto state = unpack(values.at("session"), fds);
  if (!state) return forward(state);
  std::unique_ptr<BackendConnection> connection(
      new BackendConnection(loop, std::move(*socket), device, std::move(log), std::move(closed)));
  if (auto ok = connection->session_.adopt(std::move(*state)); !ok) return forward(ok);
  if (auto ok = connection->watch(); !ok) return forward(ok);
  if (auto ok = connection->follow_session(); !ok) return forward(ok);
  return connection;
}

Status BackendConnection::save(nlohmann::json& values, FdParcel& fds) {
  const BackendChannel* channel = session_.channel();
  if (reader_.in_message() || writer_.pending() || (channel != nullptr && channel->busy())) {
    return fail(ErrorCode::kTimeout, "its front end is in the middle of a message: try again");
  }
  if (auto ok = session_.pause(); !ok) return ok;
  values = {{"socket", fds.lend(socket_.get())}, {"session", pack(session_.state(), fds)}};
  return {};
}

void BackendConnection::poll() { on_ready(EPOLLIN); }

void BackendConnection::on_ready(uint32_t /*events*/) {
  if (!socket_) return;
  transfer_watch_.reset();
  Status ok = writer_.flush(socket_.get());
  if (ok && !writer_.pending()) ok = drain();
  if (ok) ok = watch();
  if (ok) ok = follow_session();
  if (ok) ok = watch_transfer();
  if (!ok) close(ok.error());  // last: whoever is told may destroy this
}

Status BackendConnection::drain() {
  for (int i = 0; i < kMessagesATurn && !writer_.pending(); ++i) {
    auto message = reader_.read(socket_.get());
    if (!message) return forward(message);
    if (!message->has_value()) return {};
    auto reply = session_.handle(std::move(**message));
    if (!reply) return forward(reply);
    if (!reply->has_value()) continue;
    if (auto ok = writer_.send(socket_.get(), std::move(**reply)); !ok) return forward(ok);
  }
  return {};
}

/// Either reads requests or waits to write replies: what a front end does not read does not pile
/// up here.
Status BackendConnection::watch() {
  const uint32_t wanted = writer_.pending() ? EPOLLOUT : EPOLLIN;
  if (wanted == watched_) return {};
  watch_.reset();
  auto watch = loop_.watch_fd(socket_.get(), wanted, [this](uint32_t events) { on_ready(events); });
  if (!watch) return forward(watch);
  watch_ = std::move(*watch);
  watched_ = wanted;
  return {};
}

/// Follows the session's channel, which comes and goes with its messages. The socket is kept as
/// long as it is watched, so that its number can not mean another one.
Status BackendConnection::watch_channel() {
  const BackendChannel* channel = session_.channel();
  const SharedFd socket = channel != nullptr ? channel->socket() : nullptr;
  const uint32_t events = channel != nullptr ? channel->events() : 0;
  if (socket != channel_socket_ || events != channel_events_) {
    channel_watch_.reset();
    channel_socket_ = socket;
    channel_events_ = events;
    if (socket) {
      auto watch = loop_.watch_fd(socket->get(), events,
                                  [this](uint32_t) { go_on(session_.channel_ready()); });
      if (!watch) return forward(watch);
      channel_watch_ = std::move(*watch);
    }
  }
  return {};
}

/// Watches what the session has now in the place of what it had.
template <typename Source>
Status BackendConnection::follow(Followed<Source>& followed, std::shared_ptr<Source> now,
                                 int (Source::*fd)() const, std::function<Status()> ready) {
  if (now == followed.source) return {};
  followed.watch.reset();
  followed.source = std::move(now);
  if (!followed.source) return {};
  auto watch = loop_.watch_fd((*followed.source.*fd)(), EPOLLIN,
                              [this, ready = std::move(ready)](uint32_t) { go_on(ready()); });
  if (!watch) return forward(watch);
  followed.watch = std::move(*watch);
  return {};
}

/// Watches whatever the session wants watched now.
Status BackendConnection::follow_session() {
  if (auto ok = watch_channel(); !ok) return ok;
  if (auto ok = watch_inband(); !ok) return ok;
  if (auto ok = follow(misses_, session_.miss_bell(), &MissBell::fd,
                       [this] { return session_.serve_misses(); });
      !ok) {
    return ok;
  }
  if (auto ok = follow(arrivals_, session_.absent_pages(), &AbsentPages::arrivals,
                       [this] {
                         session_.pages_arrived();
                         return Status();
                       });
      !ok) {
    return ok;
  }
  const bool ticks = session_.wants_ticks();
  if (!ticks) ticker_.reset();
  if (ticks && !ticker_.active()) {
    auto ticker = loop_.every(BackendChannel::kTick, [this] { go_on(session_.tick()); });
    if (!ticker) return forward(ticker);
    ticker_ = std::move(*ticker);
  }
  return {};
}

/// After whatever the session did by itself.
void BackendConnection::go_on(const Status& session) {
  Status ok = session;
  if (ok) ok = follow_session();
  if (!ok) close(ok.error());
}

Status BackendConnection::request(Message message, BackendChannel::Answered answered) {
  auto sent = session_.request(std::move(message), std::move(answered));
  if (auto ok = follow_session(); !ok) return ok;
  return sent;
}

Status BackendConnection::config_changed() {
  auto sent = session_.config_changed();
  if (auto ok = follow_session(); !ok) return ok;
  return sent;
}

/// The session adds events as rings start.
Status BackendConnection::watch_inband() {
  while (inband_watches_.size() < session_.inband_events()) {
    const size_t place = inband_watches_.size();
    auto watch = loop_.watch_fd(session_.inband_event(place), EPOLLIN, [this, place](uint32_t) {
      session_.inband_ready(place);
      go_on({});
    });
    if (!watch) return forward(watch);
    inband_watches_.push_back(std::move(*watch));
  }
  return {};
}

/// A state that did not go through its channel at once goes on when that is ready. The watch is
/// made anew each time, as it must be gone before the session closes the channel.
Status BackendConnection::watch_transfer() {
  const StateTransfer* transfer = session_.transfer();
  if (transfer == nullptr || transfer->over()) return {};
  auto watch = loop_.watch_fd(transfer->fd(), transfer->events(), [this](uint32_t) {
    transfer_watch_.reset();
    session_.advance_transfer();
    if (auto ok = watch_transfer(); !ok) close(ok.error());
  });
  if (!watch) return forward(watch);
  transfer_watch_ = std::move(*watch);
  return {};
}

void BackendConnection::close(const Error& error) {
  arrivals_ = {};
  channel_watch_.reset();
  channel_socket_.reset();
  misses_ = {};
  ticker_.reset();
  transfer_watch_.reset();
  inband_watches_.clear();
  session_.end();
  watch_.reset();
  socket_.reset();
  const Closed closed = std::exchange(closed_, nullptr);
  if (closed) closed(error);
}

}  // namespace pollux::vhost
