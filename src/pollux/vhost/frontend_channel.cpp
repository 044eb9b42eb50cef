// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/frontend_channel.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <utility>

namespace pollux::vhost {
namespace {

constexpr int kRequestsATurn = 64;

UniqueFd take_fd(Message& message) {
  return message.fds.empty() ? UniqueFd() : std::move(message.fds.front());
}

}  // namespace

short FrontendChannel::events() const { return writer_.pending() ? POLLOUT : POLLIN; }

Status FrontendChannel::serve(const Negotiated& negotiated) {
  if (auto ok = writer_.flush(socket_.get()); !ok) return ok;
  for (int i = 0; i < kRequestsATurn && !writer_.pending(); ++i) {
    auto message = reader_.read(socket_.get());
    if (!message) return forward(message);
    if (!message->has_value()) return {};
    if (auto ok = answer(negotiated, **message); !ok) return ok;
  }
  return {};
}

Status FrontendChannel::answer(const Negotiated& negotiated, Message& message) {
  const BackendRequestRule* rule = find_backend_rule(message.request);
  if (message.is_reply()) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the back end answered {}, which it was not asked",
                            backend_request_name(message.request)));
  }
  const bool known = rule != nullptr && check_request(*rule, message, negotiated).has_value();
  if (known && rule->has_reply) return writer_.send(socket_.get(), look_up(message));
  const bool done = known && dispatch(message).has_value();
  if (!message.needs_reply() ||
      (negotiated.protocol_features & spec::VHOST_USER_PROTOCOL_F_REPLY_ACK) == 0) {
    return {};
  }
  return writer_.send(socket_.get(), make_reply(message.request, uint64_t{done ? 0U : 1U}));
}

Status FrontendChannel::dispatch(Message& message) {
  switch (message.request) {
    case spec::VHOST_USER_BACKEND_IOTLB_MSG:
      return handler_.iotlb(*message.get<spec::vhost_iotlb_msg>());
    case spec::VHOST_USER_BACKEND_CONFIG_CHANGE_MSG:
      return handler_.config_changed();
    case spec::VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG:
      return handler_.host_notifier(*message.get<spec::VhostUserVringArea>(), take_fd(message));
    case spec::VHOST_USER_BACKEND_VRING_CALL:
      return handler_.vring_call(message.get<spec::vhost_vring_state>()->index);
    case spec::VHOST_USER_BACKEND_VRING_ERR:
      return handler_.vring_err(message.get<spec::vhost_vring_state>()->index);
    case spec::VHOST_USER_BACKEND_SHARED_OBJECT_ADD:
      return handler_.shared_object_add(*message.get<spec::VhostUserShared>());
    case spec::VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE:
      return handler_.shared_object_remove(*message.get<spec::VhostUserShared>());
    case spec::VHOST_USER_BACKEND_SHMEM_MAP:
      return handler_.shmem_map(*message.get<spec::VhostUserMMap>(), take_fd(message));
    case spec::VHOST_USER_BACKEND_SHMEM_UNMAP:
      return handler_.shmem_unmap(*message.get<spec::VhostUserMMap>());
    default:
      return fail(ErrorCode::kUnsupported, "nobody here serves it");
  }
}

/// SHARED_OBJECT_LOOKUP has a reply of its own: a verdict, and the object if there is one.
Message FrontendChannel::look_up(const Message& message) {
  auto object = handler_.shared_object_lookup(*message.get<spec::VhostUserShared>());
  const bool found = object && object->valid();
  Message reply = make_reply(message.request, uint64_t{found ? 0U : 1U});
  if (found) reply.fds.push_back(std::move(*object));
  return reply;
}

}  // namespace pollux::vhost
