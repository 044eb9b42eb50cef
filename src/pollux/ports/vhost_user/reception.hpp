// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pollux/ports/vhost_user/live_ring.hpp"
#include "pollux/virtio/packet_hash.hpp"
#include "pollux/virtio/rx_filter.hpp"

namespace pollux::vhost_user {

/// What a driver asked for by its control queue of the frames that it receives: which ones, with
/// which hash, in which receiveq. Immutable; made by control, seen by all workers of a port through
/// TxSlot::reception. There is none for a driver that asked for nothing.
struct Reception {
  std::optional<virtio::RxFilter> filter;  ///< none: everything
  std::optional<virtio::PacketHash> hash;  ///< for the header, and to steer by

  /// RSS, 5.1.6.5.7: positions in `rings` by the hash's lowest bits; a power of two of them.
  /// Empty: the worker's own receiveq.
  std::vector<uint16_t> table;
  uint16_t unclassified = 0;   ///< the position for frames without a hash
  std::vector<LiveTx*> rings;  ///< as many as a TxSlot has lanes

  /// Hashes a frame, notes the hash with it, and says which of `rings` it belongs into.
  [[nodiscard]] uint16_t classify(Packet& packet) const noexcept {
    const virtio::PacketHash::Value value = hash->of(packet);
    packet.meta.hash = value.hash;
    packet.meta.hash_report = value.report;
    if (table.empty() || value.report == spec::VIRTIO_NET_HASH_REPORT_NONE) return unclassified;
    return table[value.hash & (table.size() - 1)];
  }
};

}  // namespace pollux::vhost_user
