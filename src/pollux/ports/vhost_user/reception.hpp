// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pollux/ports/vhost_user/flow_steering.hpp"
#include "pollux/ports/vhost_user/live_ring.hpp"
#include "pollux/virtio/packet_hash.hpp"
#include "pollux/virtio/rx_filter.hpp"

namespace pollux::vhost_user {

/// What a driver is to get of the frames for it: which ones, with which hash, in which receiveq; by
/// its control queue, or because it has several receiveqs. Immutable but for the flows; made by
/// control, seen by all workers of a port through RxSlot and TxSlot. There is none for a driver
/// with one receiveq that asked for nothing.
struct Reception {
  std::optional<virtio::RxFilter> filter;  ///< none: everything
  std::optional<virtio::PacketHash> hash;  ///< for the header, and to steer by

  /// The receiveqs by queue pair, with null for those that can not be used; as many as a TxSlot has
  /// lanes. Empty: every worker has a receiveq of its own.
  std::vector<LiveTx*> rings;
  std::vector<uint16_t> usable;  ///< the pairs that are not null

  /// RSS, 5.1.6.5.7: usable pairs by the hash's lowest bits; a power of two of them. Empty: none.
  std::vector<uint16_t> table;
  uint16_t unclassified = 0;  ///< the pair for frames without a hash

  FlowSteering* flows = nullptr;  ///< else; null: no steering

  /// Which of `rings` a frame belongs into.
  [[nodiscard]] uint16_t classify(Packet& packet) const noexcept {
    const virtio::PacketHash::Value value = hash ? note_hash(packet) : virtio::PacketHash::Value();
    if (flows != nullptr) return beside(flows->choose(packet));
    if (value.report == spec::VIRTIO_NET_HASH_REPORT_NONE) return unclassified;
    return table[value.hash & (table.size() - 1)];
  }

  /// Hashes a frame as the driver configured it, and notes the hash with it.
  virtio::PacketHash::Value note_hash(Packet& packet) const noexcept {
    const virtio::PacketHash::Value value = hash->of(packet);
    packet.meta.hash = value.hash;
    packet.meta.hash_report = value.report;
    return value;
  }

 private:
  /// A receiveq that can not be used is stood in for by another, the same for all of a flow.
  [[nodiscard]] uint16_t beside(const FlowSteering::Choice& choice) const noexcept {
    if (choice.pair && *choice.pair < rings.size() && rings[*choice.pair] != nullptr) {
      return *choice.pair;
    }
    return usable[choice.hash % usable.size()];
  }
};

}  // namespace pollux::vhost_user
