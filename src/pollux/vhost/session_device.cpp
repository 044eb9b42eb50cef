// SPDX-License-Identifier: Apache-2.0
// What a session says of its device as a whole: status and reset, configuration space, the state
// that moves to another host, objects and memory that it shares.
#include <fmt/format.h>

#include <bit>
#include <utility>

#include "pollux/vhost/backend_session.hpp"

namespace pollux::vhost {
namespace {

constexpr uint32_t kNativeEndian = std::endian::native == std::endian::little
                                       ? spec::VHOST_VRING_LITTLE_ENDIAN
                                       : spec::VHOST_VRING_BIG_ENDIAN;

/// The part of a configuration space that a message is about; nullopt when there is no such part,
/// or the message does not hold as many bytes as it says.
template <typename Space>
std::optional<Space> config_part(Space space, const Message& message) {
  const auto head = *message.get<spec::VhostUserConfig>();
  if (head.size != message.payload.size() - sizeof(head) || head.offset > space.size() ||
      head.size > space.size() - head.offset) {
    return std::nullopt;
  }
  return space.subspan(head.offset, head.size);
}

std::string no_such_part(const Message& message, size_t have) {
  const auto head = *message.get<spec::VhostUserConfig>();
  return fmt::format("{} bytes at {} are not in the {} bytes here", head.size, head.offset, have);
}

}  // namespace

Result<BackendSession::Reply> BackendSession::get_config(Message& message) {
  const auto config = device_.config();
  const auto part = config_part(config, message);
  Message reply = make_request(message.request);
  reply.flags |= spec::VHOST_USER_REPLY_MASK;
  if (!part) {  // an empty payload is this message's way of refusing
    state_.last_problem = "GET_CONFIG: " + no_such_part(message, config.size());
    return reply;
  }
  reply.put(*message.get<spec::VhostUserConfig>());
  reply.payload.insert(reply.payload.end(), part->begin(), part->end());
  return reply;
}

Result<BackendSession::Reply> BackendSession::set_config(Message& message) {
  const auto head = *message.get<spec::VhostUserConfig>();
  if (head.flags != spec::VHOST_SET_CONFIG_TYPE_FRONTEND &&
      head.flags != spec::VHOST_SET_CONFIG_TYPE_MIGRATION) {
    return fail(ErrorCode::kProtocol, fmt::format("flags {:#x} are unknown", head.flags));
  }
  const size_t have = device_.config().size();
  if (!config_part(device_.config(), message)) {
    return fail(ErrorCode::kProtocol, no_such_part(message, have));
  }
  const auto bytes = std::span<const std::byte>(message.payload).subspan(sizeof(head));
  auto ok =
      device_.set_config(head.offset, bytes, head.flags == spec::VHOST_SET_CONFIG_TYPE_MIGRATION);
  if (!ok) return forward(ok);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_status(Message& message) {
  const uint64_t status = *message.get<uint64_t>();
  if (status > 0xff) {
    return fail(ErrorCode::kProtocol, fmt::format("{:#x} is not a device status", status));
  }
  if (status == 0) {  // VIRTIO 1.3, 2.1: a reset
    if (auto ok = stop_all("the front end reset the device"); !ok) return forward(ok);
    for (VringState& vring : state_.vrings) {
      vring.kick_known = false;
      vring.controls.kick.reset();
    }
    forget_mappings();
    device_.reset();
  }
  state_.status = static_cast<uint8_t>(status);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::get_status(Message& message) {
  return make_reply(message.request, uint64_t{state_.status});
}

/// The device starts anew; the connection stays: its owner, protocol features and memory, and the
/// descriptors to call the driver by, which QEMU does not send again.
Result<BackendSession::Reply> BackendSession::reset_device(Message& /*message*/) {
  constexpr const char* kWhy = "the front end reset the device";
  if (auto ok = stop_all(kWhy); !ok) return forward(ok);
  for (VringState& vring : state_.vrings) {
    VringState fresh;
    fresh.controls.call = std::move(vring.controls.call);
    fresh.controls.err = std::move(vring.controls.err);
    fresh.call_known = vring.call_known;
    fresh.err_known = vring.err_known;
    fresh.stopped_because = kWhy;
    vring = std::move(fresh);
  }
  transfer_.reset();
  state_.status = 0;
  state_.features = 0;
  (void)set_up_iotlb();  // without features there is none, and nothing that can fail
  if (std::exchange(state_.features_known, false)) device_.features_changed(0);
  device_.reset();
  return Reply();
}

/// For legacy drivers; VERSION_1 rings are little-endian whatever this says.
Result<BackendSession::Reply> BackendSession::set_vring_endian(Message& message) {
  const auto wanted = *message.get<spec::vhost_vring_state>();
  auto index = check_index(wanted.index);
  if (!index) return forward(index);
  if (wanted.num > spec::VHOST_VRING_BIG_ENDIAN) {
    return fail(ErrorCode::kProtocol,
                fmt::format("{} is neither 0 (little-endian) nor 1 (big-endian)", wanted.num));
  }
  if (wanted.num != kNativeEndian) {
    return fail(ErrorCode::kUnsupported,
                "a legacy ring of the other byte order is not carried: use a VIRTIO 1.0 driver");
  }
  return Reply();
}

/// Without an object the reply has no descriptor; that is the whole answer.
Result<BackendSession::Reply> BackendSession::get_shared_object(Message& message) {
  const auto uuid = *message.get<spec::VhostUserShared>();
  Message reply = make_reply(message.request, uuid);
  if (UniqueFd object = device_.shared_object(uuid)) reply.fds.push_back(std::move(object));
  return reply;
}

Result<BackendSession::Reply> BackendSession::get_shmem_config(Message& message) {
  spec::VhostUserShMemConfig config{};
  uint32_t id = 0;
  for (const uint64_t size : device_.shared_memory_sizes()) {
    if (id == std::size(config.memory_sizes)) break;
    config.memory_sizes[id++] = size;
    if (size != 0) ++config.nregions;
  }
  return make_reply(message.request, config);
}

Result<StateTransfer> BackendSession::begin_transfer(Message& message) {
  const auto wanted = *message.get<spec::VhostUserTransferDeviceState>();
  const bool save = wanted.direction == spec::VHOST_TRANSFER_STATE_DIRECTION_SAVE;
  if (!save && wanted.direction != spec::VHOST_TRANSFER_STATE_DIRECTION_LOAD) {
    return fail(ErrorCode::kProtocol, fmt::format("direction {} is unknown", wanted.direction));
  }
  if (wanted.phase != spec::VHOST_TRANSFER_STATE_PHASE_STOPPED) {
    return fail(ErrorCode::kProtocol, fmt::format("phase {} is unknown", wanted.phase));
  }
  for (uint16_t i = 0; i < offer_.vrings; ++i) {  // "Suspended device state"
    if (!state_.vrings[i].started) continue;
    return fail(ErrorCode::kProtocol, fmt::format("ring {} runs, stop it before", i));
  }
  if (!save) return StateTransfer::load(std::move(message.fds.front()));
  auto state = device_.save_state();
  if (!state) return forward(state);
  return StateTransfer::save(std::move(message.fds.front()), std::move(*state));
}

Result<BackendSession::Reply> BackendSession::set_device_state_fd(Message& message) {
  auto transfer = begin_transfer(message);
  if (!transfer) {  // this message's reply has a way of its own to refuse
    state_.last_problem = "SET_DEVICE_STATE_FD: " + transfer.error().what;
    return make_reply(message.request, spec::kStateFdNone | 1);
  }
  transfer_ = std::move(*transfer);
  loaded_.reset();
  advance_transfer();
  return make_reply(message.request, spec::kStateFdNone);
}

void BackendSession::advance_transfer() {
  if (!transfer_ || transfer_->over() || !transfer_->advance()) return;
  loaded_ = transfer_->outcome();
  if (*loaded_ && !transfer_->saving()) loaded_ = device_.load_state(transfer_->state());
  if (!*loaded_) {
    state_.last_problem = "device state: " + loaded_->error().what;
    log_.warn(state_.last_problem);
  }
}

/// The front end asks once it has seen the end of the file, or made it: nothing is left to wait
/// for.
Result<BackendSession::Reply> BackendSession::check_device_state(Message& message) {
  advance_transfer();
  const bool good = loaded_ && *loaded_;
  transfer_.reset();
  loaded_.reset();
  return make_reply(message.request, uint64_t{good ? 0U : 1U});
}

}  // namespace pollux::vhost
