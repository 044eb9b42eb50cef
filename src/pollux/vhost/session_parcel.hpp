// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "pollux/base/fd_parcel.hpp"
#include "pollux/base/result.hpp"
#include "pollux/vhost/session_state.hpp"

namespace pollux::vhost {

/// A session as values and descriptors for another process.
[[nodiscard]] nlohmann::json pack(const SessionState& state, FdParcel& fds);

/// And back. Errors: kUnsupported for another version, kProtocol for a missing descriptor; a value
/// that is missing or of the wrong kind throws the library's exception.
[[nodiscard]] Result<SessionState> unpack(const nlohmann::json& values, FdParcel& fds);

}  // namespace pollux::vhost
