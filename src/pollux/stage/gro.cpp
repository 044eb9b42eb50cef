// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/gro.hpp"

#include <algorithm>
#include <cstring>

#include "pollux/net/checksum.hpp"
#include "pollux/net/ipv4.hpp"
#include "pollux/net/ipv6.hpp"
#include "pollux/net/tcp.hpp"
#include "pollux/net/wire.hpp"
#include "pollux/packet/pool.hpp"

namespace pollux::stage {
namespace {

using net::read_at;
using net::write_at;

/// Of a joined frame. An IP packet may have as many, but 5.1.6.3.1 asks drivers without mergeable
/// buffers for 65562 bytes, in which the net header and VLAN tags must fit as well.
constexpr uint32_t kMaxSize = 65535;

/// What a segment adds to the tail of what it is joined to.
uint32_t pieces_of(const Packet& packet, const TcpSegment& segment) noexcept {
  const bool in_head = packet.head_size() > segment.payload_at;
  return static_cast<uint32_t>(packet.tail().size()) + (in_head ? 1 : 0);
}

}  // namespace

Joiner::Counts Joiner::join(Burst& burst, uint32_t types) noexcept {
  if (burst.size() < 2) return {};
  find_groups(burst, types);
  return found_ ? rebuild(burst) : Counts{};
}

void Joiner::release() noexcept {
  absorbed_.clear();
  listed_ = 0;
}

void Joiner::find_groups(const Burst& burst, uint32_t types) noexcept {
  group_count_ = open_count_ = 0;
  found_ = false;
  for (uint8_t i = 0; i < burst.size(); ++i) {
    group_of_[i] = next_[i] = kNone;
    seen_[i] = look_at(burst[i], types);
    switch (seen_[i].kind) {
      case TcpSegment::Kind::kOther:
        break;
      case TcpSegment::Kind::kUnclear:
        open_count_ = 0;
        break;
      case TcpSegment::Kind::kApart:
        close(seen_[i].connection);
        break;
      case TcpSegment::Kind::kSegment:
        place(burst, i);
        break;
    }
  }
}

/// Adds a segment to its connection's open group, or begins a new one.
void Joiner::place(const Burst& burst, uint8_t index) noexcept {
  const TcpSegment& segment = seen_[index];
  Group* group = open_group(segment.connection);
  if (group != nullptr && continues(burst, *group, index)) {
    group_of_[index] = static_cast<uint8_t>(group - groups_.data());
    next_[group->last] = index;
    group->last = index;
    ++group->count;
    group->pieces += pieces_of(burst[index], segment);
    group->size += segment.payload;
    found_ = true;
    if (segment.ends || segment.payload < seen_[group->first].payload) close(segment.connection);
    return;
  }
  close(segment.connection);
  if (segment.ends) return;
  const Packet& packet = burst[index];
  group_of_[index] = static_cast<uint8_t>(group_count_);
  open_[open_count_++] = static_cast<uint8_t>(group_count_);
  groups_[group_count_++] = {.first = index,
                             .last = index,
                             .pieces = static_cast<uint32_t>(packet.tail().size()),
                             .size = packet.size()};
}

Joiner::Group* Joiner::open_group(uint32_t connection) noexcept {
  for (size_t i = open_count_; i-- != 0;) {
    Group& group = groups_[open_[i]];
    if (seen_[group.first].connection == connection) return &group;
  }
  return nullptr;
}

/// Connections of one hash close each other's groups, which costs a chance and nothing else.
void Joiner::close(uint32_t connection) noexcept {
  const auto end = std::remove_if(open_.begin(), open_.begin() + open_count_, [&](uint8_t group) {
    return seen_[groups_[group].first].connection == connection;
  });
  open_count_ = static_cast<size_t>(end - open_.begin());
}

/// Whether the segment follows the group's last one. Cheap questions first: no packet is summed
/// more than twice, and none that has nothing to be joined to.
bool Joiner::continues(const Burst& burst, Group& group, uint8_t index) const noexcept {
  const TcpSegment& first = seen_[group.first];
  const TcpSegment& segment = seen_[index];
  const Packet& packet = burst[index];
  if (segment.sequence != first.sequence + group.count * first.payload ||
      segment.payload > first.payload || group.size + segment.payload > kMaxSize ||
      group.pieces + pieces_of(packet, segment) > Packet::kMaxLentSegments) {
    return false;
  }
  const auto identification = static_cast<uint16_t>(first.identification + group.count);
  if (!segment.v6 && segment.identification != identification) return false;
  if (!same_headers(burst[group.first], first, packet, segment)) return false;
  if (!group.verified && !checksums_right(burst[group.first], first)) return false;
  group.verified = true;
  return checksums_right(packet, segment);
}

/// Puts each group's packet in the place of its first segment.
Joiner::Counts Joiner::rebuild(Burst& burst) noexcept {
  Counts counts;
  std::array<Packet*, Burst::kCapacity> packets;
  const size_t count = burst.size();
  std::copy_n(burst.packets().begin(), count, packets.begin());
  burst.take_front(count);
  for (size_t i = 0; i < count; ++i) {
    Group* group = group_of_[i] == kNone ? nullptr : &groups_[group_of_[i]];
    if (group != nullptr && group->count > 1 && i == group->first) {
      if (Packet* joined = make(packets, *group, burst.cache()); joined != nullptr) {
        counts.segments += group->count;
        ++counts.packets;
        burst.push(joined);
      } else {
        group->count = 1;  // its segments stay
      }
    }
    if (group != nullptr && group->count > 1) {
      absorbed_.push(packets[i]);
    } else {
      burst.push(packets[i]);
    }
  }
  return counts;
}

Packet* Joiner::make(std::span<Packet* const> packets, const Group& group,
                     PoolCache& cache) noexcept {
  const bool lent = group.pieces > Packet::kMaxSegments;
  if (lent && listed_ + group.pieces > kListed) return nullptr;
  Packet* joined = cache.allocate();
  if (joined == nullptr) return nullptr;
  const Packet& first = *packets[group.first];
  const TcpSegment& segment = seen_[group.first];
  std::memcpy(joined->head(), first.head(), first.head_size());
  joined->set_head_size(first.head_size());
  gather(*joined, packets, group);
  joined->meta = first.meta;
  PacketMeta& meta = joined->meta;
  meta.gso = segment.v6 ? GsoType::kTcp6 : GsoType::kTcp4;
  meta.gso_size = static_cast<uint16_t>(segment.payload);
  meta.needs_csum = true;
  meta.csum_valid = false;
  meta.csum_start = segment.l4;
  meta.csum_offset = net::kTcpChecksumOffset;
  write_headers(*joined, *packets[group.last], group);
  return joined;
}

/// The tail: the payload of all segments, but for what lies in the first one's head.
void Joiner::gather(Packet& joined, std::span<Packet* const> packets, const Group& group) noexcept {
  const bool lent = group.pieces > Packet::kMaxSegments;
  const size_t begin = listed_;
  const auto add = [&](const std::byte* data, uint32_t len) {
    const Segment piece{const_cast<std::byte*>(data), len, kBorrowed};  // borrowed: not written
    if (lent) {
      lists_[listed_++] = piece;
    } else {
      joined.append(piece);
    }
  };
  for (uint8_t i = group.first; i != kNone; i = next_[i]) {
    const Packet& packet = *packets[i];
    const uint32_t from = i == group.first ? packet.head_size() : seen_[i].payload_at;
    if (packet.head_size() > from) add(packet.head() + from, packet.head_size() - from);
    for (const Segment& segment : packet.tail()) add(segment.data, segment.len);
  }
  if (lent) joined.lend_tail(std::span(lists_).subspan(begin, listed_ - begin));
}

void Joiner::write_headers(Packet& joined, const Packet& last, const Group& group) const noexcept {
  const TcpSegment& segment = seen_[group.first];
  const std::span<std::byte> head = joined.head_bytes();
  const uint32_t size = group.size - segment.l3;
  net::Ipv4Header v4;
  net::Ipv6Header v6;
  if (segment.v6 && read_at(head, segment.l3, v6)) {
    v6.payload_length.set(static_cast<uint16_t>(size - net::kIpv6HeaderSize));
    (void)write_at(head, segment.l3, v6);
  } else if (read_at(head, segment.l3, v4)) {
    v4.total_length.set(static_cast<uint16_t>(size));
    v4.checksum.set(0);
    (void)write_at(head, segment.l3, v4);
    v4.checksum = net::checksum(head.subspan(segment.l3, sizeof v4));
    (void)write_at(head, segment.l3, v4);
  }
  net::TcpHeader tcp;
  net::TcpHeader ending;
  if (!read_at(head, segment.l4, tcp) || !read_at(last.head_bytes(), segment.l4, ending)) return;
  tcp.flags |= ending.flags & (net::kTcpPsh | net::kTcpFin);
  tcp.checksum = pseudo_sum(joined, segment, group.size - segment.l4);
  (void)write_at(head, segment.l4, tcp);
}

}  // namespace pollux::stage
