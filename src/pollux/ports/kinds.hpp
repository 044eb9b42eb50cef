// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "pollux/port/factory.hpp"

namespace pollux {

/// All kinds of ports in this build, in the order in which help lists them.
[[nodiscard]] std::span<const PortKind> port_kinds();

/// The kind of that name, or null.
[[nodiscard]] const PortKind* find_port_kind(std::string_view name);

/// Makes the port that `spec` describes; it is not started yet. Control thread. Errors:
/// kInvalidArgument for an unknown kind (naming the known ones) or a wrong spec, and what the kind
/// itself reports.
[[nodiscard]] Result<std::unique_ptr<Port>> make_port(const PortSpec& spec,
                                                      const PortContext& context);

}  // namespace pollux
