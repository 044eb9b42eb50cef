// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "pollux/virtio/net_control.hpp"

namespace pollux::vhost_user {

/// What a driver has set through its control queue as values for another process, and back. A value
/// that is missing or of the wrong kind throws the library's exception.
[[nodiscard]] nlohmann::json pack_control(const virtio::NetControlState& state);
[[nodiscard]] virtio::NetControlState unpack_control(const nlohmann::json& values);

}  // namespace pollux::vhost_user
