// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/fd_parcel.hpp"
#include "pollux/base/result.hpp"
#include "pollux/control/config.hpp"
#include "pollux/control/snapshot.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/port/port.hpp"
#include "pollux/stage/fdb.hpp"

namespace pollux::control {

/// The new process's side of a hand-over; `HandOver` is the other one and shows the steps. Each
/// call waits for the running switch. One thread.
class TakeOver {
 public:
  /// Asks the switch behind `control_socket` to hand over, and takes its offer. Errors: those of
  /// Client; what the running switch says.
  [[nodiscard]] static Result<TakeOver> ask(const std::string& control_socket, const Clock& clock);
  ~TakeOver();
  TakeOver(TakeOver&& other) noexcept;
  TakeOver& operator=(TakeOver&& other) noexcept;

  /// What the running switch is made of; without ports, whose numbers matter.
  [[nodiscard]] const SwitchConfig& config() const;
  struct Seat {
    PortIndex index = 0;
    NamedPortSpec port;
  };
  [[nodiscard]] const std::vector<Seat>& ports() const;
  [[nodiscard]] pid_t from() const;

  /// Everything is made that can be made before: the running switch may come to rest. Takes its
  /// last state. kDisconnected: it died, and nothing of it is left but its ports' sockets' paths.
  [[nodiscard]] Status take_state();

  // Of that state.
  /// Starts a port from what it was. Errors: the port's; kProtocol.
  [[nodiscard]] Status adopt(const std::string& name, Port& port);
  [[nodiscard]] const SwitchSnapshot& snapshot() const;
  [[nodiscard]] std::vector<stage::FdbEntry> addresses() const;
  /// When the workers came to rest, by CLOCK_MONOTONIC.
  [[nodiscard]] Nanos paused_at() const;

  /// Everything is in place: says that this process is the switch from here on. To be called before
  /// a worker runs, who must not run after an error: then the other one goes on. An old switch that
  /// died on the way is no error.
  [[nodiscard]] Status take();

 private:
  struct Impl;
  explicit TakeOver(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pollux::control
