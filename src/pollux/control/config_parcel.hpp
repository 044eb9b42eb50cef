// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "pollux/control/config.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/stage/fdb.hpp"

namespace pollux::control {

/// A port of a running switch, with the number by which learned addresses name it.
struct NumberedPort {
  PortIndex index = 0;
  NamedPortSpec port;
};

/// What a running switch is made of, for a process that takes it over. `config.seed` is set.
[[nodiscard]] nlohmann::json pack_config(const SwitchConfig& config,
                                         const std::vector<NumberedPort>& ports);

struct UnpackedConfig {
  SwitchConfig config;  ///< without ports
  std::vector<NumberedPort> ports;
};
/// And back. Errors: kInvalidArgument for a port's spec that is none here; values that are missing
/// or of the wrong kind throw the library's exception.
[[nodiscard]] Result<UnpackedConfig> unpack_config(const nlohmann::json& values);

/// Learned addresses as one binary value: there may be very many.
[[nodiscard]] nlohmann::json pack_addresses(const std::vector<stage::FdbEntry>& entries);
[[nodiscard]] std::vector<stage::FdbEntry> unpack_addresses(const nlohmann::json& value);

}  // namespace pollux::control
