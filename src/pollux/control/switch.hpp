// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/control/config.hpp"
#include "pollux/control/snapshot.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/port/spec.hpp"

namespace pollux {

namespace control {
class TakeOver;
}

/// A whole switch in one object: memory, event loop, workers, ports, control socket.
///
///     pollux::SwitchConfig config;
///     auto made = pollux::Switch::create(config);
///     if (!made) return report(made.error());
///     pollux::Switch& self = **made;
///     if (auto ok = self.start(); !ok) return report(ok.error());
///     (void)self.add_port("v0", "vhost-user:/tmp/v0.sock");
///     (void)self.add_port("v1", "vhost-user:/tmp/v1.sock");
///     (void)self.run();
///
/// Belongs to one thread, the control thread: the one that calls run(). Several switches may live
/// in one process. Other programs change it through its control socket.
class Switch {
 public:
  /// Takes memory; nothing runs yet. `clock` outlives the switch; null: the system's steady clock.
  /// Errors: a CPU that may not be used, memory or huge pages that are not there.
  [[nodiscard]] static Result<std::unique_ptr<Switch>> create(const SwitchConfig& config,
                                                              Log log = {},
                                                              const Clock* clock = nullptr);
  ~Switch();
  Switch(const Switch&) = delete;
  Switch& operator=(const Switch&) = delete;

  /// Makes run() return at SIGINT and SIGTERM, by blocking them in this thread: call it before
  /// start() and before the process has other threads.
  [[nodiscard]] Status stop_on_signals();

  /// Binds the control socket, adds the configured ports and starts the workers, in that order.
  /// When it returns every port listens. After an error the switch can only be destroyed.
  [[nodiscard]] Status start();

  /// Instead of start(): goes on where a running switch is, whose config this one was created with,
  /// and ends that one. No packet is lost or repeated. Should the running switch die before it has
  /// given all, this one starts its ports anew. Errors: those of start(), what the running switch
  /// says; it then goes on.
  [[nodiscard]] Status take_over(control::TakeOver& from);

  /// True when another process took this switch over: nothing of it is here any more.
  [[nodiscard]] bool handed_over() const;

  /// Makes a port from a spec, starts it and gives it to the workers. Returns its name, which is
  /// made up ("port0") when `name` is empty. Errors: a wrong spec or name, what the port reports.
  [[nodiscard]] Result<std::string> add_port(const std::string& name, const std::string& spec);
  [[nodiscard]] Result<std::string> add_port(const NamedPortSpec& port);
  [[nodiscard]] Status remove_port(const std::string& name);

  /// Makes run() return once every port that ends by itself (a capture file) has ended.
  [[nodiscard]] Status stop_when_finished();
  /// Makes run() return after that time.
  [[nodiscard]] Status stop_after(Nanos time);

  /// Serves ports, timers and control requests until something stops it; then stops the workers
  /// and the ports. Errors: the system's.
  [[nodiscard]] Status run();

  /// Makes run() return. Any thread.
  void request_stop();

  /// Ends requests, workers and ports; run() does it too. What ports said of their peers just
  /// before stays in the snapshots.
  void stop();

  /// What it is and has done; also after it was stopped.
  [[nodiscard]] SwitchSnapshot snapshot() const;
  /// The addresses that were learned, ordered by address.
  [[nodiscard]] std::vector<FdbRow> fdb() const;

  [[nodiscard]] EventLoop& loop();
  [[nodiscard]] Engine& engine();
  [[nodiscard]] Pool& pool();

 private:
  struct Impl;
  explicit Switch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pollux
