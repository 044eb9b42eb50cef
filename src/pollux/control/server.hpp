// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/control/snapshot.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::control {

/// What a Server asks and changes: a switch, or something that stands in for one. Called by the
/// server's threads, several at once; every function returns within a bounded time.
class Target {
 public:
  virtual ~Target() = default;
  [[nodiscard]] virtual Result<SwitchSnapshot> snapshot() = 0;
  [[nodiscard]] virtual Result<std::vector<FdbRow>> fdb() = 0;
  [[nodiscard]] virtual Status add_port(const NamedPortSpec& port) = 0;
  [[nodiscard]] virtual Status remove_port(const std::string& name) = 0;
  [[nodiscard]] virtual Status hand_over(const std::string& socket, uint32_t version) = 0;
  /// Without `queue`: all of the port.
  [[nodiscard]] virtual Status set_queue_mode(const std::string& port,
                                              std::optional<unsigned> queue, QueueMode mode) = 0;
};

/// The control API: HTTP and JSON over a Unix socket (docs/control-api.md). A few threads of its
/// own; requests and their sizes are bounded, and nothing that a client sends reaches the target
/// unchecked.
class Server {
 public:
  /// Binds the socket, replacing one that nobody answers on, and gives it `mode`. Clients may
  /// connect and wait from now on. `target` outlives the server. Errors: those of
  /// vhost::UnixListener::bind.
  [[nodiscard]] static Result<std::unique_ptr<Server>> bind(const std::string& path, mode_t mode,
                                                            Target& target, Log log);
  /// Stops answering and removes the socket; waits for requests that are being answered.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Begins to answer. Called once.
  void start();

  /// Gives the socket another path, in the place of what is there. Before start().
  [[nodiscard]] Status move_to(const std::string& path);
  /// Leaves the path to another process: it is not removed in the end.
  void disown();

  [[nodiscard]] const std::string& path() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pollux::control
