// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "pollux/base/result.hpp"
#include "pollux/port/factory.hpp"
#include "pollux/port/port.hpp"
#include "pollux/port/spec.hpp"

namespace pollux {

/// The driver's side of vhost-user: we are the guest, without a guest. Connects to a back end's
/// socket (or listens for one with server=on), shares the pool's buffers with it, and drives its
/// queues. A thread of the port's own does that; it connects again for ever when the back end goes.
///
/// Errors: kInvalidArgument for a wrong spec.
[[nodiscard]] Result<std::unique_ptr<Port>> make_virtio_user_port(const PortSpec& spec,
                                                                  const PortContext& context);

/// The options, for help texts.
[[nodiscard]] std::span<const PortKey> virtio_user_port_keys();

}  // namespace pollux
