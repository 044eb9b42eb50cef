// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/frames.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
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
// The lower halves are those of flow 0. What is added to the one for another flow is taken from the
// other, so that no sum over both changes.
constexpr uint16_t kSourceLow = 0x0001;
constexpr uint16_t kDestinationLow = 0xfffe;
constexpr Ipv4Address kSource{10, 78, 0x00, 0x01};
constexpr Ipv4Address kDestination{10, 79, 0xff, 0xfe};
constexpr size_t kSourceLowAt = kIpAt + offsetof(Ipv4Header, source) + 2;
constexpr size_t kDestinationLowAt = kIpAt + offsetof(Ipv4Header, destination) + 2;
constexpr uint32_t kAddresses = 65000;
constexpr uint16_t kSourcePort = 10000;
constexpr uint16_t kDestinationPort = 20000;
constexpr uint32_t kDestinationPorts = 40000;

bool is_large(uint32_t size) { return size > kMaxPlainFrame; }

/// Behind the longer of both L4 headers, so that it stands at one place.
constexpr size_t kNumberAt = kL4At + kTcpHeaderSize;
static_assert(kNumberAt + sizeof(uint32_t) <= kMinFrame);

template <typename Header>
void put(std::vector<std::byte>& frame, size_t at, const Header& header) {
  std::memcpy(frame.data() + at, &header, sizeof header);
}

void put16(std::byte* at, uint32_t value) {
  const Be16 field(static_cast<uint16_t>(value));
  std::memcpy(at, &field, sizeof field);
}

uint32_t get16(const std::byte* at) {
  Be16 field;
  std::memcpy(&field, at, sizeof field);
  return field.value();
}

/// What put_flow() was told, if it was that.
uint32_t flow_of(std::span<const std::byte> frame) {
  const uint32_t low = get16(frame.data() + kSourceLowAt) - kSourceLow;
  return (get16(frame.data() + kL4At) - kSourcePort) * kAddresses + low;
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
  tcp.source_port = Be16(kSourcePort);
  tcp.destination_port = Be16(kDestinationPort);
  tcp.data_offset = 5 << 4;
  tcp.flags = kTcpAck;
  tcp.window = Be16(0xffff);
  const auto length = static_cast<uint32_t>(frame.size() - kL4At);
  tcp.checksum = pseudo_header(kSource, kDestination, kIpProtoTcp, length).sum();
  put(frame, kL4At, tcp);
}

void put_udp(std::vector<std::byte>& frame) {
  UdpHeader udp{};
  udp.source_port = Be16(kSourcePort);
  udp.destination_port = Be16(kDestinationPort);
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

void put_macs(std::byte* frame, size_t by, uint32_t mac) noexcept {
  const auto put_mac = [mac](std::byte* at, size_t side) {
    const std::array<uint8_t, MacAddress::kSize> address{
        0x02,
        static_cast<uint8_t>(side == 0 ? 0x0a : 0x0b),
        static_cast<uint8_t>(mac >> 24),
        static_cast<uint8_t>(mac >> 16),
        static_cast<uint8_t>(mac >> 8),
        static_cast<uint8_t>(mac)};
    std::memcpy(at, address.data(), address.size());
  };
  put_mac(frame, 1 - by);
  put_mac(frame + MacAddress::kSize, by);
}

bool is_for(const std::byte* frame, size_t at, const Traffic& traffic) noexcept {
  const auto part = [frame](size_t i) { return std::to_integer<uint32_t>(frame[i]); };
  const uint32_t mac = part(2) << 24 | part(3) << 16 | part(4) << 8 | part(5);
  return part(0) == 0x02 && part(1) == (at == 0 ? 0x0a : 0x0b) &&
         mac - traffic.first_mac < traffic.macs;
}

std::vector<std::byte> make_announcement(size_t by, const Traffic& traffic) {
  std::vector<std::byte> frame = make_frame(~uint32_t{0}, kMinFrame);
  put_macs(frame.data(), by, traffic.first_mac);
  std::fill_n(frame.begin(), MacAddress::kSize, std::byte{0xff});
  return frame;
}

void put_flow(std::byte* frame, uint32_t flow) noexcept {
  const uint32_t low = flow % kAddresses;
  put16(frame + kSourceLowAt, kSourceLow + low);
  put16(frame + kDestinationLowAt, kDestinationLow - low);
  // Both L4 headers begin with the ports.
  put16(frame + kL4At, kSourcePort + flow / kAddresses);
  put16(frame + kL4At + sizeof(Be16), kDestinationPort + flow % kDestinationPorts);
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

bool is_whole(std::span<const std::byte> frame, uint32_t number, uint32_t size, uint32_t flows) {
  if (frame.size() != size || flow_of(frame) >= flows) return false;
  std::vector<std::byte> want = make_frame(number, size);
  put_flow(want.data(), flow_of(frame));
  if (is_large(size)) {
    const size_t at = kL4At + kTcpChecksumOffset;
    std::copy_n(frame.begin() + at, sizeof(Be16), want.begin() + at);
  }
  const auto from = static_cast<ptrdiff_t>(2 * MacAddress::kSize);
  return std::equal(want.begin() + from, want.end(), frame.begin() + from);
}

}  // namespace pollux::bench
