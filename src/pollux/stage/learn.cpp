// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/learn.hpp"

namespace pollux::stage {
namespace {

/// Nobody's address: a key has 48 bits.
constexpr uint64_t kNoKey = ~uint64_t{0};

/// With several sources in a burst their cache lines are fetched together, before they are needed.
void prefetch_sources(const Burst& burst, const Fdb& fdb) noexcept {
  uint64_t previous = kNoKey;
  for (const Packet* packet : burst.packets()) {
    if (packet->head_size() < net::kEthernetHeaderSize) continue;
    const uint64_t key = net::source_key(packet->head());
    if (key != previous) fdb.prefetch(key, 0);
    previous = key;
  }
}

}  // namespace

void learn(const Burst& burst, Fdb& fdb, uint16_t in_port, uint32_t now_s,
           Outputs& outputs) noexcept {
  outputs.reset();
  prefetch_sources(burst, fdb);
  uint64_t previous = kNoKey;
  for (size_t i = 0; i < burst.size(); ++i) {
    const Packet& packet = burst[i];
    if (packet.head_size() < net::kEthernetHeaderSize) [[unlikely]] {
      outputs.of[i] = drop_output(DropReason::runt);
      continue;
    }
    const uint64_t key = net::source_key(packet.head());
    if (key == previous) continue;
    if (net::is_multicast_key(key)) [[unlikely]] {
      outputs.of[i] = drop_output(DropReason::source_multicast);
      continue;
    }
    fdb.learn(key, 0, in_port, now_s);
    previous = key;
  }
}

}  // namespace pollux::stage
