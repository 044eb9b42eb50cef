// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "pollux/base/fd_parcel.hpp"

namespace pollux {

/// What a port hands to another process, where the same port goes on: plain values, which name
/// descriptors by their numbers in `fds`. A value of the wrong kind throws the library's exception;
/// whoever unpacks parcels catches it.
struct PortParcel {
  nlohmann::json& values;
  FdParcel& fds;
};

}  // namespace pollux
