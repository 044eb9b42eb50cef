// SPDX-License-Identifier: Apache-2.0
// In-band notifications: kicks that come as messages, calls and errors that go as messages. To the
// device a call is an eventfd as ever; the session hears it and sends the message.
#include <fmt/format.h>
#include <sys/eventfd.h>

#include <utility>

#include "pollux/vhost/backend_session.hpp"

namespace pollux::vhost {
namespace {

using spec::VHOST_USER_BACKEND_VRING_CALL;
using spec::VHOST_USER_BACKEND_VRING_ERR;

}  // namespace

/// Starts the ring as SET_VRING_KICK would ("Ring states").
Result<BackendSession::Reply> BackendSession::vring_kick(Message& message) {
  const auto wanted = *message.get<spec::vhost_vring_state>();
  auto index = check_index(wanted.index);
  if (!index) return forward(index);
  if (wanted.num != 0) {
    return fail(ErrorCode::kProtocol, fmt::format("its reserved field is {}, not 0", wanted.num));
  }
  VringState& vring = state_.vrings[*index];
  vring.kick_known = true;
  try_start(*index);
  if (vring.started) device_.kick(*index);
  return Reply();
}

SharedFd BackendSession::inband_for(uint32_t request, uint16_t index) const {
  for (const Inband& inband : inband_) {
    if (inband.request == request && inband.index == index) return inband.event;
  }
  return nullptr;
}

/// What the device is to use: descriptors of the front end, or else events of our own.
RingControls BackendSession::effective_controls(uint16_t index) const {
  const VringState& vring = state_.vrings[index];
  RingControls controls = vring.controls;
  if (!vring.call_known) controls.call = inband_for(VHOST_USER_BACKEND_VRING_CALL, index);
  if (!vring.err_known) controls.err = inband_for(VHOST_USER_BACKEND_VRING_ERR, index);
  return controls;
}

void BackendSession::make_inband_events(uint16_t index) {
  if (!negotiated(spec::VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)) return;
  const VringState& vring = state_.vrings[index];
  const auto make = [&](uint32_t request, bool not_needed) {
    if (not_needed || inband_for(request, index)) return;
    UniqueFd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!event) {
      log_.error(fmt::format("ring {} is not notified in-band: no eventfd can be made", index));
      return;
    }
    inband_.push_back({request, index, std::make_shared<const UniqueFd>(std::move(event))});
  };
  make(VHOST_USER_BACKEND_VRING_CALL, vring.call_known);
  make(VHOST_USER_BACKEND_VRING_ERR, vring.err_known);
}

void BackendSession::inband_ready(size_t place) {
  eventfd_t count = 0;
  if (::eventfd_read(inband_[place].event->get(), &count) != 0) return;
  inband_[place].due = true;
  send_inband(place);
}

void BackendSession::send_inband(size_t place) {
  Inband& inband = inband_[place];
  // "Suspended device state": a ring at rest has nothing to say.
  if (!inband.due || inband.unanswered || !state_.vrings[inband.index].started) return;
  inband.due = false;
  inband.unanswered = true;
  auto sent = request(make_request(inband.request, spec::vhost_vring_state{inband.index, 0}),
                      [this, place](const Result<Message>& answer) {
                        inband_[place].unanswered = false;
                        if (answer) send_inband(place);
                      });
  if (sent) return;
  inband.unanswered = false;
  inband.due = sent.error().code == ErrorCode::kResource;  // the next tick tries again
}

}  // namespace pollux::vhost
