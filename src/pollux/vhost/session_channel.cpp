// SPDX-License-Identifier: Apache-2.0
// A session's way back: requests of the back end to the front end, while the front end has given a
// channel for them and answers. Losing it costs what needs it, never the session.
#include <fmt/format.h>

#include <utility>

#include "pollux/vhost/backend_session.hpp"

namespace pollux::vhost {

Result<BackendSession::Reply> BackendSession::set_backend_req_fd(Message& message) {
  if (auto ok = BackendChannel::check_socket(message.fds.front().get()); !ok) return forward(ok);
  // A second channel takes the place of the first: QEMU makes a new one when it starts anew.
  if (channel_) {
    close_channel(Error{ErrorCode::kDisconnected, 0, "the front end gave another channel"});
  }
  state_.backend_channel = std::make_shared<const UniqueFd>(std::move(message.fds.front()));
  state_.channel_problem.clear();
  channel_ = std::make_unique<BackendChannel>(state_.backend_channel);
  ask_misses();
  return Reply();
}

Status BackendSession::request(Message message, BackendChannel::Answered answered) {
  const BackendRequestRule* rule = find_backend_rule(message.request);
  const std::string name = backend_request_name(message.request);
  const uint64_t needs = (rule != nullptr ? rule->protocol_features : 0) |
                         (message.fds.empty() ? 0 : spec::VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD) |
                         (answered ? spec::VHOST_USER_PROTOCOL_F_REPLY_ACK : 0);
  if (rule == nullptr || (rule->features & ~state_.features) != 0 ||
      (needs & ~state_.protocol_features) != 0) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("{} was not sent: what it needs was not negotiated", name));
  }
  if (!channel_) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("{} was not sent: {}", name,
                            state_.channel_problem.empty() ? "the front end gave no channel for it"
                                                           : state_.channel_problem));
  }
  return channel_->send(std::move(message), std::move(answered));
}

Status BackendSession::config_changed() {
  return request(make_request(spec::VHOST_USER_BACKEND_CONFIG_CHANGE_MSG));
}

Status BackendSession::channel_ready() {
  if (!channel_) return {};
  if (auto ok = channel_->on_ready(); !ok) close_channel(ok.error());
  ask_misses();
  return whole();
}

Status BackendSession::tick() {
  if (channel_) {
    if (auto ok = channel_->tick(); !ok) close_channel(ok.error());
  }
  for (size_t place = 0; place < inband_.size(); ++place) send_inband(place);
  tick_misses();
  return whole();
}

Status BackendSession::whole() const {
  if (!broken_) return {};
  return fail(ErrorCode::kTimeout, "a worker did not come by in time");
}

void BackendSession::close_channel(const Error& because) {
  const auto channel = std::exchange(channel_, nullptr);
  state_.backend_channel.reset();
  state_.channel_problem = because.what;
  log_.warn(fmt::format("the channel for requests to the front end is closed: {}", because.what));
  channel->give_up(because);
}

}  // namespace pollux::vhost
