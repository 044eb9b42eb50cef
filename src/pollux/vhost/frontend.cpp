// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/frontend.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "pollux/vhost/request_table.hpp"

namespace pollux::vhost {
namespace {

std::unexpected<Error> told_to_stop() {
  return fail(ErrorCode::kDisconnected, "told to stop waiting for the back end");
}

int milliseconds_left(Nanos left) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::clamp<int64_t>(ms, 0, 3'600'000));
}

/// The message closes its descriptors once they are sent; the caller keeps its own.
Status attach_copy(Message& message, int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(errno, "can not pass a descriptor to the back end");
  message.fds.push_back(std::move(copy));
  return {};
}

spec::VhostUserMemoryRegion wire_region(const SharedMemoryRegion& r) {
  return {r.guest.value, r.size, r.user.value, r.mmap_offset};
}

}  // namespace

Frontend::Frontend(UniqueFd socket, FrontendOptions options)
    : socket_(std::move(socket)), options_(options), peer_(peer_credentials(socket_.get())) {}

Result<Frontend> Frontend::adopt(UniqueFd socket, FrontendOptions options) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return fail_errno(errno, "can not use the socket to the back end");
  return Frontend(std::move(socket), options);
}

Result<Frontend> Frontend::connect(const std::string& path, FrontendOptions options) {
  auto socket = connect_unix(path);
  if (!socket) return forward(socket);
  return Frontend(std::move(*socket), options);
}

Result<Frontend> Frontend::accept(const UnixListener& listener, FrontendOptions options) {
  const Nanos deadline = options.clock->now() + options.timeout;
  Frontend waiting(UniqueFd(), options);
  for (;;) {
    auto socket = listener.accept();
    if (!socket) return forward(socket);
    if (*socket) return Frontend(std::move(*socket), options);
    if (auto ok = waiting.wait_for(listener.fd(), POLLIN, deadline); !ok) return forward(ok);
  }
}

/// Waits until `fd` has `events`, the back end hangs up, the stop descriptor is readable or the
/// deadline has passed; meanwhile the back end's requests are answered, as it may need that to
/// answer ours.
Status Frontend::wait_for(int fd, short events, Nanos deadline) {
  for (;;) {
    pollfd fds[4] = {{fd, events, 0},
                     {options_.stop_fd, POLLIN, 0},
                     {channel_ ? channel_->fd() : -1, channel_ ? channel_->events() : short{0}, 0},
                     {socket_.get(), 0, 0}};
    const Nanos left = deadline - options_.clock->now();
    const int r = ::poll(fds, 4, milliseconds_left(left));
    if (r < 0 && errno != EINTR) return fail_errno(errno, "can not wait for the back end");
    if (r > 0 && fds[1].revents != 0) return told_to_stop();
    if (r > 0 && fds[2].revents != 0) {
      if (auto ok = serve_channel(); !ok) return ok;
    }
    if (r > 0 && fds[0].revents != 0) return {};
    if (r > 0 && fds[3].revents != 0) {
      return fail(ErrorCode::kDisconnected, "the back end hung up");
    }
    if (left <= Nanos::zero()) return fail(ErrorCode::kTimeout, "the back end did not answer");
  }
}

/// A back end that closes the channel has no more requests; one that talks nonsense is given up.
Status Frontend::serve_channel() {
  auto ok = channel_->serve({features_, protocol_features_, protocol_features_});
  if (ok || ok.error().code != ErrorCode::kDisconnected) return ok;
  channel_.reset();
  return {};
}

Status Frontend::wait_for_event(int fd) {
  return wait_for(fd, POLLIN, options_.clock->now() + options_.timeout);
}

Status Frontend::send(Message message) {
  const Nanos deadline = options_.clock->now() + options_.timeout;
  if (auto ok = writer_.send(socket_.get(), std::move(message)); !ok) return ok;
  while (writer_.pending()) {
    if (auto ok = wait_for(socket_.get(), POLLOUT, deadline); !ok) return ok;
    if (auto ok = writer_.flush(socket_.get()); !ok) return ok;
  }
  return {};
}

Result<Message> Frontend::receive_reply(uint32_t request) {
  const Nanos deadline = options_.clock->now() + options_.timeout;
  for (;;) {
    auto message = reader_.read(socket_.get());
    if (!message) return forward(message);
    if (message->has_value()) {
      if ((*message)->is_reply() && (*message)->request == request) return std::move(**message);
      return fail(ErrorCode::kProtocol,
                  fmt::format("the back end answered {} with {}", request_name(request),
                              request_name((*message)->request)));
    }
    if (auto ok = wait_for(socket_.get(), POLLIN, deadline); !ok) return forward(ok);
  }
}

Status Frontend::send_acknowledged(Message message) {
  const uint32_t request = message.request;
  if ((protocol_features_ & spec::VHOST_USER_PROTOCOL_F_REPLY_ACK) == 0)
    return send(std::move(message));
  message.flags |= spec::VHOST_USER_NEED_REPLY_MASK;
  if (auto ok = send(std::move(message)); !ok) return ok;
  auto reply = receive_reply(request);
  if (!reply) return forward(reply);
  const auto verdict = reply->get<uint64_t>();
  if (!verdict) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the back end's reply to {} is too short", request_name(request)));
  }
  if (*verdict != 0) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the back end refused {}", request_name(request)));
  }
  return {};
}

Result<uint64_t> Frontend::ask_u64(uint32_t request) {
  if (auto ok = send(make_request(request)); !ok) return forward(ok);
  auto reply = receive_reply(request);
  if (!reply) return forward(reply);
  const auto value = reply->get<uint64_t>();
  if (!value) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the back end's reply to {} is too short", request_name(request)));
  }
  return *value;
}

Status Frontend::set_owner() { return send_acknowledged(make_request(spec::VHOST_USER_SET_OWNER)); }

Result<uint64_t> Frontend::get_features() { return ask_u64(spec::VHOST_USER_GET_FEATURES); }

Status Frontend::set_features(uint64_t features) {
  auto ok = send_acknowledged(make_request(spec::VHOST_USER_SET_FEATURES, features));
  if (ok) features_ = features;
  return ok;
}

Result<uint64_t> Frontend::get_protocol_features() {
  return ask_u64(spec::VHOST_USER_GET_PROTOCOL_FEATURES);
}

Status Frontend::set_protocol_features(uint64_t protocol_features) {
  auto ok =
      send_acknowledged(make_request(spec::VHOST_USER_SET_PROTOCOL_FEATURES, protocol_features));
  if (ok) protocol_features_ = protocol_features;
  return ok;
}

Result<uint64_t> Frontend::get_queue_num() { return ask_u64(spec::VHOST_USER_GET_QUEUE_NUM); }

Result<Message> Frontend::table_of(std::span<const SharedMemoryRegion> regions) const {
  if (regions.size() > spec::VHOST_USER_MAX_RAM_REGIONS) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} memory regions do not fit into one message of {}", regions.size(),
                            spec::VHOST_USER_MAX_RAM_REGIONS));
  }
  Message message = make_request(spec::VHOST_USER_SET_MEM_TABLE);
  message.put(static_cast<uint32_t>(regions.size()));
  message.put(uint32_t{0});
  for (const SharedMemoryRegion& region : regions) {
    message.put(wire_region(region));
    if (auto ok = attach_copy(message, region.fd); !ok) return forward(ok);
  }
  return message;
}

Status Frontend::set_mem_table(std::span<const SharedMemoryRegion> regions) {
  auto message = table_of(regions);
  return message ? send_acknowledged(std::move(*message)) : Status(forward(message));
}

Result<uint64_t> Frontend::get_max_mem_slots() {
  return ask_u64(spec::VHOST_USER_GET_MAX_MEM_SLOTS);
}

Status Frontend::add_mem_reg(const SharedMemoryRegion& region) {
  Message message =
      make_request(spec::VHOST_USER_ADD_MEM_REG, spec::VhostUserMemRegMsg{0, wire_region(region)});
  if (auto ok = attach_copy(message, region.fd); !ok) return ok;
  return send_acknowledged(std::move(message));
}

Status Frontend::rem_mem_reg(const SharedMemoryRegion& region) {
  return send_acknowledged(
      make_request(spec::VHOST_USER_REM_MEM_REG, spec::VhostUserMemRegMsg{0, wire_region(region)}));
}

Status Frontend::share_memory(std::span<const SharedMemoryRegion> regions) {
  if (regions.size() <= spec::VHOST_USER_MAX_RAM_REGIONS) return set_mem_table(regions);
  if ((protocol_features_ & spec::VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) == 0) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the back end takes {} memory regions and there are {}: use fewer, "
                            "e.g. one file for all",
                            spec::VHOST_USER_MAX_RAM_REGIONS, regions.size()));
  }
  auto slots = get_max_mem_slots();
  if (!slots) return forward(slots);
  if (*slots < regions.size()) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the back end takes {} memory regions and there are {}", *slots,
                            regions.size()));
  }
  for (const SharedMemoryRegion& region : regions) {
    if (auto ok = add_mem_reg(region); !ok) return ok;
  }
  return {};
}

Status Frontend::set_vring_num(uint16_t index, uint32_t size) {
  return send_acknowledged(
      make_request(spec::VHOST_USER_SET_VRING_NUM, spec::vhost_vring_state{index, size}));
}

Status Frontend::set_vring_addr(uint16_t index, const VringAddresses& addresses) {
  const spec::vhost_vring_addr wire{index,
                                    addresses.log_used ? spec::VHOST_VRING_F_LOG : 0,
                                    addresses.desc.value,
                                    addresses.used.value,
                                    addresses.avail.value,
                                    addresses.log.value};
  return send_acknowledged(make_request(spec::VHOST_USER_SET_VRING_ADDR, wire));
}

Status Frontend::set_vring_base(uint16_t index, uint32_t base) {
  return send_acknowledged(
      make_request(spec::VHOST_USER_SET_VRING_BASE, spec::vhost_vring_state{index, base}));
}

Result<uint32_t> Frontend::get_vring_base(uint16_t index) {
  constexpr uint32_t kRequest = spec::VHOST_USER_GET_VRING_BASE;
  if (auto ok = send(make_request(kRequest, spec::vhost_vring_state{index, 0})); !ok)
    return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  const auto state = reply->get<spec::vhost_vring_state>();
  if (!state || state->index != index) {
    return fail(ErrorCode::kProtocol, "the back end's reply to GET_VRING_BASE is for no such ring");
  }
  return state->num;
}

Status Frontend::send_vring_fd(uint32_t request, uint16_t index, int fd) {
  uint64_t value = index & spec::VHOST_USER_VRING_IDX_MASK;
  if (fd < 0) value |= spec::VHOST_USER_VRING_NOFD_MASK;
  Message message = make_request(request, value);
  if (fd >= 0) {
    if (auto ok = attach_copy(message, fd); !ok) return ok;
  }
  return send_acknowledged(std::move(message));
}

Status Frontend::set_vring_kick(uint16_t index, int fd) {
  return send_vring_fd(spec::VHOST_USER_SET_VRING_KICK, index, fd);
}

Status Frontend::set_vring_call(uint16_t index, int fd) {
  return send_vring_fd(spec::VHOST_USER_SET_VRING_CALL, index, fd);
}

Status Frontend::set_vring_err(uint16_t index, int fd) {
  return send_vring_fd(spec::VHOST_USER_SET_VRING_ERR, index, fd);
}

Status Frontend::set_vring_enable(uint16_t index, bool enabled) {
  return send_acknowledged(make_request(spec::VHOST_USER_SET_VRING_ENABLE,
                                        spec::vhost_vring_state{index, enabled ? 1U : 0U}));
}

Result<UniqueFd> Frontend::postcopy_advise() {
  constexpr uint32_t kRequest = spec::VHOST_USER_POSTCOPY_ADVISE;
  if (auto ok = send(make_request(kRequest)); !ok) return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  if (reply->fds.size() != 1) {
    return fail(ErrorCode::kProtocol, "the back end's reply to POSTCOPY_ADVISE has no descriptor");
  }
  return std::move(reply->fds.front());
}

Status Frontend::postcopy_listen() {
  return send_acknowledged(make_request(spec::VHOST_USER_POSTCOPY_LISTEN));
}

Result<std::vector<UserAddr>> Frontend::postcopy_mem_table(
    std::span<const SharedMemoryRegion> regions) {
  auto message = table_of(regions);
  if (!message) return forward(message);
  const size_t size = message->payload.size();
  if (auto ok = send(std::move(*message)); !ok) return forward(ok);
  auto reply = receive_reply(spec::VHOST_USER_SET_MEM_TABLE);
  if (!reply) return forward(reply);
  if (reply->payload.size() != size) {
    return fail(ErrorCode::kProtocol, "the back end's reply to SET_MEM_TABLE is no table like it");
  }
  std::vector<UserAddr> places;
  for (size_t i = 0; i < regions.size(); ++i) {
    const size_t at =
        offsetof(spec::VhostUserMemory, regions) + i * sizeof(spec::VhostUserMemoryRegion);
    places.push_back(UserAddr{reply->get<spec::VhostUserMemoryRegion>(at)->userspace_addr});
  }
  return places;
}

Status Frontend::postcopy_go() {
  return send(make_request(spec::VHOST_USER_SET_MEM_TABLE, uint64_t{0}));
}

Status Frontend::postcopy_end() {
  auto verdict = ask_u64(spec::VHOST_USER_POSTCOPY_END);
  if (!verdict) return forward(verdict);
  if (*verdict == 0) return {};
  return fail(ErrorCode::kInvalidArgument, "the back end could not end the post-copy migration");
}

Status Frontend::set_log_base(int fd, uint64_t offset, uint64_t size) {
  constexpr uint32_t kRequest = spec::VHOST_USER_SET_LOG_BASE;
  Message message = make_request(kRequest, spec::VhostUserLog{size, offset});
  if (auto ok = attach_copy(message, fd); !ok) return ok;
  if (auto ok = send(std::move(message)); !ok) return ok;
  auto reply = receive_reply(kRequest);  // always one, and what it holds is not specified
  return reply ? Status() : Status(forward(reply));
}

Status Frontend::set_log_fd(int fd) {
  Message message = make_request(spec::VHOST_USER_SET_LOG_FD);
  if (fd >= 0) {
    if (auto ok = attach_copy(message, fd); !ok) return ok;
  }
  return send_acknowledged(std::move(message));
}

Result<Frontend::Inflight> Frontend::get_inflight_fd(uint16_t queues, uint16_t queue_size) {
  constexpr uint32_t kRequest = spec::VHOST_USER_GET_INFLIGHT_FD;
  spec::VhostUserInflight wanted{};
  wanted.num_queues = queues;
  wanted.queue_size = queue_size;
  if (auto ok = send(make_request(kRequest, wanted)); !ok) return forward(ok);
  auto reply = receive_reply(kRequest);
  if (!reply) return forward(reply);
  const auto told = reply->get<spec::VhostUserInflight>();
  if (!told || told->mmap_size == 0 || reply->fds.size() != 1) {
    return fail(ErrorCode::kProtocol, "the back end's reply to GET_INFLIGHT_FD has no region");
  }
  return Inflight{*told, std::move(reply->fds.front())};
}

Status Frontend::set_inflight_fd(const Inflight& region) {
  Message message = make_request(spec::VHOST_USER_SET_INFLIGHT_FD, region.told);
  if (auto ok = attach_copy(message, region.fd.get()); !ok) return ok;
  return send_acknowledged(std::move(message));
}

Status Frontend::send_rarp(const std::array<uint8_t, 6>& mac) {
  uint64_t value = 0;
  std::memcpy(&value, mac.data(), mac.size());
  return send_acknowledged(make_request(spec::VHOST_USER_SEND_RARP, value));
}

Status Frontend::set_mtu(uint16_t mtu) {
  return send_acknowledged(make_request(spec::VHOST_USER_NET_SET_MTU, uint64_t{mtu}));
}

Status Frontend::wait_for_hang_up(Nanos timeout) {
  const Nanos deadline = options_.clock->now() + timeout;
  for (;;) {
    auto message = reader_.read(socket_.get());
    if (!message) return forward(message);
    if (message->has_value()) {
      return fail(ErrorCode::kProtocol,
                  fmt::format("the back end sent {} unasked", request_name((*message)->request)));
    }
    auto ok = wait_for(socket_.get(), POLLIN, deadline);
    if (!ok && ok.error().code == ErrorCode::kTimeout) return {};
    if (!ok) return ok;
  }
}

}  // namespace pollux::vhost
