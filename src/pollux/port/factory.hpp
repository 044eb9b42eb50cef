// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "pollux/port/port.hpp"
#include "pollux/port/spec.hpp"

namespace pollux {

/// An option of a port kind, for help texts.
struct PortKey {
  std::string_view key;
  std::string_view help;  ///< a few words, with range and default: "queues, 1 to 128 (1)"
};

/// What a port kind is and how one is made: a row of the table in ports/kinds.cpp.
struct PortKind {
  std::string_view name;    ///< as in a spec: "vhost-user"
  std::string_view target;  ///< what stands behind the colon: "SOCKET"; empty: nothing
  std::string_view help;    ///< one line
  std::span<const PortKey> keys;

  /// Makes a port that is not started yet. Control thread. Errors: kInvalidArgument for a wrong
  /// spec, in one line that says what to write.
  Result<std::unique_ptr<Port>> (*make)(const PortSpec& spec, const PortContext& context);
};

}  // namespace pollux
