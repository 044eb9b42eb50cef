// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/gso.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "pollux/net/wire.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/stage/packet_sum.hpp"

namespace pollux::stage {
namespace {

using net::read_at;
using net::write_at;

bool is_what_it_says(GsoType gso, const net::ParsedHeaders& headers) {
  switch (gso) {
    case GsoType::kTcp4:
      return headers.ip_version == 4 && headers.is_tcp();
    case GsoType::kTcp6:
      return headers.ip_version == 6 && headers.is_tcp();
    case GsoType::kUdp4:
    case GsoType::kUfo4:
      return headers.ip_version == 4 && headers.is_udp();
    case GsoType::kUdp6:
    case GsoType::kUfo6:
      return headers.ip_version == 6 && headers.is_udp();
    case GsoType::kNone:
      break;
  }
  return false;
}

/// A pseudo header's sum after the length in it changed; as in Linux's tcp_gso_segment.
uint16_t sum_for_length(uint16_t sum, uint32_t before, uint32_t after) {
  uint32_t changed = sum + uint32_t{static_cast<uint16_t>(~before)} + after;
  changed = (changed & 0xffff) + (changed >> 16);
  changed = (changed & 0xffff) + (changed >> 16);
  return static_cast<uint16_t>(changed);
}

/// A number for the fragments of one datagram. Only fragments of different datagrams must not share
/// it (RFC 8200, 4.5), so it is made of the content: no state, and nobody who does not see the
/// packet can guess it (RFC 7739).
uint32_t digest(const Packet& packet) {
  uint64_t state = packet.size();
  const auto add = [&](std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      uint64_t word = 0;
      const size_t n = std::min(bytes.size(), sizeof(word));
      std::memcpy(&word, bytes.data(), n);
      state = (state ^ word) * 0x9e37'79b9'7f4a'7c15;  // 2^64 / golden ratio
      state ^= state >> 32;
      bytes = bytes.subspan(n);
    }
  };
  add(packet.head_bytes());
  for (const Segment& segment : packet.tail()) add({segment.data, segment.len});
  return static_cast<uint32_t>(state);
}

/// The part of an IPv6 packet that each of its fragments repeats (RFC 8200, 4.5): up to a routing
/// header, else up to a hop-by-hop header, else the IPv6 header alone.
struct PerFragmentHeaders {
  size_t end = 0;             ///< offset behind them
  size_t next_header_at = 0;  ///< the byte in them that names what follows
};
PerFragmentHeaders per_fragment_headers(std::span<const std::byte> head, size_t l3) {
  PerFragmentHeaders found{l3 + net::kIpv6HeaderSize, l3 + offsetof(net::Ipv6Header, next_header)};
  uint8_t type = static_cast<uint8_t>(head[found.next_header_at]);
  size_t at = found.end;
  while (type == net::kIpv6HopByHop || type == net::kIpv6Routing ||
         type == net::kIpv6DestinationOptions) {
    // net::parse has walked this chain: it lies inside the head.
    const size_t next = at + (static_cast<size_t>(head[at + 1]) + 1) * 8;
    if (type != net::kIpv6DestinationOptions) found = {next, at};
    type = static_cast<uint8_t>(head[at]);
    at = next;
  }
  return found;
}

}  // namespace

Segmenter::Segmenter(const Packet& original, uint32_t offloads) noexcept
    : original_(original), offloads_(offloads) {
  error_ = check();
}

std::optional<DropReason> Segmenter::check() noexcept {
  const net::ParsedHeaders headers = net::parse(original_.head_bytes());
  if (!is_what_it_says(original_.meta.gso, headers) || headers.fragment ||
      original_.meta.gso_size == 0 || headers.l3_offset + headers.l3_size != original_.size() ||
      original_.head_size() > Packet::kHeadCapacity) {
    return DropReason::bad_net_header;
  }
  is_v6_ = headers.ip_version == 6;
  is_tcp_ = headers.is_tcp();
  l3_ = headers.l3_offset;
  l4_ = headers.l4_offset;
  header_len_ = headers.payload_offset;
  if (is_fragmentation(original_.meta.gso) && !prepare_fragments(headers)) {
    return DropReason::bad_net_header;
  }
  payload_len_ = original_.size() - header_len_;
  const uint32_t gso_size = original_.meta.gso_size;
  count_ = std::max<uint32_t>((payload_len_ + gso_size - 1) / gso_size, 1);
  pseudo_sum_ = original_pseudo_sum();
  return std::nullopt;
}

/// False when the packet can not be fragmented.
bool Segmenter::prepare_fragments(const net::ParsedHeaders& headers) noexcept {
  // 8 bytes is the unit of fragment offsets.
  if (original_.meta.gso_size % 8 != 0) return false;
  header_len_ = headers.l4_offset;
  if (is_v6_) {
    const PerFragmentHeaders found = per_fragment_headers(original_.head_bytes(), l3_);
    header_len_ = static_cast<uint16_t>(found.end);
    next_header_at_ = static_cast<uint16_t>(found.next_header_at);
    inserted_ = sizeof(net::Ipv6FragmentHeader);
    identification_ = digest(original_);
  }
  // What of the original's head does not fit behind the longer headers takes a segment.
  const bool longer = original_.head_size() + inserted_ > Packet::kHeadCapacity;
  if (longer && original_.segments_full()) return false;
  if (headers.payload_offset + inserted_ > Packet::kHeadCapacity) return false;
  // The field holds the pseudo header's sum, so it is part of what is summed; or it is complete.
  if (original_.meta.needs_csum) {
    datagram_checksum_ = sum_packet(original_, l4_).checksum();
    if (datagram_checksum_.value() == 0) datagram_checksum_.set(0xffff);
  } else if (!read_at(original_.head_bytes(), checksum_field(), datagram_checksum_)) {
    return false;
  }
  return true;
}

/// With needs_csum the sender left it in the checksum field; there it is right even behind an IPv6
/// routing header. Else the field holds a checksum, of no use here.
uint16_t Segmenter::original_pseudo_sum() const noexcept {
  const std::span<const std::byte> head = original_.head_bytes();
  if (original_.meta.needs_csum) {
    Be16 field{};
    return read_at(head, checksum_field(), field) ? field.value() : uint16_t{0};
  }
  const uint32_t length = original_.size() - l4_;
  const uint8_t protocol = is_tcp_ ? net::kIpProtoTcp : net::kIpProtoUdp;
  net::Ipv4Header v4;
  net::Ipv6Header v6;
  if (is_v6_) {
    if (!read_at(head, l3_, v6)) return 0;
    return net::pseudo_header(v6.source, v6.destination, protocol, length).sum().value();
  }
  if (!read_at(head, l3_, v4)) return 0;
  return net::pseudo_header(v4.source, v4.destination, protocol, length).sum().value();
}

uint16_t Segmenter::checksum_field() const noexcept {
  return static_cast<uint16_t>(l4_ + (is_tcp_ ? net::kTcpChecksumOffset : net::kUdpChecksumOffset));
}

size_t Segmenter::remaining() const noexcept { return error_ ? 1 : count_ - next_; }

std::optional<DropReason> Segmenter::emit(Burst& out) noexcept {
  while (next_ != count_ && out.room() != 0) {
    Packet* segment = out.cache().allocate();
    if (segment == nullptr) return DropReason::no_packets;
    const uint32_t done = next_ * original_.meta.gso_size;
    const uint32_t len = std::min<uint32_t>(original_.meta.gso_size, payload_len_ - done);
    append_payload(*segment, done, len);
    if (is_fragmentation(original_.meta.gso)) {
      write_fragment(*segment, len);
    } else {
      write_ip(*segment, len);
      write_transport(*segment, len);
    }
    out.push(segment);
    ++next_;
  }
  return std::nullopt;
}

/// Copies the original's headers and as much of the payload as belongs into the head: what lies in
/// the original's head, and everything if the segment is short. The rest is borrowed.
void Segmenter::append_payload(Packet& segment, uint32_t done, uint32_t len) noexcept {
  std::byte* head = segment.head();
  std::memcpy(head, original_.head(), header_len_);
  const uint32_t headers = header_size();
  const uint32_t at = header_len_ + done;
  uint32_t copied = 0;
  uint32_t from_head = 0;
  if (at < original_.head_size()) {
    copied = std::min(len, original_.head_size() - at);
    from_head = std::min<uint32_t>(copied, Packet::kHeadCapacity - headers);
    std::memcpy(head + headers, original_.head() + at, from_head);
    if (from_head != copied) {
      auto* rest =
          const_cast<std::byte*>(original_.head() + at + from_head);  // borrowed: not written
      segment.append({rest, copied - from_head, kBorrowed});
    }
  }
  const bool fits = headers + len <= Packet::kHeadCapacity;
  while (copied != len) {
    const Segment& from = original_.tail()[tail_index_];
    const uint32_t n = std::min(len - copied, from.len - tail_offset_);
    if (fits) {
      std::memcpy(head + headers + copied, from.data + tail_offset_, n);
    } else if (n != 0) {
      segment.append({from.data + tail_offset_, n, kBorrowed});
    }
    copied += n;
    tail_offset_ += n;
    if (tail_offset_ == from.len) {
      ++tail_index_;
      tail_offset_ = 0;
    }
  }
  segment.set_head_size(headers + (fits ? len : from_head));
}

void Segmenter::write_ip(Packet& segment, uint32_t len) const noexcept {
  const std::span<std::byte> head = segment.head_bytes();
  const auto size = static_cast<uint16_t>(header_len_ - l3_ + len);
  if (is_v6_) {
    net::Ipv6Header ip;
    if (!read_at(head, l3_, ip)) return;
    ip.payload_length.set(static_cast<uint16_t>(size - net::kIpv6HeaderSize));
    (void)write_at(head, l3_, ip);
    return;
  }
  net::Ipv4Header ip;
  if (!read_at(head, l3_, ip)) return;
  ip.total_length.set(size);
  ip.identification.set(static_cast<uint16_t>(ip.identification.value() + next_));
  ip.checksum.set(0);
  (void)write_at(head, l3_, ip);
  ip.checksum = net::checksum(head.subspan(l3_, ip.size()));
  (void)write_at(head, l3_, ip);
}

void Segmenter::write_transport(Packet& segment, uint32_t len) const noexcept {
  const std::span<std::byte> head = segment.head_bytes();
  if (is_tcp_) {
    net::TcpHeader tcp;
    if (!read_at(head, l4_, tcp)) return;
    tcp.sequence.set(tcp.sequence.value() + next_ * original_.meta.gso_size);
    if (next_ != 0) tcp.flags &= static_cast<uint8_t>(~net::kTcpCwr);
    if (next_ + 1 != count_) tcp.flags &= static_cast<uint8_t>(~(net::kTcpFin | net::kTcpPsh));
    (void)write_at(head, l4_, tcp);
  } else {
    net::UdpHeader udp;
    if (!read_at(head, l4_, udp)) return;
    udp.length.set(static_cast<uint16_t>(net::kUdpHeaderSize + len));
    (void)write_at(head, l4_, udp);
  }
  const uint16_t field = checksum_field();
  const uint32_t l4_header = header_len_ - l4_;
  const Be16 sum(sum_for_length(pseudo_sum_, l4_header + payload_len_, l4_header + len));
  (void)write_at(head, field, sum);
  segment.meta = meta_of_segment();
  if (segment.meta.needs_csum) return;
  Be16 checksum = sum_packet(segment, l4_).checksum();
  if (!is_tcp_ && checksum.value() == 0) checksum.set(0xffff);  // 0 would mean "none"
  (void)write_at(head, field, checksum);
}

void Segmenter::write_fragment(Packet& fragment, uint32_t len) const noexcept {
  if (is_v6_) {
    write_fragment6(fragment, len);
  } else {
    write_fragment4(fragment, len);
  }
  // Mostly in the first; options before the UDP header can move it on.
  const auto field = static_cast<uint32_t>(checksum_field() - header_len_);
  if (field / original_.meta.gso_size == next_) {
    (void)write_at(fragment.head_bytes(), header_size() + field % original_.meta.gso_size,
                   datagram_checksum_);
  }
  fragment.meta = PacketMeta{};
  fragment.meta.in_port = original_.meta.in_port;
  fragment.meta.mark = original_.meta.mark;
  fragment.meta.timestamp = original_.meta.timestamp;
}

void Segmenter::write_fragment4(Packet& fragment, uint32_t len) const noexcept {
  const std::span<std::byte> head = fragment.head_bytes();
  net::Ipv4Header ip;
  if (!read_at(head, l3_, ip)) return;
  ip.total_length.set(static_cast<uint16_t>(header_len_ - l3_ + len));
  const uint32_t offset = next_ * original_.meta.gso_size / 8;
  const uint32_t more = next_ + 1 != count_ ? 0x2000 : 0;
  ip.flags_fragment.set(static_cast<uint16_t>(offset | more));
  ip.checksum.set(0);
  (void)write_at(head, l3_, ip);
  ip.checksum = net::checksum(head.subspan(l3_, ip.size()));
  (void)write_at(head, l3_, ip);
}

void Segmenter::write_fragment6(Packet& fragment, uint32_t len) const noexcept {
  const std::span<std::byte> head = fragment.head_bytes();
  net::Ipv6Header ip;
  if (!read_at(head, l3_, ip)) return;
  ip.payload_length.set(static_cast<uint16_t>(header_size() - l3_ - net::kIpv6HeaderSize + len));
  (void)write_at(head, l3_, ip);
  net::Ipv6FragmentHeader header{};
  header.next_header = static_cast<uint8_t>(head[next_header_at_]);
  const uint32_t more = next_ + 1 != count_ ? 1 : 0;
  header.offset_flags.set(static_cast<uint16_t>(next_ * original_.meta.gso_size | more));
  header.identification.set(identification_);
  (void)write_at(head, header_len_, header);
  head[next_header_at_] = std::byte{net::kIpv6Fragment};
}

PacketMeta Segmenter::meta_of_segment() const noexcept {
  PacketMeta meta = original_.meta;
  meta.l3_offset = l3_;
  meta.l4_offset = l4_;
  meta.payload_offset = header_len_;
  meta.csum_start = l4_;
  meta.csum_offset = static_cast<uint16_t>(checksum_field() - l4_);
  meta.needs_csum = (offloads_ & kTxChecksum) != 0;
  meta.gso = GsoType::kNone;
  meta.gso_size = 0;
  meta.gso_ecn = false;
  return meta;
}

}  // namespace pollux::stage
