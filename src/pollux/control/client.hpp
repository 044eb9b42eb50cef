// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/control/snapshot.hpp"

namespace pollux::control {

/// Asks a running switch over its control socket. Each call is a request of its own and waits for
/// the answer, for some seconds at most. Errors: kNotFound, kPermission or kDisconnected with
/// advice when no switch answers there; else what the switch says.
class Client {
 public:
  explicit Client(std::string path) : path_(std::move(path)) {}

  [[nodiscard]] Result<SwitchSnapshot> stats() const;
  [[nodiscard]] Result<std::vector<FdbRow>> fdb() const;
  [[nodiscard]] Status add_port(const std::string& name, const std::string& spec) const;
  [[nodiscard]] Status remove_port(const std::string& name) const;
  /// How the queues of a port (without `queue`, all) are watched from now on.
  [[nodiscard]] Status set_queue_mode(const std::string& port, std::optional<unsigned> queue,
                                      QueueMode mode) const;

  /// Asks the switch to hand over to the process that listens on `socket`, in that version.
  [[nodiscard]] Status hand_over(const std::string& socket, uint32_t version) const;

  /// The JSON text that the switch answers to GET `endpoint`, e.g. "/v1/ports".
  [[nodiscard]] Result<std::string> get(const std::string& endpoint) const;

 private:
  [[nodiscard]] Result<std::string> request(const std::string& method, const std::string& endpoint,
                                            const std::string& body) const;

  std::string path_;
};

}  // namespace pollux::control
