// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/offload.hpp"

#include "pollux/net/ethernet.hpp"
#include "pollux/stage/packet_sum.hpp"

namespace pollux::stage {
namespace {

/// Where byte `offset` of a packet may be written; the tail is the pool's.
std::byte* byte_at(Packet& packet, uint32_t offset) noexcept {
  if (offset < packet.head_size()) return packet.head() + offset;
  offset -= packet.head_size();
  for (const Segment& segment : packet.tail()) {
    if (offset < segment.len) return segment.data + offset;
    offset -= segment.len;
  }
  return nullptr;
}

}  // namespace

std::optional<DropReason> fill_checksum(Packet& packet, PoolCache& cache) noexcept {
  PacketMeta& meta = packet.meta;
  const uint32_t field = uint32_t{meta.csum_start} + meta.csum_offset;
  if (meta.csum_start < net::kEthernetHeaderSize || field + 2 > packet.size()) {
    return DropReason::bad_net_header;
  }
  if (field + 2 > packet.head_size() && !cache.make_owned(packet)) return DropReason::no_buffers;
  uint16_t sum = sum_packet(packet, meta.csum_start).checksum().value();
  if (sum == 0) sum = 0xffff;
  // Byte by byte: head and segments may meet inside the field.
  *byte_at(packet, field) = static_cast<std::byte>(sum >> 8);
  *byte_at(packet, field + 1) = static_cast<std::byte>(sum & 0xff);
  meta.needs_csum = false;
  return std::nullopt;
}

}  // namespace pollux::stage
