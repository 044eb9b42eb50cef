// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "pollux/port/factory.hpp"

namespace pollux {

/// `ring:NAME`: two ports of that name in one program are joined by two rings, as by a cable.
/// Packets are made owned before they enter, so nothing that is borrowed leaves its worker.
[[nodiscard]] Result<std::unique_ptr<Port>> make_ring_port(const PortSpec& spec,
                                                           const PortContext& context);
[[nodiscard]] std::span<const PortKey> ring_port_keys();

}  // namespace pollux
