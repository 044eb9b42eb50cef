// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/control_queue.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <utility>

#include "pollux/base/event_fd.hpp"
#include "pollux/base/peer_fd.hpp"

namespace pollux::vhost_user {
namespace {

/// A driver that sends commands without end must leave the loop to the others now and then: what
/// is left is served at the next kick or by the port's timer.
constexpr size_t kCommandsATurn = 64;

}  // namespace

ControlQueue::ControlQueue(EventLoop& loop, const vhost::RingStart& start, const PackedPast& past,
                           LiveControl::Execute execute)
    : loop_(loop),
      index_(start.index),
      live_(make_live_control(start, past)),
      execute_(std::move(execute)),
      log_(start.log) {
  update(start.controls);
}

void ControlQueue::update(const vhost::RingControls& controls) {
  const bool same_kick = controls.kick == controls_.kick && watch_.active();
  if (!same_kick) watch_.reset();  // before its descriptor may be closed
  controls_ = controls;
  live_->controls.store(&controls_);
  if (!same_kick) watch_kick();
  serve();  // also what came before anybody listened
}

void ControlQueue::set_log(std::shared_ptr<const WriteLog> log) {
  live_->set_log(log.get());
  log_ = std::move(log);
}

void ControlQueue::watch_kick() {
  if (!controls_.kick) return;
  auto watch =
      loop_.watch_fd(controls_.kick->get(), EPOLLIN, [this](uint32_t events) { on_kick(events); });
  if (watch) watch_ = std::move(*watch);  // else the port's timer serves it
}

void ControlQueue::on_kick(uint32_t events) {
  const bool useless = !drain_event_fd(controls_.kick->get()) || (events & ~EPOLLIN) != 0;
  serve();
  // It would be ready for ever; the port's timer serves the queue from now on.
  if (useless) watch_.reset();
}

void ControlQueue::serve() {
  if (controls_.enabled && live_->serve(kCommandsATurn, execute_)) live_->notify();
}

void ControlQueue::report_if_broken(const Log& log) {
  const ring::RingError error = live_->broken.load(std::memory_order_relaxed);
  if (reported_ || error == ring::RingError::none) return;
  reported_ = true;
  log.warn(fmt::format("the control queue is stopped: {}", ring::describe(error)));
  if (controls_.err) signal_event(controls_.err->get());
}

}  // namespace pollux::vhost_user
