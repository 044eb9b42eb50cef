// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/packet/burst.hpp"
#include "pollux/packet/parse.hpp"

namespace pollux::stage {

/// Makes sure that a packet's offsets are known, for a stage that needs them.
inline void ensure_parsed(Packet& packet) noexcept {
  if (!packet.meta.parsed) (void)parse_headers(packet);
}

/// Parses the packets of a burst whose offsets somebody will need: those that ask for an offload.
/// All others are forwarded by their addresses alone, which `learn` and `forward` read themselves,
/// so they cost one test here. A stage that looks deeper calls ensure_parsed.
inline void parse(Burst& burst) noexcept {
  for (Packet* packet : burst.packets()) {
    if (packet->meta.needs_csum || packet->meta.gso != GsoType::kNone) ensure_parsed(*packet);
  }
}

}  // namespace pollux::stage
