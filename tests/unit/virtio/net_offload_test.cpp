// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_offload.hpp"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/packets.hpp"

namespace pollux::virtio {
namespace {

using test::Bytes;
using test::from_hex;
using test::PacketMaker;
using test::operator+;

constexpr uint8_t kNeedsCsum = spec::VIRTIO_NET_HDR_F_NEEDS_CSUM;
constexpr uint8_t kTcp4 = spec::VIRTIO_NET_HDR_GSO_TCPV4;
constexpr uint8_t kTcp6 = spec::VIRTIO_NET_HDR_GSO_TCPV6;
constexpr uint8_t kUdpL4 = spec::VIRTIO_NET_HDR_GSO_UDP_L4;
constexpr uint8_t kEcn = spec::VIRTIO_NET_HDR_GSO_ECN;

/// Ethernet, IPv4 (at 14), TCP (at 34), payload (at 54).
Bytes tcp4(size_t payload) {
  Bytes frame = from_hex(
      "020000000002 020000000001 0800 4500 0000 1234 4000 4006 0000 0a000001 0a000002"
      "1000 1f90 00000001 00000002 5010 2000 0000 0000");
  test::put16(frame, 16, static_cast<uint32_t>(40 + payload));
  return frame + Bytes(payload, 'x');
}
Bytes tcp6(size_t payload) {
  Bytes frame = from_hex(
      "020000000002 020000000001 86dd 60000000 0000 06 40"
      "fd000000000000000000000000000001 fd000000000000000000000000000002"
      "1000 1f90 00000001 00000002 5010 2000 0000 0000");
  test::put16(frame, 18, static_cast<uint32_t>(20 + payload));
  return frame + Bytes(payload, 'x');
}
Bytes udp4(size_t payload) {
  Bytes frame = from_hex(
      "020000000002 020000000001 0800 4500 0000 1234 4000 4011 0000 0a000001 0a000002"
      "1000 1f90 0000 0000");
  test::put16(frame, 16, static_cast<uint32_t>(28 + payload));
  test::put16(frame, 38, static_cast<uint32_t>(8 + payload));
  return frame + Bytes(payload, 'x');
}

/// As Linux fills it for a TCP packet: hdr_len, gso_size, csum_start, csum_offset.
spec::virtio_net_hdr gso_header(uint8_t type, uint16_t start, uint16_t offset = 16,
                                uint16_t gso_size = 1448) {
  return {kNeedsCsum, type, static_cast<uint16_t>(start + 20), gso_size, start, offset, 0};
}

class NetOffloadTest : public testing::Test {
 protected:
  bool apply(const Bytes& frame, const spec::virtio_net_hdr& hdr) {
    Packet* packet = maker_.make(frame);
    const bool good = apply_offload(*packet, hdr);
    meta_ = packet->meta;
    maker_.cache().release(packet);
    EXPECT_TRUE(good || (!meta_.needs_csum && meta_.gso == GsoType::kNone));
    return good;
  }

  PacketMaker maker_;
  PacketMeta meta_;
};

TEST_F(NetOffloadTest, NothingAsked) {
  EXPECT_TRUE(apply(tcp4(10), {}));
  EXPECT_FALSE(meta_.needs_csum);
  EXPECT_EQ(meta_.gso, GsoType::kNone);
}

TEST_F(NetOffloadTest, ChecksumOfTcp) {
  EXPECT_TRUE(apply(tcp4(10), {kNeedsCsum, 0, 0, 0, 34, 16, 0}));
  EXPECT_TRUE(meta_.needs_csum);
  EXPECT_EQ(meta_.csum_start, 34);
  EXPECT_EQ(meta_.csum_offset, 16);
  EXPECT_EQ(meta_.l4_offset, 34);
  EXPECT_TRUE(meta_.parsed);
}

TEST_F(NetOffloadTest, ChecksumOfAnyProtocolAnywhereInThePacket) {
  const Bytes frame = from_hex("020000000002 020000000001 88b5") + Bytes(500);
  EXPECT_TRUE(apply(frame, {kNeedsCsum, 0, 0, 0, 14, 0, 0}));
  EXPECT_TRUE(apply(frame, {kNeedsCsum, 0, 0, 0, 300, 212, 0})) << "the last two bytes";
  EXPECT_EQ(meta_.csum_start, 300);
  EXPECT_EQ(meta_.csum_offset, 212);
}

TEST_F(NetOffloadTest, ChecksumFieldOutside) {
  const Bytes frame = from_hex("020000000002 020000000001 88b5") + Bytes(500);
  for (const auto& [start, offset] : std::vector<std::pair<uint16_t, uint16_t>>{{300, 213},
                                                                                {513, 0},
                                                                                {514, 0},
                                                                                {65535, 0},
                                                                                {65535, 65535},
                                                                                {14, 65535},
                                                                                {0, 0},
                                                                                {13, 16}}) {
    EXPECT_FALSE(apply(frame, {kNeedsCsum, 0, 0, 0, start, offset, 0})) << start << " + " << offset;
  }
  EXPECT_FALSE(apply(Bytes(), {kNeedsCsum, 0, 0, 0, 14, 0, 0}));
  EXPECT_FALSE(apply(Bytes(15), {kNeedsCsum, 0, 0, 0, 14, 0, 0}));
}

TEST_F(NetOffloadTest, TcpSegmentation) {
  EXPECT_TRUE(apply(tcp4(8000), gso_header(kTcp4, 34)));
  EXPECT_EQ(meta_.gso, GsoType::kTcp4);
  EXPECT_EQ(meta_.gso_size, 1448);
  EXPECT_TRUE(meta_.needs_csum);
  EXPECT_EQ(meta_.payload_offset, 54);
  EXPECT_FALSE(meta_.gso_ecn);
  EXPECT_TRUE(apply(tcp6(8000), gso_header(kTcp6, 54)));
  EXPECT_EQ(meta_.gso, GsoType::kTcp6);
}

TEST_F(NetOffloadTest, UdpSegmentation) {
  EXPECT_TRUE(apply(udp4(5000), gso_header(kUdpL4, 34, 6, 1400)));
  EXPECT_EQ(meta_.gso, GsoType::kUdp4);
}

TEST_F(NetOffloadTest, UdpFragmentation) {
  constexpr uint8_t kUdp = spec::VIRTIO_NET_HDR_GSO_UDP;
  EXPECT_TRUE(apply(udp4(5000), gso_header(kUdp, 34, 6, 1407)));
  EXPECT_EQ(meta_.gso, GsoType::kUfo4);
  EXPECT_EQ(meta_.gso_size, 1400) << "in units of 8 bytes";
  EXPECT_TRUE(apply(udp4(1392), gso_header(kUdp, 34, 6, 1400)));
  EXPECT_EQ(meta_.gso, GsoType::kNone) << "the UDP header counts, too, and it fits";
  EXPECT_TRUE(apply(udp4(1393), gso_header(kUdp, 34, 6, 1400)));
  EXPECT_EQ(meta_.gso, GsoType::kUfo4);
}

TEST_F(NetOffloadTest, NotMoreThan1024Segments) {
  EXPECT_TRUE(apply(tcp4(8 * 1024), gso_header(kTcp4, 34, 16, 8)));
  EXPECT_FALSE(apply(tcp4(8 * 1024 + 1), gso_header(kTcp4, 34, 16, 8)));
}

TEST_F(NetOffloadTest, EcnFollowsFromTheHeader) {
  Bytes frame = tcp4(8000);
  EXPECT_TRUE(apply(frame, gso_header(kTcp4 | kEcn, 34)));
  EXPECT_FALSE(meta_.gso_ecn);
  frame[47] |= 0x80;  // CWR
  EXPECT_TRUE(apply(frame, gso_header(kTcp4 | kEcn, 34)));
  EXPECT_TRUE(meta_.gso_ecn);
  EXPECT_TRUE(apply(frame, gso_header(kTcp4, 34)));
  EXPECT_TRUE(meta_.gso_ecn);
}

TEST_F(NetOffloadTest, HeaderLengthIsOnlyAHint) {
  for (const uint16_t hdr_len : {0, 1, 65535}) {
    auto hdr = gso_header(kTcp4, 34);
    hdr.hdr_len = hdr_len;
    EXPECT_TRUE(apply(tcp4(8000), hdr));
    EXPECT_EQ(meta_.payload_offset, 54);
  }
}

TEST_F(NetOffloadTest, WhatFitsIntoOneSegmentIsNoGso) {
  EXPECT_TRUE(apply(tcp4(1448), gso_header(kTcp4, 34)));
  EXPECT_EQ(meta_.gso, GsoType::kNone);
  EXPECT_TRUE(meta_.needs_csum);
  EXPECT_TRUE(apply(tcp4(1449), gso_header(kTcp4, 34)));
  EXPECT_EQ(meta_.gso, GsoType::kTcp4);
  EXPECT_TRUE(apply(tcp4(0), gso_header(kTcp4, 34)));
  EXPECT_EQ(meta_.gso, GsoType::kNone);
}

TEST_F(NetOffloadTest, ImpossibleSegmentation) {
  const Bytes good = tcp4(8000);
  struct Case {
    const char* what;
    spec::virtio_net_hdr hdr;
  };
  auto no_csum = gso_header(kTcp4, 34);
  no_csum.flags = 0;
  for (const Case& bad : {
           Case{"TCPv6 of an IPv4 packet", gso_header(kTcp6, 34)},
           Case{"UDP of a TCP packet", gso_header(kUdpL4, 34)},
           Case{"UDP fragmentation", gso_header(spec::VIRTIO_NET_HDR_GSO_UDP, 34)},
           Case{"type 2", gso_header(2, 34)},
           Case{"type 127", gso_header(127, 34)},
           Case{"ECN alone", gso_header(kEcn, 34)},
           Case{"gso_size 0", gso_header(kTcp4, 34, 16, 0)},
           Case{"gso_size 1", gso_header(kTcp4, 34, 16, 1)},
           Case{"without NEEDS_CSUM", no_csum},
           Case{"csum_start beside TCP", gso_header(kTcp4, 33)},
           Case{"csum_offset beside the checksum", gso_header(kTcp4, 34, 14)},
       }) {
    EXPECT_FALSE(apply(good, bad.hdr)) << bad.what;
  }
}

TEST_F(NetOffloadTest, SegmentationOfWhatItIsNot) {
  const auto hdr = gso_header(kTcp4, 34);
  Bytes frame = tcp4(8000);
  frame[20] = 0x20;
  EXPECT_FALSE(apply(frame, hdr)) << "a fragment";
  frame = tcp4(8000);
  frame[46] = 0x40;
  EXPECT_FALSE(apply(frame, hdr)) << "TCP header of 16 bytes";
  frame = tcp4(8000);
  test::put16(frame, 16, 8041);
  EXPECT_FALSE(apply(frame, hdr)) << "IP length above the frame's";
  test::put16(frame, 16, 8039);
  EXPECT_FALSE(apply(frame, hdr)) << "IP length below the frame's";
  frame = tcp4(8000);
  frame[12] = 0x08;
  frame[13] = 0x06;
  EXPECT_FALSE(apply(frame, hdr)) << "ARP";
  EXPECT_FALSE(apply(Bytes(8000), hdr)) << "zeros";
  EXPECT_FALSE(apply(Bytes(), hdr)) << "nothing";
}

TEST_F(NetOffloadTest, SegmentationBehindVlanTags) {
  Bytes frame = tcp4(8000);
  const Bytes tag = from_hex("8100 0064");
  frame.insert(frame.begin() + 12, tag.begin(), tag.end());
  EXPECT_TRUE(apply(frame, gso_header(kTcp4, 38)));
  EXPECT_EQ(meta_.gso, GsoType::kTcp4);
  EXPECT_EQ(meta_.vlan_tci, 100);
  EXPECT_FALSE(apply(frame, gso_header(kTcp4, 34)));
}

TEST_F(NetOffloadTest, AnyHeaderOnAnyFrame) {
  std::mt19937 random(7);
  const std::vector<Bytes> frames{tcp4(3000), tcp6(3000), udp4(3000), tcp4(4), Bytes(64), Bytes()};
  const auto pick = [&](std::initializer_list<uint32_t> usual) {
    const auto i = random() % (usual.size() + 1);
    return static_cast<uint16_t>(i < usual.size() ? usual.begin()[i] : random());
  };
  for (int round = 0; round < 20000; ++round) {
    const spec::virtio_net_hdr hdr{static_cast<uint8_t>(pick({0, 1, 1, 1})),
                                   static_cast<uint8_t>(pick({0, 1, 4, 5, 0x81})),
                                   pick({54, 74}),
                                   pick({1448, 8, 0}),
                                   pick({34, 54, 38}),
                                   pick({16, 6}),
                                   0};
    Bytes frame = frames[random() % frames.size()];
    if (!frame.empty() && random() % 2 == 0)
      frame[random() % std::min<size_t>(80, frame.size())] ^= 1 << random() % 8;
    if (!apply(frame, hdr)) continue;
    if (meta_.needs_csum) {
      ASSERT_LE(meta_.csum_start + meta_.csum_offset + 2u, frame.size());
    }
    if (meta_.gso != GsoType::kNone) {
      ASSERT_TRUE(meta_.needs_csum);
      ASSERT_GE(meta_.gso_size, 8);
      ASSERT_LT(meta_.payload_offset, frame.size());
      ASSERT_LE(meta_.payload_offset, Packet::kHeadCapacity);
    }
  }
}

}  // namespace
}  // namespace pollux::virtio
