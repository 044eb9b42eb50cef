// SPDX-License-Identifier: Apache-2.0
// A session's log of dirty pages, for live migration; text: "Migration".
#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <utility>
#include <variant>

#include "pollux/base/peer_fd.hpp"
#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/event_fd.hpp"

namespace pollux::vhost {

namespace {

static_assert(DirtyLog::kPage == spec::VHOST_LOG_PAGE);

/// What used_user_addr of SET_VRING_ADDR names: 2.6, the device area.
WriteLog::RingArea device_area(const RingLayout& layout) {
  if (const auto* split = std::get_if<ring::SplitLayout>(&layout)) {
    return {reinterpret_cast<const std::byte*>(split->used), spec::used_bytes(split->size), {}};
  }
  const auto& packed = std::get<ring::PackedLayout>(layout);
  return {reinterpret_cast<const std::byte*>(packed.device), sizeof *packed.device, {}};
}

}  // namespace

/// The state keeps its own descriptor, to map it again after a hand-over.
Result<std::shared_ptr<DirtyLog>> BackendSession::map_log(const LogState& log) {
  UniqueFd fd(::fcntl(log.fd->get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "can not keep a descriptor of the dirty log");
  return DirtyLog::map(std::move(fd), log.place.mmap_offset, log.place.mmap_size);
}

Result<BackendSession::Reply> BackendSession::set_log_base(Message& message) {
  const auto wanted = *message.get<spec::VhostUserLog>();
  const uint64_t end = wanted.mmap_offset + wanted.mmap_size;
  if (wanted.mmap_size == 0 || end < wanted.mmap_offset || end > static_cast<uint64_t>(INT64_MAX)) {
    return fail(ErrorCode::kProtocol,
                fmt::format("a log of {:#x} bytes at file offset {:#x} is empty or wraps around",
                            wanted.mmap_size, wanted.mmap_offset));
  }
  const LogState shared{wanted, std::make_shared<const UniqueFd>(std::move(message.fds.front())),
                        state_.log.event};
  auto log = map_log(shared);
  if (!log) return forward(log);
  dirty_log_ = std::move(*log);
  state_.log = shared;
  if ((state_.features & spec::VHOST_F_LOG_ALL) != 0) {
    if (auto ok = update_logs(); !ok) return forward(ok);
    try_start_all();
  }
  Message reply = make_request(message.request);  // without a payload, as the text has it
  reply.flags |= spec::VHOST_USER_REPLY_MASK;
  return reply;
}

Result<BackendSession::Reply> BackendSession::set_log_fd(Message& message) {
  if (message.fds.empty()) {
    state_.log.event.reset();
    return Reply();
  }
  auto event = check_event_fd(std::move(message.fds.front()), O_WRONLY);
  if (!event) return forward(event);
  state_.log.event = std::make_shared<const UniqueFd>(std::move(*event));
  return Reply();
}

void BackendSession::tell_of_dirty_pages() const noexcept {
  if (!state_.log.event || !dirty_log_ || !dirty_log_->take_touched()) return;
  signal_event(state_.log.event->get());
}

/// A ring that is to be logged writes nothing before there is a log. QEMU shares it after
/// everything else when it starts a device while a migration runs. LOG_ALL alone says little: there
/// are front ends that acknowledge whatever is offered.
bool BackendSession::log_is_missing(const VringState& vring) const {
  return (state_.features & spec::VHOST_F_LOG_ALL) != 0 && !dirty_log_ &&
         (vring.flags & spec::VHOST_VRING_F_LOG) != 0;
}

std::shared_ptr<const WriteLog> BackendSession::write_log(const VringState& vring,
                                                          const RingLayout& layout) const {
  if ((state_.features & spec::VHOST_F_LOG_ALL) == 0 || !dirty_log_) return nullptr;
  WriteLog::RingArea area = device_area(layout);
  area.logged_at = vring.log;
  // QEMU gives an address behind the IOMMU here too, but what is logged is the guest's memory.
  if (iotlb_) area.logged_at = memory_->guest_address(area.host).value_or(GuestAddr{});
  area.logged = (vring.flags & spec::VHOST_VRING_F_LOG) != 0;
  return std::make_shared<const WriteLog>(*memory_, dirty_log_, area);
}

/// Lets a running ring's writes be logged as features, log and ring flags say now.
Status BackendSession::update_log(uint16_t index) {
  const VringState& vring = state_.vrings[index];
  if (log_is_missing(vring)) return stop(index);
  auto layout = find_ring(index);
  if (!layout && iotlb_) return stop(index);  // it starts again when the IOMMU has answered
  if (!layout) return forward(layout);
  if (auto ok = device_.update_log(index, write_log(vring, *layout)); !ok) {
    broken_ = true;
    return ok;
  }
  return {};
}

Status BackendSession::update_logs() {
  for (uint16_t i = 0; i < offer_.vrings; ++i) {
    if (!state_.vrings[i].started) continue;
    if (auto ok = update_log(i); !ok) return ok;
  }
  return {};
}

}  // namespace pollux::vhost
