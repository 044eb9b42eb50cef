// SPDX-License-Identifier: Apache-2.0
// What a front end asks of the device behind its back end as a whole.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "pollux/vhost/frontend.hpp"

namespace pollux::vhost {
namespace {

struct Pipe {
  UniqueFd out;  ///< to read from
  UniqueFd in;   ///< to write to
};

Result<Pipe> make_pipe() {
  int fds[2] = {-1, -1};
  if (::pipe2(fds, O_CLOEXEC) != 0) return fail_errno(errno, "can not make a pipe");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace

Status Frontend::set_status(uint8_t status) {
  return send_acknowledged(make_request(spec::VHOST_USER_SET_STATUS, uint64_t{status}));
}

Result<uint8_t> Frontend::get_status() {
  auto status = ask_u64(spec::VHOST_USER_GET_STATUS);
  if (!status) return forward(status);
  return static_cast<uint8_t>(*status);
}

Status Frontend::reset_device() {
  return send_acknowledged(make_request(spec::VHOST_USER_RESET_DEVICE));
}

Status Frontend::reset_owner() {
  return send_acknowledged(make_request(spec::VHOST_USER_RESET_OWNER));
}

Result<std::vector<std::byte>> Frontend::get_config(uint32_t offset, uint32_t size) {
  constexpr uint32_t kRequest = spec::VHOST_USER_GET_CONFIG;
  if (size > spec::VHOST_USER_MAX_CONFIG_SIZE) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} bytes of configuration space do not fit into a message of {}", size,
                            spec::VHOST_USER_MAX_CONFIG_SIZE));
  }
  Message message = make_request(kRequest, spec::VhostUserConfig{offset, size, 0});
  message.payload.resize(sizeof(spec::VhostUserConfig) + size);
  if (auto ok = send(std::move(message)); !ok) return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  if (reply->payload.empty()) {
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("the back end's configuration space has no {} bytes at {}", size, offset));
  }
  const auto head = reply->get<spec::VhostUserConfig>();
  if (!head || head->offset != offset || head->size != size ||
      reply->payload.size() != sizeof(*head) + size) {
    return fail(ErrorCode::kProtocol, "the back end's reply to GET_CONFIG is about another part");
  }
  return std::vector<std::byte>(reply->payload.begin() + sizeof(*head), reply->payload.end());
}

Status Frontend::set_config(uint32_t offset, std::span<const std::byte> bytes, bool migrating) {
  if (bytes.size() > spec::VHOST_USER_MAX_CONFIG_SIZE) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} bytes of configuration space do not fit into a message of {}",
                            bytes.size(), spec::VHOST_USER_MAX_CONFIG_SIZE));
  }
  Message message =
      make_request(spec::VHOST_USER_SET_CONFIG,
                   spec::VhostUserConfig{offset, static_cast<uint32_t>(bytes.size()),
                                         migrating ? spec::VHOST_SET_CONFIG_TYPE_MIGRATION
                                                   : spec::VHOST_SET_CONFIG_TYPE_FRONTEND});
  message.payload.insert(message.payload.end(), bytes.begin(), bytes.end());
  return send_acknowledged(std::move(message));
}

Status Frontend::set_vring_endian(uint16_t index, std::endian order) {
  const uint32_t num =
      order == std::endian::little ? spec::VHOST_VRING_LITTLE_ENDIAN : spec::VHOST_VRING_BIG_ENDIAN;
  return send_acknowledged(
      make_request(spec::VHOST_USER_SET_VRING_ENDIAN, spec::vhost_vring_state{index, num}));
}

Status Frontend::vring_kick(uint16_t index) {
  return send_acknowledged(
      make_request(spec::VHOST_USER_VRING_KICK, spec::vhost_vring_state{index, 0}));
}

Result<UniqueFd> Frontend::get_shared_object(const spec::VhostUserShared& uuid) {
  constexpr uint32_t kRequest = spec::VHOST_USER_GET_SHARED_OBJECT;
  if (auto ok = send(make_request(kRequest, uuid)); !ok) return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  if (reply->fds.size() > 1) {
    return fail(ErrorCode::kProtocol, "the back end sent several objects of one name");
  }
  return reply->fds.empty() ? UniqueFd() : std::move(reply->fds.front());
}

Result<std::vector<uint64_t>> Frontend::get_shmem_config() {
  constexpr uint32_t kRequest = spec::VHOST_USER_GET_SHMEM_CONFIG;
  if (auto ok = send(make_request(kRequest)); !ok) return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  const auto config = reply->get<spec::VhostUserShMemConfig>();
  if (!config) {
    return fail(ErrorCode::kProtocol, "the back end's reply to GET_SHMEM_CONFIG is too short");
  }
  return std::vector<uint64_t>(std::begin(config->memory_sizes), std::end(config->memory_sizes));
}

Status Frontend::open_channel(BackendRequestHandler& handler) {
  int fds[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
    return fail_errno(errno, "can not make a channel for the back end's requests");
  auto channel = std::make_unique<FrontendChannel>(UniqueFd(fds[0]), handler);
  Message message = make_request(spec::VHOST_USER_SET_BACKEND_REQ_FD);
  message.fds.emplace_back(fds[1]);
  auto ok = send_acknowledged(std::move(message));
  if (ok) channel_ = std::move(channel);
  return ok;
}

/// Opens a channel, or takes the one that the back end prefers, and sends `state` through it or
/// receives one, up to its end.
Result<StateTransfer> Frontend::transfer_state(bool save, std::vector<std::byte> state) {
  constexpr uint32_t kRequest = spec::VHOST_USER_SET_DEVICE_STATE_FD;
  auto pipe = make_pipe();
  if (!pipe) return forward(pipe);
  UniqueFd theirs = std::move(save ? pipe->in : pipe->out);
  UniqueFd ours = std::move(save ? pipe->out : pipe->in);
  Message message = make_request(
      kRequest, spec::VhostUserTransferDeviceState{save ? spec::VHOST_TRANSFER_STATE_DIRECTION_SAVE
                                                        : spec::VHOST_TRANSFER_STATE_DIRECTION_LOAD,
                                                   spec::VHOST_TRANSFER_STATE_PHASE_STOPPED});
  message.fds.push_back(std::move(theirs));
  if (auto ok = send(std::move(message)); !ok) return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  const auto verdict = reply->get<uint64_t>();
  const bool none = verdict && (*verdict & spec::kStateFdNone) != 0;
  if (!verdict || none != reply->fds.empty() || reply->fds.size() > 1) {
    return fail(ErrorCode::kProtocol, "the back end's reply to SET_DEVICE_STATE_FD is none");
  }
  if ((*verdict & spec::kStateFdErrorMask) != 0) {
    return fail(ErrorCode::kInvalidArgument, "the back end does not transfer its state now");
  }
  if (!none) ours = std::move(reply->fds.front());
  auto transfer = save ? StateTransfer::load(std::move(ours))
                       : StateTransfer::save(std::move(ours), std::move(state));
  if (!transfer) return transfer;
  const Nanos deadline = options_.clock->now() + options_.timeout;
  while (!transfer->advance()) {
    const auto wanted = static_cast<short>(save ? POLLIN : POLLOUT);
    if (auto ok = wait_for(transfer->fd(), wanted, deadline); !ok) return forward(ok);
  }
  if (!transfer->outcome()) return forward(transfer->outcome());
  return transfer;
}

Status Frontend::check_device_state() {
  auto verdict = ask_u64(spec::VHOST_USER_CHECK_DEVICE_STATE);
  if (!verdict) return forward(verdict);
  if (*verdict != 0) {
    return fail(ErrorCode::kInvalidArgument, "the back end could not transfer its state");
  }
  return {};
}

Result<std::vector<std::byte>> Frontend::save_device_state() {
  auto transfer = transfer_state(true, {});
  if (!transfer) return forward(transfer);
  if (auto ok = check_device_state(); !ok) return forward(ok);
  return std::vector<std::byte>(transfer->state().begin(), transfer->state().end());
}

Status Frontend::load_device_state(std::span<const std::byte> state) {
  auto transfer = transfer_state(false, {state.begin(), state.end()});
  if (!transfer) return forward(transfer);
  return check_device_state();
}

Status Frontend::iotlb(const spec::vhost_iotlb_msg& message) {
  constexpr uint32_t kRequest = spec::VHOST_USER_IOTLB_MSG;
  if (auto ok = send(make_request(kRequest, message)); !ok) return ok;
  auto reply = receive_reply(kRequest);  // always one of its own
  if (!reply) return forward(reply);
  if (reply->get<uint64_t>() == uint64_t{0}) return {};
  return fail(ErrorCode::kInvalidArgument, "the back end refused IOTLB_MSG");
}

}  // namespace pollux::vhost
