// SPDX-License-Identifier: Apache-2.0
// A session's in-flight region: where the front end keeps for the next back end what this one has
// taken and not returned; text: "Inflight I/O tracking".
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <variant>

#include "pollux/mem/shared_access.hpp"
#include "pollux/vhost/backend_session.hpp"

namespace pollux::vhost {
namespace {

/// The padding may be left out.
spec::VhostUserInflight description(const Message& message) {
  spec::VhostUserInflight told{};
  std::memcpy(&told, message.payload.data(), std::min(message.payload.size(), sizeof told));
  return told;
}

}  // namespace

InflightFormat BackendSession::inflight_format() const {
  return packed() ? InflightFormat::kPacked : InflightFormat::kSplit;
}

/// The region is the front end's from now on: it comes back with SET_INFLIGHT_FD, so that nothing
/// of it is kept here, however often it is asked for.
Result<BackendSession::Reply> BackendSession::get_inflight_fd(Message& message) {
  spec::VhostUserInflight told = description(message);
  auto fd = InflightRegion::create(told, offer_.vrings, inflight_format());
  if (!fd) return forward(fd);
  Message reply = make_reply(message.request, told);
  reply.fds.push_back(std::move(*fd));
  return reply;
}

Result<BackendSession::Reply> BackendSession::set_inflight_fd(Message& message) {
  const auto fd = std::make_shared<const UniqueFd>(std::move(message.fds.front()));
  if (auto ok = use_inflight(fd, description(message)); !ok) return forward(ok);
  return Reply();
}

Status BackendSession::use_inflight(const SharedFd& fd, const spec::VhostUserInflight& told) {
  UniqueFd copy(::fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(errno, "can not keep a descriptor of the in-flight region");
  auto region = InflightRegion::map(std::move(copy), told, offer_.vrings, inflight_format());
  if (!region) return forward(region);
  inflight_ = std::move(*region);
  state_.inflight_fd = fd;
  state_.inflight = told;
  return {};
}

/// What the back end before us had taken from the ring and not returned; of a packed one the device
/// finds out.
Status BackendSession::recover_in_flight(RingStart& start) const {
  if (!inflight_) return {};
  if (std::holds_alternative<ring::PackedLayout>(start.layout)) {
    start.inflight = inflight_;
    return {};
  }
  const auto& layout = std::get<ring::SplitLayout>(start.layout);
  const uint16_t used_idx = SharedAccess{}.load_acquire(&layout.used->idx);
  auto heads = inflight_->recover_split(start.index, layout.size, used_idx);
  if (!heads) return forward(heads);
  start.in_flight = std::move(*heads);
  return {};
}

/// The device has returned it.
void BackendSession::commit_in_flight(const RingStart& start) const {
  const auto* layout = std::get_if<ring::SplitLayout>(&start.layout);
  if (!inflight_ || layout == nullptr) return;
  inflight_->commit_split(start.index, SharedAccess{}.load_acquire(&layout->used->idx));
}

}  // namespace pollux::vhost
