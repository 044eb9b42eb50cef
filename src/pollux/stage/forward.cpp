// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/forward.hpp"

#include <array>

namespace pollux::stage {
namespace {

Output decide(const Fdb& fdb, uint64_t destination, uint16_t in_port) noexcept {
  if (net::is_multicast_key(destination)) return kFlood;
  const uint16_t port = fdb.lookup(destination, 0);
  if (port == Fdb::kNoPort) return kFlood;
  return port == in_port ? drop_output(DropReason::same_port) : port;
}

}  // namespace

void forward(const Burst& burst, const Fdb& fdb, uint16_t in_port, Outputs& outputs) noexcept {
  const size_t count = burst.size();
  std::array<uint64_t, Burst::kCapacity> destinations;
  // With several destinations their cache lines are fetched together, before they are needed.
  for (size_t i = 0; i < count; ++i) {
    const bool decided = outputs.of[i] != kUndecided;
    if (!decided && burst[i].head_size() < net::kEthernetHeaderSize) [[unlikely]] {
      outputs.of[i] = drop_output(DropReason::runt);
    }
    if (outputs.of[i] != kUndecided) [[unlikely]] {
      destinations[i] = i == 0 ? 0 : destinations[i - 1];
      continue;
    }
    destinations[i] = net::destination_key(burst[i].head());
    if (i == 0 || destinations[i] != destinations[i - 1]) fdb.prefetch(destinations[i], 0);
  }
  uint64_t known = ~uint64_t{0};  // the destination that `output` is right for; none yet
  Output output = kFlood;
  bool uniform = true;
  for (size_t i = 0; i < count; ++i) {
    if (outputs.of[i] == kUndecided) [[likely]] {
      if (destinations[i] != known) {
        output = decide(fdb, destinations[i], in_port);
        known = destinations[i];
      }
      outputs.of[i] = output;
    }
    uniform &= outputs.of[i] == outputs.of[0];
  }
  outputs.uniform = uniform;
}

}  // namespace pollux::stage
