// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "pollux/base/drop_reason.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/packet/tx_offloads.hpp"
#include "pollux/stage/gso.hpp"

namespace pollux::stage {

/// True if a packet can be given to a receiver that agreed to `offloads` (kTx... bits) as it is.
[[nodiscard]] inline bool ready_for(const PacketMeta& meta, uint32_t offloads) noexcept {
  if (meta.needs_csum && (offloads & kTxChecksum) == 0) return false;
  return meta.gso == GsoType::kNone || takes_gso(meta, offloads);
}

/// The same of a whole burst: what a caller asks first, since mostly nothing is to be done.
[[nodiscard]] inline bool ready_for(const Burst& burst, uint32_t offloads) noexcept {
  for (const Packet* packet : burst.packets()) {
    if (!ready_for(packet->meta, offloads)) return false;
  }
  return true;
}

/// Computes the checksum that a packet with needs_csum leaves to its receiver: the sum from
/// csum_start to the packet's end, the field's own content (the pseudo header's sum) included,
/// stored at csum_start + csum_offset; 0 becomes 0xffff, as Linux does for every protocol. A field
/// that lies beyond the head makes the packet owned first: a sender's memory is never written.
/// Clears needs_csum. Returns why the packet must be dropped, or nothing.
[[nodiscard]] std::optional<DropReason> fill_checksum(Packet& packet, PoolCache& cache) noexcept;

/// Makes the packets of a burst fit for a receiver with `offloads` and hands them on in order, in
/// bursts, through `sink(Burst&) -> std::optional<DropReason>`. Checksums are filled in, GSO
/// packets cut into segments; `out` (empty before and after) collects what goes to the sink, and
/// originals whose payload segments borrow move to `held`, which the caller keeps until the turn
/// ends and which must have room for burst.size() packets.
///
/// The sink takes what it can, accounts for the rest itself (what it leaves is released), and
/// returns a reason when there is no point in going on, such as receiver_ring_full: the segments
/// of the present packet that are not made yet are then not made, but reported as dropped. That
/// bounds the work that one GSO packet with tiny segments can cause.
///
/// `dropped(DropReason, size_t count)` hears of packets and segments that could not be made.
template <typename Sink, typename Dropped>
void finalize(Burst& burst, uint32_t offloads, Burst& out, Burst& held, Sink&& sink,
              Dropped&& dropped) noexcept {
  PoolCache& cache = burst.cache();
  const auto pass_on = [&]() noexcept -> std::optional<DropReason> {
    if (out.empty()) return std::nullopt;
    const std::optional<DropReason> stop = sink(out);
    out.clear();
    return stop;
  };
  while (!burst.empty()) {
    Packet* packet = burst.pop_front();
    std::optional<DropReason> failed;
    if (packet->meta.gso != GsoType::kNone && !takes_gso(packet->meta, offloads)) {
      Segmenter segmenter(*packet, offloads);
      failed = segmenter.error();
      while (!failed && !segmenter.done()) {
        const bool short_of_packets = segmenter.emit(out).has_value();
        if (short_of_packets && out.empty()) failed = DropReason::no_packets;
        if (short_of_packets || out.room() == 0) {
          if (const auto stop = pass_on()) failed = stop;
        }
      }
      if (failed && segmenter.remaining() != 0) dropped(*failed, segmenter.remaining());
      held.push(packet);
      continue;
    }
    if (packet->meta.needs_csum && (offloads & kTxChecksum) == 0) {
      failed = fill_checksum(*packet, cache);
    }
    if (failed) {
      dropped(*failed, size_t{1});
      cache.release(packet);
      continue;
    }
    out.push(packet);
    if (out.room() == 0) (void)pass_on();
  }
  (void)pass_on();
}

}  // namespace pollux::stage
