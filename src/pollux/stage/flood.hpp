// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pollux/base/drop_reason.hpp"
#include "pollux/packet/burst.hpp"

namespace pollux::stage {

/// Appends clones of the packets of `originals` to `clones`: heads copied, tails borrowed, so the
/// originals must live until the turn ends. At most clones.room() of them. Returns how many; fewer
/// than asked when the pool is empty, and then the last ones are missing.
inline size_t clone_burst(const Burst& originals, Burst& clones) noexcept {
  size_t count = 0;
  while (count < originals.size() && clones.room() != 0) {
    Packet* clone = clones.cache().clone_borrowing(originals[count]);
    if (clone == nullptr) break;
    clones.push(clone);
    ++count;
  }
  return count;
}

/// Sends a burst to every port of `ports` but `in_port`, one call `sink(uint16_t port, Burst&)`
/// each; what the sink leaves is released. A single receiver gets the packets themselves, several
/// get clones made in `scratch` (empty before and after), and the originals move to `held`, which
/// the caller keeps until the turn ends and which must have room for them. Clones that could not
/// be made are reported by `dropped(DropReason, size_t count)`; so is a burst without receiver.
template <typename Sink, typename Dropped>
void flood(Burst& burst, std::span<const uint16_t> ports, uint16_t in_port, Burst& scratch,
           Burst& held, Sink&& sink, Dropped&& dropped) noexcept {
  size_t receivers = 0;
  uint16_t last = 0;
  for (const uint16_t port : ports) {
    if (port == in_port) continue;
    ++receivers;
    last = port;
  }
  if (receivers == 0) dropped(DropReason::no_destination, burst.size());
  if (receivers == 1) sink(last, burst);
  if (receivers <= 1) {
    burst.clear();
    return;
  }
  for (const uint16_t port : ports) {
    if (port == in_port) continue;
    const size_t cloned = clone_burst(burst, scratch);
    if (cloned != burst.size()) dropped(DropReason::no_packets, burst.size() - cloned);
    if (cloned != 0) sink(port, scratch);
    scratch.clear();
  }
  while (!burst.empty()) held.push(burst.pop_front());
}

}  // namespace pollux::stage
