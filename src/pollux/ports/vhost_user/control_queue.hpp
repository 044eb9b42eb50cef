// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/ports/vhost_user/live_ring.hpp"
#include "pollux/vhost/device.hpp"

namespace pollux::vhost_user {

/// The running control queue of a device: served by the control thread, never by a worker, when
/// the driver kicks, and by `serve` for drivers that do not. Belongs to the loop's thread.
class ControlQueue {
 public:
  /// Starts to serve `start`'s ring. `loop` outlives it.
  ControlQueue(EventLoop& loop, const vhost::RingStart& start, const PackedPast& past,
               LiveControl::Execute execute);
  ControlQueue(const ControlQueue&) = delete;
  ControlQueue& operator=(const ControlQueue&) = delete;

  [[nodiscard]] uint16_t index() const { return index_; }
  [[nodiscard]] LiveControl& live() { return *live_; }
  [[nodiscard]] const LiveControl& live() const { return *live_; }

  /// New descriptors, or enabled or not; a disabled ring is left alone.
  void update(const vhost::RingControls& controls);

  void set_log(std::shared_ptr<const WriteLog> log);

  /// Carries out what is there, a bounded number of commands.
  void serve();

  /// Tells log and peer, once, of a ring that broke.
  void report_if_broken(const Log& log);

 private:
  void watch_kick();
  void on_kick(uint32_t events);

  EventLoop& loop_;
  uint16_t index_;
  std::unique_ptr<LiveControl> live_;
  LiveControl::Execute execute_;
  vhost::RingControls controls_;
  std::shared_ptr<const WriteLog> log_;
  bool reported_ = false;
  EventLoop::Watch watch_;  // last: no kick reaches a half-dismantled queue
};

}  // namespace pollux::vhost_user
