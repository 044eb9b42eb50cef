// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/control/config.hpp"
#include "pollux/control/config_parcel.hpp"
#include "pollux/control/parcel_channel.hpp"
#include "pollux/control/snapshot.hpp"
#include "pollux/engine/engine.hpp"

namespace pollux::control {

/// What a hand-over needs to know of the switch that is handed over; all of it outlives it.
struct HandedSwitch {
  EventLoop& loop;
  const Clock& clock;
  Engine& engine;
  const SwitchConfig& config;
  const std::map<std::string, PortSpec>& specs;  ///< of the ports, by name
  std::function<SwitchSnapshot()> snapshot;
  /// Another process is the switch from here on: end, and leave everything as it is.
  std::function<void()> handed_over;
  Log log;
};

/// The running switch's side of a hand-over (`TakeOver` is the other one):
///
///     running switch                          new process
///     begin():  kOffer     ───────────────▶   makes memory, workers and ports
///               (goes on working)  ◀───────   kReady
///     give():   workers at rest, kState ──▶   takes ports, addresses, counters
///               ends               ◀───────   kTaken
///                                             workers run
///
/// kTaken decides: before the new process has said it, it has touched no ring, and this side can
/// take everything back, as it does when the other one goes away or is slow; one that can not say
/// it any more does not run. Control thread only.
class HandOver {
 public:
  explicit HandOver(HandedSwitch self) : self_(std::move(self)) {}

  /// Connects to the socket of a process that wants to take over and makes it the offer; the rest
  /// happens on the loop. Errors, with nothing touched: kUnsupported for another version or when a
  /// port can not be handed over, kAlreadyExists when a hand-over is on its way, kPermission for
  /// another user's process, and those of connecting.
  [[nodiscard]] Status begin(const std::string& socket, uint32_t version);

 private:
  [[nodiscard]] Status check_ports() const;
  [[nodiscard]] Status check_peer(int socket) const;
  [[nodiscard]] std::vector<NumberedPort> ports() const;
  void on_answer();
  void give(Nanos paused_at);
  [[nodiscard]] Status hand(Nanos paused_at);
  [[nodiscard]] Status wait_until_taken();
  void take_back(const Error& error);
  void end();

  HandedSwitch self_;
  std::unique_ptr<ParcelChannel> channel_;
  EventLoop::Watch answer_;
  EventLoop::Watch deadline_;
};

}  // namespace pollux::control
