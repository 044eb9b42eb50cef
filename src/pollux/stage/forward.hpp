// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/stage/addresses.hpp"
#include "pollux/stage/fdb.hpp"
#include "pollux/stage/outputs.hpp"

namespace pollux::stage {

/// Decides where each undecided packet of a burst goes, by its destination address: the port on
/// which that was learned, kFlood when it was not or is a group address, drop_output(same_port)
/// when that is `in_port`. `outputs` are those that `addresses` were read with; sets
/// Outputs::uniform.
void forward(const Addresses& addresses, const Fdb& fdb, uint16_t in_port,
             Outputs& outputs) noexcept;

}  // namespace pollux::stage
