// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/addresses.hpp"

#include "pollux/net/ethernet.hpp"

namespace pollux::stage {

void Addresses::read(const Burst& burst, const Fdb& fdb, Outputs& outputs) noexcept {
  outputs.reset();
  packets_ = burst.size();
  runs_ = 0;
  bool refused = false;
  uint64_t source = ~uint64_t{0};  // of the last run; a key has 48 bits
  uint64_t destination = source;
  for (size_t i = 0; i < packets_; ++i) {
    const Packet& packet = burst[i];
    if (packet.head_size() < net::kEthernetHeaderSize) [[unlikely]] {
      outputs.of[i] = drop_output(DropReason::runt);
      refused = true;
      continue;
    }
    const uint64_t from = net::source_key(packet.head());
    const uint64_t to = net::destination_key(packet.head());
    if (from != source || to != destination) {
      if (net::is_multicast_key(from)) [[unlikely]] {
        outputs.of[i] = drop_output(DropReason::source_multicast);
        refused = true;
        continue;
      }
      fdb.prefetch(from, 0);
      fdb.prefetch(to, 0);
      sources_[runs_] = source = from;
      destinations_[runs_] = destination = to;
      ++runs_;
    }
    run_of_[i] = static_cast<uint8_t>(runs_ - 1);
  }
  uniform_ = runs_ == 1 && !refused;
}

}  // namespace pollux::stage
