// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/snapshot.hpp"

#include <numeric>

namespace pollux {

uint64_t FlowTotals::dropped() const {
  return std::accumulate(drops.begin(), drops.end(), uint64_t{0});
}

FlowTotals totals(const PortStats& port, std::string_view direction) {
  FlowTotals sum;
  for (const QueueStats& queue : port.queues) {
    if (!queue.name.starts_with(direction)) continue;
    sum.packets += queue.packets;
    sum.bytes += queue.bytes;
    for (size_t r = 0; r < kDropReasonCount; ++r) sum.drops[r] += queue.drops[r];
  }
  return sum;
}

}  // namespace pollux
