// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/packet_hash.hpp"

#include <gtest/gtest.h>

#include "tests/support/packets.hpp"

namespace pollux::virtio {
namespace {

using test::Bytes;
using test::from_hex;
using test::operator+;
using namespace spec;

/// The key, flows and sums that Microsoft publishes for checking implementations of RSS.
const Bytes kKey =
    from_hex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa");
const Bytes kEthernet = from_hex("020000000002 020000000001");
const Bytes kAddresses4 = from_hex("420995bb a18e6450");
const Bytes kAddresses6 =
    from_hex("3ffe250102001fff0000000000000007 3ffe2501020000030000000000000001");
const Bytes kPorts = from_hex("0aea 06e6");
constexpr uint32_t kIp4 = 0x323e8fc2;
constexpr uint32_t kPorts4 = 0x51ccc178;
constexpr uint32_t kIp6 = 0x2cc18cd5;
constexpr uint32_t kPorts6 = 0x40207d3d;

const Bytes kTcp = kPorts + from_hex("00000001 00000000 5010 2000 0000 0000");
const Bytes kUdp = kPorts + from_hex("0008 0000");

Bytes ip4(uint8_t protocol, const Bytes& payload, uint32_t fragment = 0) {
  Bytes header = from_hex("0800 4500 0000 0001 0000 4000 0000") + kAddresses4;
  test::put16(header, 4, static_cast<uint32_t>(20 + payload.size()));
  test::put16(header, 8, fragment);
  header[11] = protocol;
  return kEthernet + header + payload;
}
Bytes ip6(uint8_t next, const Bytes& payload) {
  Bytes header = from_hex("86dd 60000000 0000 0040") + kAddresses6;
  test::put16(header, 6, static_cast<uint32_t>(payload.size()));
  header[8] = next;
  return kEthernet + header + payload;
}

PacketHash::Value hash(uint32_t types, const Bytes& frame) {
  test::PacketMaker maker;
  HashState state{types, {}};
  for (const uint8_t byte : kKey) state.key.push_back(std::byte{byte});
  Packet* packet = maker.make(frame);
  const PacketHash::Value value = PacketHash(state).of(*packet);
  maker.cache().release(packet);
  return value;
}

void expect(uint32_t types, const Bytes& frame, uint8_t report, uint32_t value) {
  const auto found = hash(types, frame);
  EXPECT_EQ(found.report, report) << types;
  EXPECT_EQ(found.hash, value) << types;
}

TEST(PacketHash, OfIpv4) {
  constexpr uint32_t kIp = VIRTIO_NET_HASH_TYPE_IPv4;
  constexpr uint32_t kTcpType = VIRTIO_NET_HASH_TYPE_TCPv4;
  constexpr uint32_t kUdpType = VIRTIO_NET_HASH_TYPE_UDPv4;
  expect(kIp | kTcpType | kUdpType, ip4(6, kTcp), VIRTIO_NET_HASH_REPORT_TCPv4, kPorts4);
  expect(kIp | kTcpType | kUdpType, ip4(17, kUdp), VIRTIO_NET_HASH_REPORT_UDPv4, kPorts4);
  expect(kIp | kTcpType, ip4(17, kUdp), VIRTIO_NET_HASH_REPORT_IPv4, kIp4);
  expect(kIp | kTcpType | kUdpType, ip4(1, kUdp), VIRTIO_NET_HASH_REPORT_IPv4, kIp4);
  expect(kTcpType, ip4(17, kUdp), VIRTIO_NET_HASH_REPORT_NONE, 0);
  expect(VIRTIO_NET_HASH_TYPE_IPv6, ip4(6, kTcp), VIRTIO_NET_HASH_REPORT_NONE, 0);
  expect(0, ip4(6, kTcp), VIRTIO_NET_HASH_REPORT_NONE, 0);
}

TEST(PacketHash, FragmentsHaveNoPorts) {
  constexpr uint32_t kTypes = VIRTIO_NET_HASH_TYPE_IPv4 | VIRTIO_NET_HASH_TYPE_UDPv4;
  expect(kTypes, ip4(17, kUdp, 0x2000), VIRTIO_NET_HASH_REPORT_IPv4, kIp4);
  expect(kTypes, ip4(17, kUdp, 0x0001), VIRTIO_NET_HASH_REPORT_IPv4, kIp4);
}

TEST(PacketHash, OfIpv6) {
  constexpr uint32_t kAll = NetControl::kHashTypes;
  expect(kAll, ip6(6, kTcp), VIRTIO_NET_HASH_REPORT_TCPv6, kPorts6);
  expect(kAll, ip6(17, kUdp), VIRTIO_NET_HASH_REPORT_UDPv6, kPorts6);
  expect(kAll, ip6(58, kUdp), VIRTIO_NET_HASH_REPORT_IPv6, kIp6);
  expect(kAll, ip6(0, from_hex("0600 0104 00000000") + kTcp), VIRTIO_NET_HASH_REPORT_TCPv6,
         kPorts6);
  expect(VIRTIO_NET_HASH_TYPE_IPv6, ip6(6, kTcp), VIRTIO_NET_HASH_REPORT_IPv6, kIp6);
}

TEST(PacketHash, OfWhatIsNoIp) {
  expect(NetControl::kHashTypes, kEthernet + from_hex("0806 0001"), VIRTIO_NET_HASH_REPORT_NONE, 0);
  expect(NetControl::kHashTypes, kEthernet, VIRTIO_NET_HASH_REPORT_NONE, 0);
}

}  // namespace
}  // namespace pollux::virtio
