// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/port/spec.hpp"

namespace pollux {

/// Everything that a switch is made of; plain data. The defaults make a switch that works.
struct SwitchConfig {
  std::vector<NamedPortSpec> ports;  ///< in the order in which they are added
  EngineConfig engine;               ///< CPUs, what to do when idle, learning
  PoolConfig pool;                   ///< memory
  /// Secret of the table of addresses; nothing: drawn from the system at start.
  std::optional<uint64_t> seed;
  /// Path of the socket that `pollux stats` and others ask; empty: none.
  std::string control_socket;
  mode_t control_mode = 0600;  ///< of that socket
  /// Directory in which ports keep what they need to go on after a crash; empty: nowhere.
  std::string state_dir;
};

namespace control {

/// Reads a TOML file over what `config` holds: keys that it does not name stay as they are, and a
/// port of a known name gets the file's spec. docs/configuration.md lists the keys.
/// Errors: kNotFound, kPermission, else kInvalidArgument, as "FILE:LINE: key: what is wrong";
/// unknown keys are errors. `config` is unchanged then.
[[nodiscard]] Status load_config(const std::string& path, SwitchConfig& config);

/// The same from text that came from `name`.
[[nodiscard]] Status parse_config(std::string_view text, const std::string& name,
                                  SwitchConfig& config);

/// Adds a port, or gives the one of that name another spec.
void set_port(SwitchConfig& config, NamedPortSpec port);

/// "0,2-3" to {0, 2, 3}. Errors: kInvalidArgument; a CPU named twice is one.
[[nodiscard]] Result<std::vector<int>> parse_cpus(std::string_view text);
[[nodiscard]] std::string format_cpus(const std::vector<int>& cpus);

/// "poll", "yield" or "adaptive".
/// "adaptive" or "poll".
[[nodiscard]] Result<QueueMode> parse_queue_mode(std::string_view text);
[[nodiscard]] std::string_view queue_mode_name(QueueMode mode);
[[nodiscard]] Result<IdlePolicy> parse_idle(std::string_view text);
[[nodiscard]] std::string_view idle_name(IdlePolicy idle);

/// "try", "never" or "require".
[[nodiscard]] Result<HugePages> parse_huge_pages(std::string_view text);

/// The mode of a socket, in octal: 600 to 777, or 0660.
[[nodiscard]] Result<mode_t> parse_mode(std::string_view text);

}  // namespace control
}  // namespace pollux
