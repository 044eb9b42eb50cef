// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/net/ethernet.hpp"
#include "pollux/stage/fdb.hpp"
#include "pollux/stage/outputs.hpp"

namespace pollux::stage {

/// Decides where each undecided packet of a burst goes, by its destination address: the port on
/// which that was learned, kFlood when it was not or is a group address, drop_output(same_port)
/// when that is `in_port`. Runs after `learn` (or Outputs::reset) and sets Outputs::uniform. A
/// destination that repeats the one before it costs a comparison.
void forward(const Burst& burst, const Fdb& fdb, uint16_t in_port, Outputs& outputs) noexcept;

}  // namespace pollux::stage
