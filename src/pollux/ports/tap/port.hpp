// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "pollux/port/factory.hpp"

namespace pollux {

/// `tap:NAME`: a network interface of this host, in the network namespace of whoever starts the
/// port. What the host's stack sends on it comes in, what is sent here the host receives.
[[nodiscard]] Result<std::unique_ptr<Port>> make_tap_port(const PortSpec& spec,
                                                          const PortContext& context);
[[nodiscard]] std::span<const PortKey> tap_port_keys();

}  // namespace pollux
