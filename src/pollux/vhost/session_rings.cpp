// SPDX-License-Identifier: Apache-2.0
// A session's rings. A ring runs as soon as everything that it needs is known, in whatever order
// the front end tells it; text: "Ring states".
#include <fcntl.h>
#include <fmt/format.h>

#include <utility>

#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/event_fd.hpp"

namespace pollux::vhost {
namespace {

/// The descriptor of SET_VRING_KICK, CALL or ERR; null when the message says that there is none.
Result<SharedFd> take_vring_fd(Message& message, int access) {
  const uint64_t value = *message.get<uint64_t>();
  const bool none = (value & spec::VHOST_USER_VRING_NOFD_MASK) != 0;
  if (none != message.fds.empty()) {
    return fail(ErrorCode::kProtocol, none ? "it says that no descriptor comes, but one came"
                                           : "its descriptor is missing");
  }
  if (none) return SharedFd();
  auto fd = check_event_fd(std::move(message.fds.front()), access);
  if (!fd) return forward(fd);
  return std::make_shared<const UniqueFd>(std::move(*fd));
}

/// Bits 0 to 7 are the index, bit 8 is the flag; the rest means nothing yet.
Result<uint64_t> vring_fd_index(const Message& message) {
  const uint64_t value = *message.get<uint64_t>();
  constexpr uint64_t kKnown = spec::VHOST_USER_VRING_IDX_MASK | spec::VHOST_USER_VRING_NOFD_MASK;
  if ((value & ~kKnown) != 0) {
    return fail(ErrorCode::kProtocol,
                fmt::format("{:#x} has bits above the index and the flag", value));
  }
  return value & spec::VHOST_USER_VRING_IDX_MASK;
}

}  // namespace

Result<uint16_t> BackendSession::check_index(uint64_t index) const {
  if (index >= state_.vrings.size()) {
    return fail(ErrorCode::kProtocol,
                fmt::format("there is no ring {}, only {}", index, state_.vrings.size()));
  }
  return static_cast<uint16_t>(index);
}

Result<BackendSession::Reply> BackendSession::set_vring_num(Message& message) {
  const auto wanted = *message.get<spec::vhost_vring_state>();
  auto index = check_index(wanted.index);
  if (!index) return forward(index);
  VringState& vring = state_.vrings[*index];
  if (auto ok = check_ring_size(packed(), wanted.num); !ok) return forward(ok);
  if (vring.started && vring.size != wanted.num) {
    return fail(ErrorCode::kProtocol, fmt::format("ring {} runs, its size can not change", *index));
  }
  vring.size = wanted.num;
  try_start(*index);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_vring_addr(Message& message) {
  const auto wanted = *message.get<spec::vhost_vring_addr>();
  auto index = check_index(wanted.index);
  if (!index) return forward(index);
  if ((wanted.flags & ~spec::VHOST_VRING_F_LOG) != 0) {
    return fail(ErrorCode::kProtocol, fmt::format("ring flags {:#x} are unknown", wanted.flags));
  }
  if (auto ok = check_ring_alignment(packed(), wanted); !ok) return forward(ok);
  VringState& vring = state_.vrings[*index];
  const bool same_place = vring.addresses_known && vring.desc.value == wanted.desc_user_addr &&
                          vring.used.value == wanted.used_user_addr &&
                          vring.avail.value == wanted.avail_user_addr;
  const bool same_log = vring.flags == wanted.flags && vring.log.value == wanted.log_guest_addr;
  if (same_place && same_log) return Reply();
  if (!same_place) {
    if (auto ok = stop(*index); !ok) return forward(ok);
  }
  vring.addresses_known = true;
  vring.flags = wanted.flags;
  vring.desc = UserAddr{wanted.desc_user_addr};
  vring.used = UserAddr{wanted.used_user_addr};
  vring.avail = UserAddr{wanted.avail_user_addr};
  vring.log = GuestAddr{wanted.log_guest_addr};
  if (vring.started) {
    if (auto ok = update_log(*index); !ok) return forward(ok);
  }
  try_start(*index);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_vring_base(Message& message) {
  const auto wanted = *message.get<spec::vhost_vring_state>();
  auto index = check_index(wanted.index);
  if (!index) return forward(index);
  VringState& vring = state_.vrings[*index];
  if (auto ok = check_ring_base(packed(), wanted.num, vring.size); !ok) return forward(ok);
  if (vring.started) {
    return fail(ErrorCode::kProtocol,
                fmt::format("ring {} runs, its index can not change", *index));
  }
  vring.base = wanted.num;
  vring.base_known = true;
  vring.base_ours = false;
  return Reply();
}

Result<BackendSession::Reply> BackendSession::get_vring_base(Message& message) {
  const auto asked = *message.get<spec::vhost_vring_state>();
  auto index = check_index(asked.index);
  if (!index) return forward(index);
  if (auto ok = stop(*index); !ok) return forward(ok);
  VringState& vring = state_.vrings[*index];
  vring.kick_known = false;  // it takes a new SET_VRING_KICK to start
  vring.controls.kick.reset();
  vring.stopped_because = "the front end stopped it";
  device_.forget_ring(*index);
  forget_mappings();
  return make_reply(message.request, spec::vhost_vring_state{asked.index, base_of(vring)});
}

/// What SET_VRING_KICK, CALL and ERR have in common.
Result<BackendSession::VringFd> BackendSession::check_vring_fd(Message& message, int access) const {
  auto value = vring_fd_index(message);
  if (!value) return forward(value);
  auto index = check_index(*value);
  if (!index) return forward(index);
  auto fd = take_vring_fd(message, access);
  if (!fd) return forward(fd);
  return VringFd{*index, std::move(*fd)};
}

Result<BackendSession::Reply> BackendSession::set_vring_kick(Message& message) {
  auto wanted = check_vring_fd(message, O_RDONLY);
  if (!wanted) return forward(wanted);
  VringState& vring = state_.vrings[wanted->index];
  vring.controls.kick = std::move(wanted->fd);
  vring.kick_known = true;
  update_controls(wanted->index);
  try_start(wanted->index);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_vring_call(Message& message) {
  auto wanted = check_vring_fd(message, O_WRONLY);
  if (!wanted) return forward(wanted);
  state_.vrings[wanted->index].call_known = true;
  state_.vrings[wanted->index].controls.call = std::move(wanted->fd);
  update_controls(wanted->index);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_vring_err(Message& message) {
  auto wanted = check_vring_fd(message, O_WRONLY);
  if (!wanted) return forward(wanted);
  state_.vrings[wanted->index].err_known = true;
  state_.vrings[wanted->index].controls.err = std::move(wanted->fd);
  update_controls(wanted->index);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::set_vring_enable(Message& message) {
  const auto wanted = *message.get<spec::vhost_vring_state>();
  auto index = check_index(wanted.index);
  if (!index) return forward(index);
  if (wanted.num > 1) {
    return fail(ErrorCode::kProtocol,
                fmt::format("{} is neither 0 (disable) nor 1 (enable)", wanted.num));
  }
  state_.vrings[*index].enable_known = true;
  set_enabled(*index, wanted.num == 1);
  return Reply();
}

void BackendSession::set_enabled(uint16_t index, bool enabled) {
  if (std::exchange(state_.vrings[index].controls.enabled, enabled) != enabled) {
    update_controls(index);
  }
}

void BackendSession::update_controls(uint16_t index) {
  const VringState& vring = state_.vrings[index];
  if (vring.started) device_.update_ring(index, effective_controls(index));
}

Status BackendSession::stop(uint16_t index) {
  VringState& vring = state_.vrings[index];
  if (!std::exchange(vring.started, false)) return {};
  auto base = device_.stop_ring(index);
  if (iotlb_) iommu_rings_[index].reader.reset();
  if (!base) {
    broken_ = true;
    return forward(base);
  }
  vring.base = *base;
  vring.base_known = vring.base_ours = true;
  return {};
}

Status BackendSession::stop_all(const std::string& because) {
  for (uint16_t i = 0; i < offer_.vrings; ++i) {
    const bool ran = state_.vrings[i].started;
    if (auto ok = stop(i); !ok) return forward(ok);
    if (ran) state_.vrings[i].stopped_because = because;
  }
  return {};
}

void BackendSession::try_start_all() {
  for (uint16_t i = 0; i < offer_.vrings; ++i) try_start(i);
}

void BackendSession::try_start(uint16_t index) {
  VringState& vring = state_.vrings[index];
  if (vring.started || !vring.kick_known) return;
  make_inband_events(index);
  auto start = prepare_start(index);
  Status started = start ? recover_in_flight(*start) : Status(forward(start));
  if (started) started = device_.start_ring(*start);
  if (started) commit_in_flight(*start);
  if (started && iotlb_) iommu_rings_[index].reader = start->iotlb;
  vring.started = started.has_value();
  vring.stopped_because = started ? "" : started.error().what;
  if (!started) log_.debug(fmt::format("ring {} can not start: {}", index, started.error().what));
}

uint32_t BackendSession::base_of(const VringState& vring) const {
  return vring.base_known ? vring.base : initial_ring_base(packed());
}

/// What the device needs, or the first thing that is missing.
Result<RingStart> BackendSession::prepare_start(uint16_t index) {
  const VringState& vring = state_.vrings[index];
  if (vring.size == 0) return fail(ErrorCode::kNotFound, "its size is not known yet");
  if (!vring.addresses_known) return fail(ErrorCode::kNotFound, "its addresses are not known yet");
  if (!state_.features_known) return fail(ErrorCode::kNotFound, "features are not negotiated yet");
  if (!memory_) return fail(ErrorCode::kNotFound, "no memory is shared yet");
  if (log_is_missing(vring)) return fail(ErrorCode::kNotFound, "the dirty log is not shared yet");
  auto layout = find_ring(index);
  if (!layout) return forward(layout);
  if (!ring_is_here(*memory_, *layout)) {
    return fail(ErrorCode::kNotFound, "not all of its pages have come yet");
  }
  const uint32_t base = base_of(vring);
  if (auto ok = check_ring_base(packed(), base, vring.size); !ok) return forward(ok);
  RingStart start;
  start.index = index;
  start.layout = *layout;
  start.base = base;
  start.base_ours = vring.base_ours;
  start.features = virtio_features();
  start.log = write_log(vring, *layout);
  start.controls = effective_controls(index);
  start.memory = memory_;
  if (iotlb_) start.iotlb = std::make_shared<IotlbReader>(iotlb_, bell_);
  return start;
}

Result<RingLayout> BackendSession::find_ring(uint16_t index) {
  const VringState& vring = state_.vrings[index];
  if (iotlb_) return find_ring_behind_iommu(index);
  return translate_ring(vring, state_.features, [this](const RingPart& part) {
    const Translation found = memory_->translate_user(UserAddr{part.at}, part.size);
    return found.status == TranslationStatus::kOk
               ? Result<std::byte*>(found.data)
               : fail(ErrorCode::kProtocol,
                      fmt::format("its {} ({} bytes at {:#x}) is not inside one shared region",
                                  part.name, part.size, part.at));
  });
}

}  // namespace pollux::vhost
