// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "pollux/port/factory.hpp"

namespace pollux {

/// `null:` takes every packet and forgets it (counted as carried). By default it delivers nothing;
/// with size=N it delivers frames of N bytes as fast as they are polled: a source for tests and
/// measurements without a peer.
[[nodiscard]] Result<std::unique_ptr<Port>> make_null_port(const PortSpec& spec,
                                                           const PortContext& context);
[[nodiscard]] std::span<const PortKey> null_port_keys();

}  // namespace pollux
