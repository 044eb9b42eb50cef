// SPDX-License-Identifier: Apache-2.0
// The session's frame: which handler takes a request, what becomes of a refusal, negotiation.
// Memory is in session_memory.cpp, rings are in session_rings.cpp, the log of dirty pages is in
// session_log.cpp, the rest of the device is in session_device.cpp, the way back to the front end
// in session_channel.cpp, notifications that go it in session_inband.cpp, a virtual IOMMU in
// session_iotlb.cpp.
#include "pollux/vhost/backend_session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace pollux::vhost {

using spec::VHOST_USER_F_PROTOCOL_FEATURES;

BackendSession::BackendSession(BackendDevice& device, Log log)
    : device_(device), log_(std::move(log)), offer_(device.offer()) {
  offer_.features |= VHOST_USER_F_PROTOCOL_FEATURES;
  offer_.protocol_features &= possible_protocol_features();
  if ((offer_.protocol_features & spec::VHOST_USER_PROTOCOL_F_LOG_SHMFD) != 0) {
    offer_.features |= spec::VHOST_F_LOG_ALL;
  }
  offer_.vrings = static_cast<uint16_t>(std::min<uint32_t>(offer_.vrings, spec::kMaxVrings));
  offer_.mem_slots = std::min(offer_.mem_slots, spec::kMaxMemSlots);
  state_.vrings.resize(offer_.vrings);
}

BackendSession::~BackendSession() { end(); }

uint64_t BackendSession::possible_protocol_features() {
  const bool faults = PageFaults::open().has_value();
  return faults ? kProtocolFeatures : kProtocolFeatures & ~spec::VHOST_USER_PROTOCOL_F_PAGEFAULT;
}

void BackendSession::end() noexcept {
  abandon_absent_pages();
  for (uint16_t i = 0; i < offer_.vrings; ++i) {
    if (auto ok = stop(i); !ok) log_.error(ok.error().what);
  }
  if (std::exchange(state_.features_known, false)) device_.features_changed(0);
  channel_.reset();
  iotlb_.reset();
  bell_.reset();
  iommu_rings_.clear();
  misses_.clear();
  const SessionState last = std::exchange(state_, SessionState());
  state_.messages = last.messages;
  state_.last_problem = last.last_problem;
  state_.vrings.resize(offer_.vrings);
  transfer_.reset();
  loaded_.reset();
  inband_.clear();
  memory_.reset();
  dirty_log_.reset();
  inflight_.reset();
}

Status BackendSession::check_adopted(const SessionState& state) const {
  if (auto ok = check_features(state.features); !ok) return ok;
  if (state.vrings.size() != offer_.vrings || state.slots.size() > offer_.mem_slots) {
    return fail(ErrorCode::kProtocol, "the session is one of another device");
  }
  if ((state.protocol_features & ~offer_.protocol_features) != 0) {
    return fail(
        ErrorCode::kUnsupported,
        fmt::format(
            "the session uses the protocol feature {}, which is not known here",
            protocol_feature_names(state.protocol_features & ~offer_.protocol_features).front()));
  }
  return {};
}

Status BackendSession::adopt(SessionState state) {
  if (auto ok = check_adopted(state); !ok) return ok;
  auto memory = map_all(state.slots);
  if (!memory) return forward(memory);
  memory_ = state.slots.empty() ? nullptr : std::move(*memory);
  state_ = std::move(state);
  if (state_.backend_channel) {
    channel_ = std::make_unique<BackendChannel>(state_.backend_channel);
  }
  if (state_.log.fd) {
    auto log = map_log(state_.log);
    if (!log) return forward(log);
    dirty_log_ = std::move(*log);
  }
  if (state_.inflight_fd) {
    const SharedFd fd = state_.inflight_fd;
    if (auto ok = use_inflight(fd, state_.inflight); !ok) return ok;
  }
  if (auto ok = restore_mappings(); !ok) return ok;
  if (state_.mtu != 0) (void)device_.set_mtu(state_.mtu);
  if (state_.features_known) device_.features_changed(virtio_features());
  try_start_all();
  return {};
}

Status BackendSession::can_hand_over() const {
  const char* busy = !inband_.empty() ? "has its notifications in band"
                     : transfer_      ? "is moving the device's state"
                     : postcopy_      ? "has a guest whose memory is still on its way"
                                      : nullptr;
  if (busy == nullptr) return {};
  return fail(ErrorCode::kUnsupported,
              fmt::format("its front end {}: take over once that is done, or it has gone", busy));
}

Status BackendSession::pause() {
  for (uint16_t i = 0; i < offer_.vrings; ++i) {
    if (auto ok = stop(i); !ok) return ok;
  }
  if (iotlb_) state_.mappings = iotlb_->mappings();
  return {};
}

void BackendSession::resume() {
  state_.mappings.clear();
  try_start_all();
}

BackendSession::Handler BackendSession::find_handler(uint32_t request) {
  struct Row {
    uint32_t request;
    Handler handler;
  };
  using S = BackendSession;
  static constexpr std::array kHandlers{
      Row{spec::VHOST_USER_GET_FEATURES, &S::get_features},
      Row{spec::VHOST_USER_SET_FEATURES, &S::set_features},
      Row{spec::VHOST_USER_GET_PROTOCOL_FEATURES, &S::get_protocol_features},
      Row{spec::VHOST_USER_SET_PROTOCOL_FEATURES, &S::set_protocol_features},
      Row{spec::VHOST_USER_SET_OWNER, &S::set_owner},
      Row{spec::VHOST_USER_RESET_OWNER, &S::reset_owner},
      Row{spec::VHOST_USER_GET_QUEUE_NUM, &S::get_queue_num},
      Row{spec::VHOST_USER_GET_MAX_MEM_SLOTS, &S::get_max_mem_slots},
      Row{spec::VHOST_USER_SET_MEM_TABLE, &S::set_mem_table},
      Row{spec::VHOST_USER_ADD_MEM_REG, &S::add_mem_reg},
      Row{spec::VHOST_USER_REM_MEM_REG, &S::rem_mem_reg},
      Row{spec::VHOST_USER_POSTCOPY_ADVISE, &S::postcopy_advise},
      Row{spec::VHOST_USER_POSTCOPY_LISTEN, &S::postcopy_listen},
      Row{spec::VHOST_USER_POSTCOPY_END, &S::postcopy_end},
      Row{spec::VHOST_USER_SET_LOG_BASE, &S::set_log_base},
      Row{spec::VHOST_USER_SET_LOG_FD, &S::set_log_fd},
      Row{spec::VHOST_USER_SET_VRING_NUM, &S::set_vring_num},
      Row{spec::VHOST_USER_SET_VRING_ADDR, &S::set_vring_addr},
      Row{spec::VHOST_USER_SET_VRING_BASE, &S::set_vring_base},
      Row{spec::VHOST_USER_GET_VRING_BASE, &S::get_vring_base},
      Row{spec::VHOST_USER_SET_VRING_KICK, &S::set_vring_kick},
      Row{spec::VHOST_USER_SET_VRING_CALL, &S::set_vring_call},
      Row{spec::VHOST_USER_SET_VRING_ERR, &S::set_vring_err},
      Row{spec::VHOST_USER_SET_VRING_ENABLE, &S::set_vring_enable},
      Row{spec::VHOST_USER_VRING_KICK, &S::vring_kick},
      Row{spec::VHOST_USER_SEND_RARP, &S::send_rarp},
      Row{spec::VHOST_USER_NET_SET_MTU, &S::net_set_mtu},
      Row{spec::VHOST_USER_SET_BACKEND_REQ_FD, &S::set_backend_req_fd},
      Row{spec::VHOST_USER_IOTLB_MSG, &S::iotlb_msg},
      Row{spec::VHOST_USER_GET_INFLIGHT_FD, &S::get_inflight_fd},
      Row{spec::VHOST_USER_SET_INFLIGHT_FD, &S::set_inflight_fd},
      Row{spec::VHOST_USER_GET_CONFIG, &S::get_config},
      Row{spec::VHOST_USER_SET_CONFIG, &S::set_config},
      Row{spec::VHOST_USER_RESET_DEVICE, &S::reset_device},
      Row{spec::VHOST_USER_SET_VRING_ENDIAN, &S::set_vring_endian},
      Row{spec::VHOST_USER_SET_STATUS, &S::set_status},
      Row{spec::VHOST_USER_GET_STATUS, &S::get_status},
      Row{spec::VHOST_USER_GET_SHARED_OBJECT, &S::get_shared_object},
      Row{spec::VHOST_USER_SET_DEVICE_STATE_FD, &S::set_device_state_fd},
      Row{spec::VHOST_USER_CHECK_DEVICE_STATE, &S::check_device_state},
      Row{spec::VHOST_USER_GET_SHMEM_CONFIG, &S::get_shmem_config},
  };
  for (const Row& row : kHandlers) {
    if (row.request == request) return row.handler;
  }
  return nullptr;
}

Result<BackendSession::Reply> BackendSession::handle(Message message) {
  ++state_.messages;
  const RequestRule* rule = find_rule(message.request);
  auto reply = dispatch(rule, message);
  if (!reply) return refuse(rule, message, reply.error());
  if (!reply->has_value() && message.needs_reply() &&
      negotiated(spec::VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
    *reply = make_reply(message.request, uint64_t{0});
  }
  return reply;
}

bool BackendSession::serves(uint32_t request) { return find_handler(request) != nullptr; }

Result<BackendSession::Reply> BackendSession::dispatch(const RequestRule* rule, Message& message) {
  if (rule == nullptr) {
    return fail(ErrorCode::kUnsupported, "the vhost-user protocol has no such request");
  }
  if (auto ok = check_request(
          *rule, message,
          Negotiated{state_.features, state_.protocol_features, offer_.protocol_features});
      !ok) {
    return forward(ok);
  }
  const Handler handler = find_handler(message.request);
  if (handler == nullptr) {
    return fail(ErrorCode::kUnsupported, rule->why_not.empty() ? "it is legal, but not offered here"
                                                               : std::string(rule->why_not));
  }
  return (this->*handler)(message);
}

/// A front end that asked for an answer gets one and may go on. One that did not would take silence
/// for success, and the text gives no other way of telling it than to hang up.
Result<BackendSession::Reply> BackendSession::refuse(const RequestRule* rule,
                                                     const Message& message, const Error& error) {
  const std::string what = fmt::format("{}: {}", request_name(message.request), error.what);
  state_.last_problem = what;
  const bool own_reply = rule != nullptr && rule->has_reply;
  if (broken_ || own_reply || message.is_reply() || !message.needs_reply() ||
      !negotiated(spec::VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
    return std::unexpected(Error{error.code, error.sys_errno, what});
  }
  log_.warn(fmt::format("refused {}", what));
  return make_reply(message.request, uint64_t{1});
}

bool BackendSession::negotiated(uint64_t protocol_feature) const {
  return (state_.protocol_features & protocol_feature) != 0;
}

uint64_t BackendSession::virtio_features() const {
  return state_.features & ~(VHOST_USER_F_PROTOCOL_FEATURES | spec::VHOST_F_LOG_ALL);
}

bool BackendSession::packed() const { return (state_.features & spec::VIRTIO_F_RING_PACKED) != 0; }

Result<BackendSession::Reply> BackendSession::get_features(Message& message) {
  return make_reply(message.request, offer_.features);
}

Status BackendSession::check_features(uint64_t features) const {
  if (const uint64_t unknown = features & ~offer_.features; unknown != 0) {
    return fail(ErrorCode::kProtocol, fmt::format("feature bits {:#x} were not offered", unknown));
  }
  return {};
}

Result<BackendSession::Reply> BackendSession::set_features(Message& message) {
  const uint64_t features = *message.get<uint64_t>();
  if (auto ok = check_features(features); !ok) return forward(ok);
  // QEMU repeats it for each queue pair while others run: only a change disturbs them.
  if (!state_.features_known || features != state_.features) {
    if (auto ok = change_features(features); !ok) return forward(ok);
  }
  // "Ring states". QEMU before 8.1 leaves the bit out and yet says which rings it wants: believe
  // it, or packets end in the receive queues of a guest that uses fewer than it has.
  if ((features & VHOST_USER_F_PROTOCOL_FEATURES) == 0) {
    for (uint16_t i = 0; i < offer_.vrings; ++i) {
      if (!state_.vrings[i].enable_known) set_enabled(i, true);
    }
  }
  return Reply();
}

/// An index of one format means nothing in the other.
void BackendSession::forget_bases() {
  for (VringState& vring : state_.vrings) vring.base_known = vring.base_ours = false;
}

Status BackendSession::change_features(uint64_t features) {
  const uint64_t changed = features ^ state_.features;
  if (state_.features_known && changed == spec::VHOST_F_LOG_ALL) {
    state_.features = features;
    // A guest that is to be migrated goes on as if nothing had happened.
    if (auto ok = update_logs(); !ok) return ok;
    try_start_all();
    return {};
  }
  if (auto ok = stop_all("the features change"); !ok) return ok;
  const bool was_packed = packed();
  state_.features_known = true;
  state_.features = features;
  if (packed() != was_packed) forget_bases();
  if (auto ok = set_up_iotlb(); !ok) return ok;
  device_.features_changed(virtio_features());
  try_start_all();
  return {};
}

Result<BackendSession::Reply> BackendSession::get_protocol_features(Message& message) {
  return make_reply(message.request, offer_.protocol_features);
}

Result<BackendSession::Reply> BackendSession::set_protocol_features(Message& message) {
  const uint64_t features = *message.get<uint64_t>();
  if (const uint64_t unknown = features & ~offer_.protocol_features; unknown != 0) {
    return fail(ErrorCode::kProtocol, fmt::format("protocol feature {} was not offered",
                                                  protocol_feature_names(unknown).front()));
  }
  constexpr uint64_t kInbandNeeds =
      spec::VHOST_USER_PROTOCOL_F_BACKEND_REQ | spec::VHOST_USER_PROTOCOL_F_REPLY_ACK;
  if ((features & spec::VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS) != 0 &&
      (features & kInbandNeeds) != kInbandNeeds) {
    broken_ = true;  // "In-band notifications": the connection is to be closed
    return fail(ErrorCode::kProtocol,
                "INBAND_NOTIFICATIONS does not go without BACKEND_REQ and REPLY_ACK");
  }
  state_.protocol_features = features;
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_owner(Message& /*message*/) {
  state_.owned = true;
  return Reply();
}

/// Deprecated; the text recommends no more than this.
Result<BackendSession::Reply> BackendSession::reset_owner(Message& /*message*/) {
  for (uint16_t i = 0; i < offer_.vrings; ++i) set_enabled(i, false);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::get_queue_num(Message& message) {
  return make_reply(message.request, offer_.queue_num);
}

Result<BackendSession::Reply> BackendSession::send_rarp(Message& message) {
  device_.send_rarp(*message.get<std::array<uint8_t, 6>>());
  return Reply();
}

Result<BackendSession::Reply> BackendSession::net_set_mtu(Message& message) {
  const uint64_t mtu = *message.get<uint64_t>();
  if (auto ok = device_.set_mtu(mtu); !ok) return forward(ok);
  state_.mtu = mtu;
  return Reply();
}

}  // namespace pollux::vhost
