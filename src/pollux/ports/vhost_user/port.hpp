// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "pollux/base/result.hpp"
#include "pollux/port/factory.hpp"
#include "pollux/port/port.hpp"
#include "pollux/port/spec.hpp"

namespace pollux {

/// The switch's side of vhost-user: a virtio-net device for a VM or a container, without a kernel
/// in between. Listens on a socket for a front end (or connects to one with server=off), takes it
/// on, lets it go and waits for the next.
///
/// Errors: kInvalidArgument for a wrong spec.
[[nodiscard]] Result<std::unique_ptr<Port>> make_vhost_user_port(const PortSpec& spec,
                                                                 const PortContext& context);

/// The options, for help texts.
[[nodiscard]] std::span<const PortKey> vhost_user_port_keys();

}  // namespace pollux
