// SPDX-License-Identifier: Apache-2.0
// Generic receive offload: joining TCP segments that came one by one into one large packet, for a
// receiver that takes those. What is joined here, stage/gso.hpp cuts into the same bytes again.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "pollux/packet/burst.hpp"
#include "pollux/packet/tx_offloads.hpp"
#include "pollux/stage/tcp_segment.hpp"

namespace pollux::stage {

/// Which TCP segments (kTxTso4, kTxTso6) are worth joining on their way to a receiver with
/// `offloads`: those that it takes large, wants joined (kTxJoin), and that the sender does not hand
/// over large itself. `large`: the same bits of the sender, RxQueue::large; null: none.
[[nodiscard]] inline uint32_t joinable(uint32_t offloads,
                                       const std::atomic<uint32_t>* large) noexcept {
  if ((offloads & kTxJoin) == 0) return 0;
  const uint32_t whole = large == nullptr ? 0 : large->load(std::memory_order_relaxed);
  return offloads & (kTxTso4 | kTxTso6) & ~whole;
}

/// Joins segments of a burst. One for each worker.
///
///     burst       A1 B1 A2 . A3 B2     A, B: connections, in order     . : anything else
///     becomes     A123 B12 .           gso_size: the payload of A1, of B1
///
/// A segment is joined to those before it only if segmentation would make it again, byte for byte:
/// the same headers (TcpSegment), sequence number and IPv4 identification counting on; a payload as
/// long as the first's, or shorter and the last; PSH and FIN on the last only; checksums right, and
/// all complete or all left to the receiver. Whatever else a connection has in the burst ends what
/// was joined before it: no packet of a connection overtakes another.
///
/// Linux also joins segments whose IPv4 identifications stand still. No virtio-net header can tell
/// that, and segmentation would make them count: these are left alone.
class Joiner {
 public:
  explicit Joiner(PoolCache& cache) noexcept : absorbed_(cache) {}

  struct Counts {
    size_t segments = 0;  ///< joined ...
    size_t packets = 0;   ///< ... into so many
  };

  /// Joins what can be joined of `types` (joinable()). Joined packets borrow from their segments,
  /// which are kept here, as are lists of long tails: both are good until release(), which comes
  /// before the next call. Without packets in the pool segments stay as they are.
  Counts join(Burst& burst, uint32_t types) noexcept;

  /// Gives back the segments of what was joined and has been sent.
  void release() noexcept;

 private:
  static constexpr uint8_t kNone = 0xff;
  static_assert(Burst::kCapacity < kNone);
  /// More than the packets of a burst need, unless their tails are in many pieces.
  static constexpr size_t kListed = 256;

  /// Segments that become one packet.
  struct Group {
    uint8_t first = 0;
    uint8_t last = 0;
    uint8_t count = 1;
    bool verified = false;  ///< the first one's checksums are right
    uint32_t pieces = 0;    ///< of the joined packet's tail
    uint32_t size = 0;      ///< of the joined packet
  };

  void find_groups(const Burst& burst, uint32_t types) noexcept;
  void place(const Burst& burst, uint8_t index) noexcept;
  [[nodiscard]] Group* open_group(uint32_t connection) noexcept;
  void close(uint32_t connection) noexcept;
  [[nodiscard]] bool continues(const Burst& burst, Group& group, uint8_t index) const noexcept;
  Counts rebuild(Burst& burst) noexcept;
  [[nodiscard]] Packet* make(std::span<Packet* const> packets, const Group& group,
                             PoolCache& cache) noexcept;
  void gather(Packet& joined, std::span<Packet* const> packets, const Group& group) noexcept;
  void write_headers(Packet& joined, const Packet& last, const Group& group) const noexcept;

  // Of the present burst, by packet.
  std::array<TcpSegment, Burst::kCapacity> seen_;
  std::array<uint8_t, Burst::kCapacity> group_of_;  ///< kNone: none
  std::array<uint8_t, Burst::kCapacity> next_;      ///< in its group; kNone: the last

  std::array<Group, Burst::kCapacity> groups_;
  size_t group_count_ = 0;
  std::array<uint8_t, Burst::kCapacity> open_;  ///< groups that may grow
  size_t open_count_ = 0;
  bool found_ = false;  ///< some group is of more than one

  std::array<Segment, kListed> lists_;  ///< of long tails
  size_t listed_ = 0;
  Burst absorbed_;  ///< segments that were joined
};

}  // namespace pollux::stage
