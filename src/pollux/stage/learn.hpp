// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/net/ethernet.hpp"
#include "pollux/stage/fdb.hpp"
#include "pollux/stage/outputs.hpp"

namespace pollux::stage {

/// Learns the source addresses of a burst that came in by `in_port`, and starts `outputs`: packets
/// that no stage may carry get their drop reason (runt, source_multicast), the others kUndecided.
/// A source that repeats the one before it costs a comparison. `now_s`: see Fdb::learn.
void learn(const Burst& burst, Fdb& fdb, uint16_t in_port, uint32_t now_s,
           Outputs& outputs) noexcept;

}  // namespace pollux::stage
