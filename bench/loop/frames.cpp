// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/frames.hpp"

#include <algorithm>
#include <cstring>

#include "pollux/net/checksum.hpp"
#include "pollux/net/ethernet.hpp"
#include "pollux/net/ipv4.hpp"
#include "pollux/net/tcp.hpp"
#include "pollux/net/udp.hpp"

namespace pollux::bench {
namespace {

using namespace net;

constexpr size_t kIpAt = kEthernetHeaderSize;
constexpr size_t kL4At = kIpAt + kIpv4HeaderSize;
constexpr Ipv4Address kSource{10, 78, 0, 1};
constexpr Ipv4Address kDestination{10, 78, 0, 2};

bool is_large(uint32_t size) { return size > kMaxPlainFrame; }

/// Behind the longer of both L4 headers, so that it stands at one place.
constexpr size_t kNumberAt = kL4At + kTcpHeaderSize;
static_assert(kNumberAt + sizeof(uint32_t) <= kMinFrame);

template <typename Header>
void put(std::vector<std::byte>& frame, size_t at, const Header& header) {
  std::memcpy(frame.data() + at, &header, sizeof header);
}

void put_ipv4(std::vector<std::byte>& frame, uint8_t protocol) {
  Ipv4Header ip{};
  ip.version_ihl = 0x45;
  ip.total_length = Be16(static_cast<uint16_t>(frame.size() - kIpAt));
  ip.ttl = 64;
  ip.protocol = protocol;
  ip.source = kSource;
  ip.destination = kDestination;
  ip.checksum = checksum({reinterpret_cast<const std::byte*>(&ip), sizeof ip});
  put(frame, kIpAt, ip);
}

void put_tcp(std::vector<std::byte>& frame) {
  TcpHeader tcp{};
  tcp.source_port = Be16(40000);
  tcp.destination_port = Be16(40001);
  tcp.data_offset = 5 << 4;
  tcp.flags = kTcpAck;
  tcp.window = Be16(0xffff);
  const auto length = static_cast<uint32_t>(frame.size() - kL4At);
  tcp.checksum = pseudo_header(kSource, kDestination, kIpProtoTcp, length).sum();
  put(frame, kL4At, tcp);
}

void put_udp(std::vector<std::byte>& frame) {
  UdpHeader udp{};
  udp.source_port = Be16(40000);
  udp.destination_port = Be16(40001);
  udp.length = Be16(static_cast<uint16_t>(frame.size() - kL4At));
  put(frame, kL4At, udp);
}

}  // namespace

std::vector<std::byte> make_frame(uint32_t number, uint32_t size) {
  std::vector<std::byte> frame(size);
  uint32_t state = number * 2654435761U + size;
  for (size_t at = kNumberAt + sizeof number; at < size; ++at) {
    state = state * 1664525U + 1013904223U;
    frame[at] = static_cast<std::byte>(state >> 24);
  }
  std::memcpy(frame.data() + kNumberAt, &number, sizeof number);
  EthernetHeader ethernet{};
  ethernet.ether_type = Be16(kEtherTypeIpv4);
  put(frame, 0, ethernet);
  put_ipv4(frame, is_large(size) ? kIpProtoTcp : kIpProtoUdp);
  is_large(size) ? put_tcp(frame) : put_udp(frame);
  return frame;
}

spec::virtio_net_hdr header_for(uint32_t size) {
  spec::virtio_net_hdr hdr{};
  if (!is_large(size)) return hdr;
  hdr.flags = spec::VIRTIO_NET_HDR_F_NEEDS_CSUM;
  hdr.gso_type = spec::VIRTIO_NET_HDR_GSO_TCPV4;
  hdr.hdr_len = kNumberAt;
  hdr.gso_size = kSegment;
  hdr.csum_start = kL4At;
  hdr.csum_offset = kTcpChecksumOffset;
  return hdr;
}

uint32_t number_of(std::span<const std::byte> frame) {
  uint32_t number = ~uint32_t{0};
  if (frame.size() >= kNumberAt + sizeof number) {
    std::memcpy(&number, frame.data() + kNumberAt, sizeof number);
  }
  return number;
}

bool is_whole(std::span<const std::byte> frame, uint32_t number, uint32_t size) {
  if (frame.size() != size) return false;
  std::vector<std::byte> want = make_frame(number, size);
  if (is_large(size)) {
    const size_t at = kL4At + kTcpChecksumOffset;
    std::copy_n(frame.begin() + at, sizeof(Be16), want.begin() + at);
  }
  const auto from = static_cast<ptrdiff_t>(2 * MacAddress::kSize);
  return std::equal(want.begin() + from, want.end(), frame.begin() + from);
}

}  // namespace pollux::bench
