// SPDX-License-Identifier: Apache-2.0
// Segmentation as a textbook would do it, on plain bytes: every field from its definition, each
// checksum from a pseudo header written out. Shares no code with what it is compared to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "pollux/packet/packet.hpp"
#include "tests/support/packets.hpp"

namespace pollux::test {

struct GsoFrame {
  GsoType gso = GsoType::kTcp4;
  Bytes bytes;
  size_t l3 = 0;
  size_t l4 = 0;
  size_t payload = 0;

  bool tcp() const { return gso == GsoType::kTcp4 || gso == GsoType::kTcp6; }
  bool ufo() const { return gso == GsoType::kUfo4 || gso == GsoType::kUfo6; }
  bool v4() const {
    return gso == GsoType::kTcp4 || gso == GsoType::kUdp4 || gso == GsoType::kUfo4;
  }
  size_t checksum_field() const { return l4 + (tcp() ? 16 : 6); }
};

inline uint32_t word_sum(const Bytes& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) sum += bytes[i] << (i % 2 == 0 ? 8 : 0);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/// The pseudo header's bytes for `length` bytes of transport header and payload.
inline Bytes pseudo_header(const GsoFrame& frame, size_t length) {
  const auto from = frame.bytes.begin() + static_cast<long>(frame.l3 + (frame.v4() ? 12 : 8));
  const uint8_t protocol = frame.tcp() ? 6 : 17;
  Bytes pseudo(from, from + (frame.v4() ? 8 : 32));
  const Bytes rest{
      0, 0, 0, protocol, 0, 0, static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length)};
  return pseudo + rest;
}

/// Segment number `index`. With `partial` the checksum field holds the pseudo header's sum.
inline Bytes reference_segment(const GsoFrame& frame, size_t gso_size, size_t index, bool partial) {
  const size_t total = frame.bytes.size() - frame.payload;
  const size_t count = std::max<size_t>((total + gso_size - 1) / gso_size, 1);
  const size_t begin = index * gso_size;
  const size_t len = std::min(gso_size, total - begin);
  const auto at = [&](size_t offset) { return frame.bytes.begin() + static_cast<long>(offset); };
  Bytes segment(at(0), at(frame.payload));
  segment.insert(segment.end(), at(frame.payload + begin), at(frame.payload + begin + len));
  if (frame.v4()) {
    put16(segment, frame.l3 + 2, static_cast<uint32_t>(segment.size() - frame.l3));
    put16(segment, frame.l3 + 4, get16(segment, frame.l3 + 4) + static_cast<uint32_t>(index));
    put16(segment, frame.l3 + 10, 0);
    const Bytes header(segment.begin() + static_cast<long>(frame.l3),
                       segment.begin() + static_cast<long>(frame.l4));
    put16(segment, frame.l3 + 10, ~word_sum(header));
  } else {
    put16(segment, frame.l3 + 4, static_cast<uint32_t>(segment.size() - frame.l3 - 40));
  }
  if (frame.tcp()) {
    const uint32_t sequence = (get16(segment, frame.l4 + 4) << 16 | get16(segment, frame.l4 + 6)) +
                              static_cast<uint32_t>(begin);
    put16(segment, frame.l4 + 4, sequence >> 16);
    put16(segment, frame.l4 + 6, sequence);
    uint8_t& flags = segment[frame.l4 + 13];
    if (index != 0) flags &= 0x7f;              // CWR
    if (index != count - 1) flags &= 0xff - 9;  // FIN, PSH
  } else {
    put16(segment, frame.l4 + 4, static_cast<uint32_t>(8 + len));
  }
  const Bytes pseudo = pseudo_header(frame, segment.size() - frame.l4);
  put16(segment, frame.checksum_field(), word_sum(pseudo));
  if (partial) return segment;
  put16(segment, frame.checksum_field(), 0);
  const Bytes summed = pseudo + Bytes(segment.begin() + static_cast<long>(frame.l4), segment.end());
  uint32_t checksum = ~word_sum(summed) & 0xffff;
  if (checksum == 0 && !frame.tcp()) checksum = 0xffff;
  put16(segment, frame.checksum_field(), checksum);
  return segment;
}

/// The datagram with its checksum made, 0xffff for 0.
inline Bytes checksummed_datagram(const GsoFrame& frame) {
  Bytes bytes = frame.bytes;
  put16(bytes, frame.checksum_field(), 0);
  const size_t length = bytes.size() - frame.l4;
  const Bytes summed = pseudo_header(frame, length) +
                       Bytes(bytes.begin() + static_cast<long>(frame.l4), bytes.end());
  const uint32_t checksum = ~word_sum(summed) & 0xffff;
  put16(bytes, frame.checksum_field(), checksum == 0 ? 0xffff : checksum);
  return bytes;
}

/// The IP fragments of a datagram, RFC 791 3.2 and RFC 8200 4.5; the frame's IPv6 header has no
/// extensions. `size` bytes of the IP payload each. Over IPv6 the identification is left 0.
inline std::vector<Bytes> reference_fragments(const GsoFrame& frame, size_t size) {
  const Bytes bytes = checksummed_datagram(frame);
  std::vector<Bytes> fragments;
  for (size_t at = frame.l4; at < bytes.size(); at += size) {
    const size_t len = std::min(size, bytes.size() - at);
    const bool more = at + len != bytes.size();
    const auto offset = static_cast<uint32_t>(at - frame.l4);
    Bytes fragment(bytes.begin(), bytes.begin() + static_cast<long>(frame.l4));
    if (frame.v4()) {
      put16(fragment, frame.l3 + 2, static_cast<uint32_t>(20 + len));
      put16(fragment, frame.l3 + 6, offset / 8 + (more ? 0x2000 : 0));
      put16(fragment, frame.l3 + 10, 0);
      const Bytes header(fragment.begin() + static_cast<long>(frame.l3), fragment.end());
      put16(fragment, frame.l3 + 10, ~word_sum(header));
    } else {
      put16(fragment, frame.l3 + 4, static_cast<uint32_t>(8 + len));
      fragment[frame.l3 + 6] = 44;
      Bytes extension(8);
      extension[0] = 17;
      put16(extension, 2, offset + (more ? 1 : 0));
      fragment = fragment + extension;
    }
    const auto from = bytes.begin() + static_cast<long>(at);
    fragment.insert(fragment.end(), from, from + static_cast<long>(len));
    fragments.push_back(fragment);
  }
  return fragments;
}

/// Takes the identification out of an IPv6 fragment and returns it.
inline uint32_t take_identification(Bytes& fragment, size_t l3) {
  const uint32_t id = get16(fragment, l3 + 44) << 16 | get16(fragment, l3 + 46);
  put16(fragment, l3 + 44, 0);
  put16(fragment, l3 + 46, 0);
  return id;
}

inline std::vector<Bytes> reference_segments(const GsoFrame& frame, size_t gso_size, bool partial) {
  const size_t total = frame.bytes.size() - frame.payload;
  const size_t count = std::max<size_t>((total + gso_size - 1) / gso_size, 1);
  std::vector<Bytes> segments;
  for (size_t i = 0; i < count; ++i) {
    segments.push_back(reference_segment(frame, gso_size, i, partial));
  }
  return segments;
}

/// A frame as a guest sends it for segmentation: random where it may be, lengths right, the pseudo
/// header's sum in the checksum field. `options` bytes of TCP options, `tags` VLAN tags.
inline GsoFrame gso_frame(GsoType gso, size_t payload, std::mt19937& random, size_t options = 0,
                          size_t tags = 0) {
  GsoFrame frame;
  frame.gso = gso;
  frame.l3 = 14 + 4 * tags;
  frame.l4 = frame.l3 + (frame.v4() ? 20 : 40);
  frame.payload = frame.l4 + (frame.tcp() ? 20 + options : 8);
  frame.bytes = random_bytes(frame.payload + payload, random);
  Bytes& bytes = frame.bytes;
  for (size_t i = 0; i < tags; ++i) put16(bytes, 12 + 4 * i, 0x8100);
  put16(bytes, frame.l3 - 2, frame.v4() ? 0x0800 : 0x86dd);
  const auto ip_size = static_cast<uint32_t>(bytes.size() - frame.l3);
  if (frame.v4()) {
    bytes[frame.l3] = 0x45;
    put16(bytes, frame.l3 + 2, ip_size);
    put16(bytes, frame.l3 + 6, 0x4000);
    bytes[frame.l3 + 9] = frame.tcp() ? 6 : 17;
    put16(bytes, frame.l3 + 10, 0);
    const auto header = bytes.begin() + static_cast<long>(frame.l3);
    put16(bytes, frame.l3 + 10, ~word_sum(Bytes(header, header + 20)));
  } else {
    bytes[frame.l3] = 0x60;
    put16(bytes, frame.l3 + 4, ip_size - 40);
    bytes[frame.l3 + 6] = frame.tcp() ? 6 : 17;
  }
  if (frame.tcp()) {
    bytes[frame.l4 + 12] = static_cast<uint8_t>((20 + options) / 4 << 4);
  } else {
    put16(bytes, frame.l4 + 4, static_cast<uint32_t>(8 + payload));
  }
  put16(bytes, frame.checksum_field(), word_sum(pseudo_header(frame, bytes.size() - frame.l4)));
  return frame;
}

inline GsoFrame random_gso_frame(std::mt19937& random) {
  constexpr GsoType kTypes[] = {GsoType::kTcp4, GsoType::kTcp6, GsoType::kUdp4, GsoType::kUdp6};
  const size_t payload = random() % 4 == 0 ? random() % 100 : random() % 9000;
  return gso_frame(kTypes[random() % 4], payload, random, random() % 11 * 4, random() % 3);
}

inline GsoFrame random_ufo_frame(std::mt19937& random) {
  const GsoType gso = random() % 2 == 0 ? GsoType::kUfo4 : GsoType::kUfo6;
  const size_t payload = random() % 4 == 0 ? random() % 200 : random() % 9000;
  return gso_frame(gso, payload, random, 0, random() % 3);
}

}  // namespace pollux::test
