// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/parse.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "tests/support/packets.hpp"

namespace pollux::net {
namespace {

using test::Bytes;
using test::from_hex;
using test::operator+;

const Bytes kMacs = from_hex("525400000002 525400000001");
const Bytes kTcp = from_hex("0050 1f90 00000001 00000002 5018 2000 0000 0000");
const Bytes kUdp = from_hex("0035 1f90 0008 0000");

/// An IPv4 header without options; `length` of header and payload.
Bytes ipv4(uint8_t protocol, size_t length, uint16_t flags_fragment = 0) {
  Bytes header = from_hex("4500 0000 0001 0000 40 00 0000 0a000001 0a000002");
  test::put16(header, 2, static_cast<uint32_t>(length));
  test::put16(header, 6, flags_fragment);
  header[9] = protocol;
  return header;
}

/// An IPv6 header; `length` of the payload.
Bytes ipv6(uint8_t next_header, size_t length) {
  Bytes header = from_hex(
      "60000000 0000 00 40 fd000000000000000000000000000001 fd000000000000000000000000000002");
  test::put16(header, 4, static_cast<uint32_t>(length));
  header[6] = next_header;
  return header;
}

/// Parses a copy in memory of exactly the frame's size, so that a sanitizer sees a step outside.
ParsedHeaders parse_exactly(const Bytes& frame) {
  const auto copy = std::make_unique<std::byte[]>(frame.size());
  std::copy(frame.begin(), frame.end(), reinterpret_cast<uint8_t*>(copy.get()));
  return parse({copy.get(), frame.size()});
}

TEST(Parse, Ipv4Tcp) {
  const Bytes frame = kMacs + from_hex("0800") + ipv4(6, 45) + kTcp + Bytes(5, 'x');
  const ParsedHeaders headers = parse_exactly(frame);
  EXPECT_EQ(headers.ether_type, 0x0800);
  EXPECT_EQ(headers.l3_offset, 14);
  EXPECT_EQ(headers.ip_version, 4);
  EXPECT_EQ(headers.ip_proto, 6);
  EXPECT_EQ(headers.l3_size, 45u);
  EXPECT_EQ(headers.l4_offset, 34);
  EXPECT_EQ(headers.payload_offset, 54);
  EXPECT_TRUE(headers.is_tcp());
  EXPECT_FALSE(headers.is_udp());
  EXPECT_FALSE(headers.fragment);
  EXPECT_EQ(headers.vlan_tags, 0);
}

TEST(Parse, Ipv4OptionsAndTcpOptions) {
  Bytes ip = ipv4(6, 24 + 24) + from_hex("94040000");  // router alert
  ip[0] = 0x46;
  Bytes tcp = kTcp + from_hex("020405b4");  // MSS
  tcp[12] = 0x60;
  const ParsedHeaders headers = parse_exactly(kMacs + from_hex("0800") + ip + tcp);
  EXPECT_EQ(headers.l4_offset, 38);
  EXPECT_EQ(headers.payload_offset, 62);
}

TEST(Parse, Ipv6Udp) {
  const ParsedHeaders headers = parse_exactly(kMacs + from_hex("86dd") + ipv6(17, 8) + kUdp);
  EXPECT_EQ(headers.ip_version, 6);
  EXPECT_EQ(headers.ip_proto, 17);
  EXPECT_EQ(headers.l3_size, 48u);
  EXPECT_EQ(headers.l4_offset, 54);
  EXPECT_EQ(headers.payload_offset, 62);
  EXPECT_TRUE(headers.is_udp());
}

TEST(Parse, VlanTags) {
  const ParsedHeaders headers =
      parse_exactly(kMacs + from_hex("88a8 6064 8100 200a 0800") + ipv4(17, 28) + kUdp);
  EXPECT_EQ(headers.vlan_tags, 2);
  EXPECT_EQ(headers.vlan_tci, 0x6064);
  EXPECT_EQ(vlan_id(headers.vlan_tci), 100);
  EXPECT_EQ(vlan_priority(headers.vlan_tci), 3);
  EXPECT_EQ(headers.ether_type, 0x0800);
  EXPECT_EQ(headers.l3_offset, 22);
  EXPECT_EQ(headers.l4_offset, 42);
}

TEST(Parse, VlanTagsWithoutEnd) {
  Bytes frame = kMacs;
  for (int i = 0; i < 40; ++i) frame = frame + from_hex("8100 0001");
  const ParsedHeaders headers = parse_exactly(frame);
  EXPECT_EQ(headers.vlan_tags, kMaxVlanTags);
  EXPECT_EQ(headers.ether_type, 0x8100);
  EXPECT_EQ(headers.l3_offset, 0);
}

TEST(Parse, ArpAndLengthFields) {
  const ParsedHeaders arp = parse_exactly(kMacs + from_hex("0806 0001 0800 06 04 0001"));
  EXPECT_EQ(arp.ether_type, kEtherTypeArp);
  EXPECT_EQ(arp.l3_offset, 14);
  EXPECT_EQ(arp.ip_version, 0);
  const ParsedHeaders llc = parse_exactly(kMacs + from_hex("0026 4242 03"));
  EXPECT_EQ(llc.ether_type, 0x26);
  EXPECT_EQ(llc.l3_offset, 0);
}

TEST(Parse, Ipv4Fragments) {
  const Bytes start = kMacs + from_hex("0800");
  const ParsedHeaders first = parse_exactly(start + ipv4(17, 28, 0x2000) + kUdp);
  EXPECT_TRUE(first.fragment);
  EXPECT_EQ(first.l4_offset, 34);
  const ParsedHeaders later = parse_exactly(start + ipv4(17, 28, 0x0001) + kUdp);
  EXPECT_TRUE(later.fragment);
  EXPECT_EQ(later.ip_version, 4);
  EXPECT_EQ(later.l4_offset, 0);
  EXPECT_EQ(later.payload_offset, 0);
  EXPECT_FALSE(parse_exactly(start + ipv4(17, 28, 0x4000) + kUdp).fragment) << "don't fragment";
}

TEST(Parse, BadIpv4Headers) {
  struct Case {
    const char* what;
    size_t at;
    uint8_t value;
  };
  for (const Case& bad : {Case{"version 5", 0, 0x55}, Case{"header of 16 bytes", 0, 0x44},
                          Case{"total length below the header's", 3, 19},
                          Case{"header longer than the packet", 0, 0x4f}}) {
    Bytes ip = ipv4(17, 28);
    ip[bad.at] = bad.value;
    const ParsedHeaders headers = parse_exactly(kMacs + from_hex("0800") + ip + kUdp);
    EXPECT_EQ(headers.ether_type, 0x0800) << bad.what;
    EXPECT_EQ(headers.l3_offset, 14) << bad.what;
    EXPECT_EQ(headers.ip_version, 0) << bad.what;
    EXPECT_EQ(headers.l4_offset, 0) << bad.what;
  }
}

TEST(Parse, TransportHeaderBeyondTheIpLength) {
  // The bytes are there, but IP says that they are padding.
  const ParsedHeaders headers = parse_exactly(kMacs + from_hex("0800") + ipv4(6, 39) + kTcp);
  EXPECT_EQ(headers.l4_offset, 34);
  EXPECT_EQ(headers.payload_offset, 0);
  EXPECT_FALSE(headers.is_tcp());
}

TEST(Parse, BadTransportHeaders) {
  Bytes tcp = kTcp;
  tcp[12] = 0x40;
  const Bytes start = kMacs + from_hex("0800");
  EXPECT_EQ(parse_exactly(start + ipv4(6, 40) + tcp).payload_offset, 0) << "data offset 4";
  tcp[12] = 0xf0;
  EXPECT_EQ(parse_exactly(start + ipv4(6, 40) + tcp).payload_offset, 0) << "options missing";
  Bytes udp = kUdp;
  udp[5] = 7;
  EXPECT_EQ(parse_exactly(start + ipv4(17, 28) + udp).payload_offset, 0) << "length 7";
}

TEST(Parse, Ipv6ExtensionHeaders) {
  // hop-by-hop (8 bytes), routing (24), destination options (8), TCP
  const Bytes frame = kMacs + from_hex("86dd") + ipv6(0, 8 + 24 + 8 + 20) +
                      from_hex("2b00 010400000000") +
                      from_hex("3c02 0000 00000000 fd000000000000000000000000000003") +
                      from_hex("0600 010400000000") + kTcp;
  const ParsedHeaders headers = parse_exactly(frame);
  EXPECT_EQ(headers.ip_proto, 6);
  EXPECT_EQ(headers.l4_offset, 14 + 40 + 40);
  EXPECT_EQ(headers.payload_offset, 14 + 40 + 40 + 20);
}

TEST(Parse, Ipv6AuthenticationHeaderCountsInWordsOfFour) {
  const Bytes frame = kMacs + from_hex("86dd") + ipv6(51, 24 + 8) +
                      from_hex("1104 0000 00000001 00000001 000000000000000000000000") + kUdp;
  EXPECT_EQ(parse_exactly(frame).l4_offset, 14 + 40 + 24);
}

TEST(Parse, Ipv6Fragments) {
  const Bytes start = kMacs + from_hex("86dd") + ipv6(44, 16);
  const ParsedHeaders first = parse_exactly(start + from_hex("1100 0001 00000007") + kUdp);
  EXPECT_TRUE(first.fragment);
  EXPECT_EQ(first.l4_offset, 62);
  const ParsedHeaders later = parse_exactly(start + from_hex("1100 0009 00000007") + kUdp);
  EXPECT_TRUE(later.fragment);
  EXPECT_EQ(later.ip_proto, 17);
  EXPECT_EQ(later.l4_offset, 0);
  const ParsedHeaders atomic = parse_exactly(start + from_hex("1100 0000 00000007") + kUdp);
  EXPECT_FALSE(atomic.fragment);
  EXPECT_EQ(atomic.l4_offset, 62);
}

TEST(Parse, Ipv6ChainsThatLeadNowhere) {
  const Bytes start = kMacs + from_hex("86dd");
  Bytes endless = start + ipv6(60, 1000);
  for (int i = 0; i < 125; ++i) endless = endless + from_hex("3c00 010400000000");
  EXPECT_EQ(parse_exactly(endless).l4_offset, 0) << "125 headers";
  EXPECT_EQ(parse_exactly(start + ipv6(60, 8) + from_hex("11ff 010400000000")).l4_offset, 0)
      << "longer than the packet";
  EXPECT_EQ(parse_exactly(start + ipv6(0, 4) + from_hex("1100 010400000000") + kUdp).l4_offset, 0)
      << "beyond the payload length";
  const ParsedHeaders none = parse_exactly(start + ipv6(59, 8) + Bytes(8));
  EXPECT_EQ(none.ip_proto, kIpv6NoNext);
  EXPECT_EQ(none.l4_offset, 0);
}

TEST(Parse, CutAnywhere) {
  const Bytes frame = kMacs + from_hex("8100 0001 86dd") + ipv6(0, 8 + 8 + 20 + 10) +
                      from_hex("2c00 010400000000") + from_hex("0600 0001 00000001") + kTcp +
                      Bytes(10, 'x');
  const ParsedHeaders whole = parse_exactly(frame);
  ASSERT_EQ(whole.payload_offset, 18 + 40 + 16 + 20);
  for (size_t size = 0; size < frame.size(); ++size) {
    const ParsedHeaders cut = parse_exactly(Bytes(frame.begin(), frame.begin() + size));
    EXPECT_EQ(cut.l3_offset, size < 18 ? 0 : 18) << size;
    EXPECT_EQ(cut.ip_version, size < 58 ? 0 : 6) << size;
    EXPECT_EQ(cut.l4_offset, size < 74 ? 0 : 74) << size;
    EXPECT_EQ(cut.payload_offset, size < 94 ? 0 : 94) << size;
  }
}

TEST(Parse, NoiseNeverLeadsOutside) {
  std::mt19937 random(4);
  const Bytes good = kMacs + from_hex("8100 0001 86dd") + ipv6(0, 200) +
                     from_hex("2c00 010400000000") + from_hex("0600 0001 00000001") + kTcp;
  for (int round = 0; round < 20000; ++round) {
    Bytes frame = good;
    for (int i = 0; i < 3; ++i) frame[12 + random() % (frame.size() - 12)] ^= random();
    frame.resize(random() % (frame.size() + 1));
    const ParsedHeaders headers = parse_exactly(frame);
    ASSERT_LE(headers.payload_offset, frame.size());
    ASSERT_LE(headers.l4_offset, frame.size());
    ASSERT_LE(headers.l3_offset, frame.size());
  }
}

TEST(Parse, LooksAtNoMoreThan65535Bytes) {
  EXPECT_EQ(parse_exactly(kMacs + from_hex("0800") + ipv4(17, 28) + kUdp + Bytes(70000)).l4_offset,
            34);
}

}  // namespace
}  // namespace pollux::net
