// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/forward.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "pollux/net/ethernet.hpp"

namespace pollux::stage {
namespace {

Output decide(uint64_t destination, uint16_t port, uint16_t in_port) noexcept {
  if (port == Fdb::kNoPort || net::is_multicast_key(destination)) return kFlood;
  return port == in_port ? drop_output(DropReason::same_port) : port;
}

}  // namespace

void forward(const Addresses& addresses, const Fdb& fdb, uint16_t in_port,
             Outputs& outputs) noexcept {
  const std::span<const uint64_t> destinations = addresses.destinations();
  std::array<uint16_t, Burst::kCapacity> ports;
  fdb.lookup(destinations, 0, ports.data());
  const std::span<const uint8_t> run_of = addresses.run_of();
  outputs.uniform = true;
  if (addresses.uniform()) [[likely]] {
    std::fill_n(outputs.of.begin(), run_of.size(), decide(destinations[0], ports[0], in_port));
    return;
  }
  for (size_t i = 0; i < run_of.size(); ++i) {
    if (outputs.of[i] == kUndecided) {
      outputs.of[i] = decide(destinations[run_of[i]], ports[run_of[i]], in_port);
    }
    outputs.uniform &= outputs.of[i] == outputs.of[0];
  }
}

}  // namespace pollux::stage
