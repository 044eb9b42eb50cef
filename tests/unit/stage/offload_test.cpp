// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/offload.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "pollux/net/checksum.hpp"
#include "pollux/packet/parse.hpp"
#include "tests/support/packets.hpp"
#include "tests/unit/stage/gso_reference.hpp"

namespace pollux::stage {
namespace {

using test::Bytes;
using test::from_hex;
using test::PacketMaker;
using test::operator+;

constexpr uint32_t kAll = kTxChecksum | kTxTso4 | kTxTso6 | kTxTsoEcn | kTxUso4 | kTxUso6 | kTxUfo;

TEST(ReadyFor, OffloadsThatTheReceiverLacks) {
  PacketMeta meta;
  EXPECT_TRUE(ready_for(meta, 0));
  meta.needs_csum = true;
  EXPECT_FALSE(ready_for(meta, 0));
  EXPECT_TRUE(ready_for(meta, kTxChecksum));
  const std::map<GsoType, uint32_t> bits{{GsoType::kTcp4, kTxTso4}, {GsoType::kTcp6, kTxTso6},
                                         {GsoType::kUdp4, kTxUso4}, {GsoType::kUdp6, kTxUso6},
                                         {GsoType::kUfo4, kTxUfo},  {GsoType::kUfo6, kTxUfo}};
  for (const auto& [gso, bit] : bits) {
    meta.gso = gso;
    meta.gso_ecn = false;
    EXPECT_FALSE(ready_for(meta, bit)) << "segments leave a checksum to the receiver";
    EXPECT_FALSE(ready_for(meta, kAll & ~bit));
    EXPECT_TRUE(ready_for(meta, bit | kTxChecksum));
    meta.gso_ecn = true;
    EXPECT_FALSE(ready_for(meta, bit | kTxChecksum));
    EXPECT_TRUE(ready_for(meta, bit | kTxChecksum | kTxTsoEcn));
  }
}

// Checksums ---------------------------------------------------------------------------------------

/// The Internet checksum word by word, 0xffff for 0.
uint16_t naive_checksum(const Bytes& bytes, size_t start) {
  uint32_t sum = 0;
  for (size_t i = start; i < bytes.size(); ++i) sum += bytes[i] << ((i - start) % 2 == 0 ? 8 : 0);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return sum == 0xffff ? 0xffff : static_cast<uint16_t>(~sum);
}

TEST(FillChecksum, OfUdpByHand) {
  // Pseudo header 0a00+0001+0a00+0002+0011+000a = 141e, in the field as a driver leaves it.
  // Sum from 34: 1000+1f90+000a+141e+6869 = ac21; complement 53de.
  PacketMaker maker;
  Packet* packet = maker.make(
      from_hex("020000000002 020000000001 0800 4500 001e 0001 0000 4011 66cc 0a000001 0a000002"
               "1000 1f90 000a 141e 6869"));
  packet->meta.needs_csum = true;
  packet->meta.csum_start = 34;
  packet->meta.csum_offset = 6;
  EXPECT_EQ(fill_checksum(*packet, maker.cache()), std::nullopt);
  EXPECT_EQ(test::get16(test::bytes_of(*packet), 40), 0x53deu);
  EXPECT_FALSE(packet->meta.needs_csum);
  maker.cache().release(packet);
}

TEST(FillChecksum, ZeroBecomesAllOnes) {
  // Sum from 14: fffe+0001 = ffff, whose complement is 0.
  PacketMaker maker;
  Packet* packet = maker.make(from_hex("020000000002 020000000001 88b5 fffe 0001"));
  packet->meta.needs_csum = true;
  packet->meta.csum_start = 14;
  packet->meta.csum_offset = 2;
  EXPECT_EQ(fill_checksum(*packet, maker.cache()), std::nullopt);
  EXPECT_EQ(test::get16(test::bytes_of(*packet), 16), 0xffffu);
  maker.cache().release(packet);
}

TEST(FillChecksum, WhereverThePacketIsSplit) {
  std::mt19937 random(8);
  PacketMaker maker;
  for (int round = 0; round < 1000; ++round) {
    const Bytes frame = test::random_bytes(20 + random() % 3000, random);
    const auto start = static_cast<uint16_t>(14 + random() % (frame.size() - 16));
    const auto offset = static_cast<uint16_t>(random() % (frame.size() - start - 1));
    Bytes expected = frame;
    test::put16(expected, start + offset, naive_checksum(frame, start));

    Packet* packet = maker.make_split(frame, 14, random);
    packet->meta.needs_csum = true;
    packet->meta.csum_start = start;
    packet->meta.csum_offset = offset;
    const bool in_head = start + offset + 2u <= packet->head_size();
    const std::vector<Segment> lent(packet->tail().begin(), packet->tail().end());
    ASSERT_EQ(fill_checksum(*packet, maker.cache()), std::nullopt);
    ASSERT_EQ(test::bytes_of(*packet), expected) << start << " + " << offset;

    EXPECT_EQ(packet->tail_owned(), !in_head && !lent.empty());
    size_t at = packet->head_size();
    for (const Segment& segment : lent) {
      ASSERT_EQ(std::memcmp(segment.data, frame.data() + at, segment.len), 0)
          << "the sender's memory was written";
      at += segment.len;
    }
    maker.cache().release(packet);
  }
}

TEST(FillChecksum, FieldOutsideThePacket) {
  PacketMaker maker;
  Packet* packet = maker.make(Bytes(100));
  for (const auto& [start, offset] : std::vector<std::pair<uint16_t, uint16_t>>{
           {34, 65}, {99, 0}, {100, 0}, {65535, 65535}, {0, 16}, {13, 0}}) {
    packet->meta.needs_csum = true;
    packet->meta.csum_start = start;
    packet->meta.csum_offset = offset;
    EXPECT_EQ(fill_checksum(*packet, maker.cache()), DropReason::bad_net_header);
  }
  EXPECT_EQ(test::bytes_of(*packet), Bytes(100));
  maker.cache().release(packet);
}

TEST(FillChecksum, NoBuffersToOwnThePacket) {
  PacketMaker maker(8, 1);
  Packet* packet = maker.make(Bytes(5000));  // needs three buffers
  packet->meta.needs_csum = true;
  packet->meta.csum_start = 300;
  EXPECT_EQ(fill_checksum(*packet, maker.cache()), DropReason::no_buffers);
  maker.cache().release(packet);
}

// Segmentation ------------------------------------------------------------------------------------

struct Emitted {
  Bytes bytes;
  PacketMeta meta;
  bool operator==(const Bytes& expected) const { return bytes == expected; }
};

std::vector<Emitted> segment(PacketMaker& maker, const Packet& packet, uint32_t offloads) {
  Segmenter segmenter(packet, offloads);
  EXPECT_EQ(segmenter.error(), std::nullopt);
  std::vector<Emitted> emitted;
  Burst out(maker.cache());
  while (!segmenter.done()) {
    EXPECT_EQ(segmenter.emit(out), std::nullopt);
    for (const Packet* made : out.packets()) {
      EXPECT_EQ(made->meta.gso, GsoType::kNone);
      EXPECT_TRUE(made->size() > Packet::kHeadCapacity || made->tail().empty());
      emitted.push_back({test::bytes_of(*made), made->meta});
    }
    out.clear();
  }
  EXPECT_EQ(segmenter.remaining(), 0u);
  return emitted;
}

Packet* gso_packet(PacketMaker& maker, const test::GsoFrame& frame, uint16_t gso_size,
                   std::mt19937* random = nullptr) {
  Packet* packet = random == nullptr ? maker.make(frame.bytes)
                                     : maker.make_split(frame.bytes, frame.payload, *random);
  packet->meta.gso = frame.gso;
  packet->meta.gso_size = gso_size;
  packet->meta.needs_csum = true;
  packet->meta.csum_start = static_cast<uint16_t>(frame.l4);
  packet->meta.csum_offset = frame.tcp() ? 16 : 6;
  return packet;
}

/// Head and tail may be split anywhere; the bytes are always those of the reference.
void compare_with_reference(uint32_t offloads) {
  std::mt19937 random(9);
  PacketMaker maker(4096);
  for (int round = 0; round < 600; ++round) {
    const test::GsoFrame frame = test::random_gso_frame(random);
    const auto gso_size =
        static_cast<uint16_t>(round % 5 == 0 ? 1 + random() % 60 : 60 + random() % 3000);
    Packet* packet = gso_packet(maker, frame, gso_size, &random);
    const auto expected = test::reference_segments(frame, gso_size, (offloads & kTxChecksum) != 0);
    const auto emitted = segment(maker, *packet, offloads);
    ASSERT_EQ(emitted.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(emitted[i].bytes, expected[i])
          << "round " << round << ", segment " << i << " of " << expected.size();
      ASSERT_EQ(emitted[i].meta.needs_csum, (offloads & kTxChecksum) != 0);
      ASSERT_EQ(emitted[i].meta.csum_start, frame.l4);
      ASSERT_EQ(emitted[i].meta.payload_offset, frame.payload);
    }
    ASSERT_EQ(test::bytes_of(*packet), frame.bytes) << "the original was changed";
    maker.cache().release(packet);
  }
}

TEST(Segmenter, LikeTheReferenceWithChecksums) { compare_with_reference(0); }

TEST(Segmenter, LikeTheReferenceWithChecksumsLeftToTheReceiver) {
  compare_with_reference(kTxChecksum);
}

TEST(Segmenter, FragmentsLikeTheReference) {
  std::mt19937 random(20);
  PacketMaker maker(4096);
  for (int round = 0; round < 600; ++round) {
    const test::GsoFrame frame = test::random_ufo_frame(random);
    const auto size = static_cast<uint16_t>((8 + random() % 3000) & ~7U);
    Packet* packet = gso_packet(maker, frame, size, &random);
    if (packet->segments_full() && packet->head_size() + 8 > Packet::kHeadCapacity) {
      maker.cache().release(packet);  // no room for the fragment header; no port makes such
      continue;
    }
    const auto expected = test::reference_fragments(frame, size);
    const auto emitted = segment(maker, *packet, round % 2 == 0 ? 0 : kTxChecksum);
    ASSERT_EQ(emitted.size(), expected.size());
    uint32_t id = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      Bytes bytes = emitted[i].bytes;
      if (!frame.v4()) {
        const uint32_t own = test::take_identification(bytes, frame.l3);
        if (i != 0) ASSERT_EQ(own, id) << "one datagram, one identification";
        id = own;
      }
      ASSERT_EQ(bytes, expected[i])
          << "round " << round << ", fragment " << i << " of " << expected.size();
      ASSERT_FALSE(emitted[i].meta.needs_csum);
    }
    ASSERT_EQ(test::bytes_of(*packet), frame.bytes) << "the original was changed";
    maker.cache().release(packet);
  }
}

TEST(Segmenter, OtherDatagramsHaveOtherIdentifications) {
  std::mt19937 random(21);
  PacketMaker maker;
  test::GsoFrame frame = test::gso_frame(GsoType::kUfo6, 4000, random);
  std::map<uint32_t, int> seen;
  for (int i = 0; i < 1000; ++i) {
    test::put16(frame.bytes, frame.payload + 3000, static_cast<uint32_t>(i));
    test::put16(frame.bytes, frame.payload + 3002, static_cast<uint32_t>(0xffff - i));  // same sum
    Packet* packet = gso_packet(maker, frame, 1448);
    Bytes first = segment(maker, *packet, 0).front().bytes;
    ++seen[test::take_identification(first, frame.l3)];
    maker.cache().release(packet);
  }
  EXPECT_GT(seen.size(), 995u);
}

/// RFC 8200, 4.5: hop-by-hop and routing headers are in each fragment, destination options behind
/// them are fragmented.
TEST(Segmenter, FragmentsBehindExtensionHeaders) {
  PacketMaker maker;
  const Bytes addresses =
      from_hex("fd000000000000000000000000000001 fd000000000000000000000000000002");
  const Bytes headers = from_hex("020000000002 020000000001 86dd 60000000 0030 00 40") + addresses +
                        from_hex(
                            "2b00 0104 00000000"    // hop-by-hop: next is routing
                            "3c00 0000 00000000"    // routing: next is destination options
                            "1100 0104 00000000");  // destination options: next is UDP
  const Bytes datagram = from_hex("1000 1f90 0018 1234") + Bytes(16, 'x');
  Packet* packet = maker.make(headers + datagram);
  packet->meta.gso = GsoType::kUfo6;
  packet->meta.gso_size = 16;
  const auto emitted = segment(maker, *packet, 0);
  ASSERT_EQ(emitted.size(), 2u);
  Bytes first = emitted[0].bytes;
  Bytes second = emitted[1].bytes;
  const Bytes id(first.begin() + 74, first.begin() + 78);
  const Bytes per_fragment = from_hex("020000000002 020000000001 86dd 60000000 0028 00 40") +
                             addresses + from_hex("2b00 0104 00000000 2c00 0000 00000000");
  EXPECT_EQ(first, per_fragment + from_hex("3c00 0001") + id + from_hex("1100 0104 00000000") +
                       Bytes(datagram.begin(), datagram.begin() + 8));
  EXPECT_EQ(second, per_fragment + from_hex("3c00 0010") + id + Bytes(16, 'x'));
  maker.cache().release(packet);
}

TEST(Segmenter, SixtyFourKilobytesInSmallestPieces) {
  std::mt19937 random(10);
  PacketMaker maker;
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 65495, random);
  Packet* packet = gso_packet(maker, frame, 1);
  const auto emitted = segment(maker, *packet, 0);
  ASSERT_EQ(emitted.size(), 65495u);
  EXPECT_EQ(emitted.back().bytes, test::reference_segment(frame, 1, 65494, false));
  EXPECT_EQ(emitted[40000].bytes, test::reference_segment(frame, 1, 40000, false));
  maker.cache().release(packet);
}

TEST(Segmenter, PayloadThatFitsIntoOneSegment) {
  std::mt19937 random(11);
  PacketMaker maker;
  for (const size_t payload : {0, 1, 1000}) {
    const test::GsoFrame frame = test::gso_frame(GsoType::kTcp6, payload, random);
    Packet* packet = gso_packet(maker, frame, 1000);
    const auto emitted = segment(maker, *packet, 0);
    ASSERT_EQ(emitted.size(), 1u);
    EXPECT_EQ(emitted[0].bytes, test::reference_segment(frame, 1000, 0, false));
    maker.cache().release(packet);
  }
}

TEST(Segmenter, ChecksumWithoutAPseudoHeaderFromTheSender) {
  std::mt19937 random(12);
  PacketMaker maker;
  for (const GsoType gso : {GsoType::kTcp4, GsoType::kTcp6, GsoType::kUdp4, GsoType::kUdp6}) {
    test::GsoFrame frame = test::gso_frame(gso, 5000, random);
    Packet* packet = gso_packet(maker, frame, 1400);
    packet->meta.needs_csum = false;
    std::memset(packet->head() + frame.checksum_field(), 0xab, 2);
    const auto emitted = segment(maker, *packet, 0);
    EXPECT_EQ(emitted[1].bytes, test::reference_segment(frame, 1400, 1, false));
    maker.cache().release(packet);
  }
}

TEST(Segmenter, EmptyPoolIsNoEnd) {
  std::mt19937 random(13);
  PacketMaker maker(4);
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 5000, random);
  Packet* packet = gso_packet(maker, frame, 1000);
  Segmenter segmenter(*packet, 0);
  Burst out(maker.cache());
  EXPECT_EQ(segmenter.emit(out), DropReason::no_packets);
  EXPECT_EQ(out.size(), 3u);
  EXPECT_EQ(segmenter.remaining(), 2u);
  out.clear();
  EXPECT_EQ(segmenter.emit(out), std::nullopt);
  EXPECT_EQ(out.size(), 2u);
  EXPECT_EQ(test::bytes_of(out[1]), test::reference_segment(frame, 1000, 4, false));
  maker.cache().release(packet);
}

TEST(Segmenter, WhatCanNotBeSegmented) {
  std::mt19937 random(14);
  PacketMaker maker;
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 5000, random);
  const auto error = [&](auto change) {
    Packet* packet = gso_packet(maker, frame, 1400);
    change(*packet);
    Segmenter segmenter(*packet, 0);
    const auto found = segmenter.error();
    EXPECT_EQ(segmenter.remaining(), found ? 1u : 4u);
    EXPECT_EQ(segmenter.done(), false);
    maker.cache().release(packet);
    return found;
  };
  const auto bad = DropReason::bad_net_header;
  const size_t l3 = frame.l3;
  EXPECT_EQ(error([](Packet&) {}), std::nullopt);
  EXPECT_EQ(error([](Packet& p) { p.meta.gso_size = 0; }), bad);
  EXPECT_EQ(error([](Packet& p) { p.meta.gso = GsoType::kTcp6; }), bad);
  EXPECT_EQ(error([](Packet& p) { p.meta.gso = GsoType::kUdp4; }), bad);
  EXPECT_EQ(error([&](Packet& p) { p.head()[l3 + 6] = std::byte{0x20}; }), bad) << "fragment";
  EXPECT_EQ(error([&](Packet& p) { p.head()[l3 + 3] ^= std::byte{1}; }), bad) << "length";
  EXPECT_EQ(error([&](Packet& p) { p.head()[l3] = std::byte{0x44}; }), bad) << "IP header";
  EXPECT_EQ(error([&](Packet& p) { p.head()[frame.l4 + 12] = std::byte{0x40}; }), bad) << "TCP";
}

TEST(Segmenter, HeadersBeyondTheHead) {
  std::mt19937 random(15);
  PacketMaker maker;
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp6, 5000, random);
  for (size_t head = 0; head <= frame.payload; ++head) {
    Packet* packet = maker.make(frame.bytes, head, {});
    packet->meta.gso = frame.gso;
    packet->meta.gso_size = 1400;
    packet->meta.needs_csum = true;
    EXPECT_EQ(Segmenter(*packet, 0).error().has_value(), head < frame.payload) << head;
    maker.cache().release(packet);
  }
}

// Both, for a burst -------------------------------------------------------------------------------

class FinalizeTest : public testing::Test {
 protected:
  void run(uint32_t offloads) {
    finalize(
        burst_, offloads, out_, held_,
        [&](Burst& packets) -> std::optional<DropReason> {
          ++calls_;
          for (Packet* packet : packets.packets()) got_.push_back(test::bytes_of(*packet));
          return stop_;
        },
        [&](DropReason reason, size_t count) { dropped_[reason] += count; });
    EXPECT_TRUE(burst_.empty());
    EXPECT_TRUE(out_.empty());
  }

  std::mt19937 random_{16};
  PacketMaker maker_;
  Burst burst_{maker_.cache()};
  Burst out_{maker_.cache()};
  Burst held_{maker_.cache()};
  std::vector<Bytes> got_;
  std::map<DropReason, size_t> dropped_;
  std::optional<DropReason> stop_;
  int calls_ = 0;
};

TEST_F(FinalizeTest, KeepsOrder) {
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 100000 / 2, random_);
  const Bytes plain = test::random_bytes(60, random_);
  Bytes unsummed = test::random_bytes(300, random_);
  burst_.push(maker_.make(plain));
  burst_.push(gso_packet(maker_, frame, 500));
  burst_.push(maker_.make(unsummed));
  burst_[2].meta.needs_csum = true;
  burst_[2].meta.csum_start = 34;
  burst_[2].meta.csum_offset = 16;
  EXPECT_FALSE(ready_for(burst_, 0));
  EXPECT_TRUE(ready_for(burst_, kAll));
  run(0);
  ASSERT_EQ(got_.size(), 102u);
  EXPECT_EQ(calls_, 2);
  EXPECT_EQ(got_[0], plain);
  EXPECT_EQ(std::vector<Bytes>(got_.begin() + 1, got_.end() - 1),
            test::reference_segments(frame, 500, false));
  test::put16(unsummed, 50, naive_checksum(unsummed, 34));
  EXPECT_EQ(got_.back(), unsummed);
  EXPECT_EQ(held_.size(), 1u);
  EXPECT_TRUE(dropped_.empty());
}

TEST_F(FinalizeTest, WhatTheReceiverTakesPassesUntouched) {
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 5000, random_);
  burst_.push(gso_packet(maker_, frame, 500));
  run(kAll);
  EXPECT_EQ(got_, std::vector<Bytes>{frame.bytes});
  EXPECT_TRUE(held_.empty());
}

TEST_F(FinalizeTest, AFullReceiverEndsTheWork) {
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 60000, random_);
  burst_.push(gso_packet(maker_, frame, 10));
  stop_ = DropReason::receiver_ring_full;
  run(0);
  EXPECT_EQ(calls_, 1);
  EXPECT_EQ(got_.size(), Burst::kCapacity);
  EXPECT_EQ(dropped_[DropReason::receiver_ring_full], 6000 - Burst::kCapacity);
}

TEST_F(FinalizeTest, BadPacketsAreDroppedOthersPass) {
  const Bytes plain = test::random_bytes(60, random_);
  burst_.push(maker_.make(plain));
  burst_[0].meta.gso = GsoType::kTcp4;
  burst_[0].meta.gso_size = 100;
  burst_.push(maker_.make(plain));
  burst_[1].meta.needs_csum = true;
  burst_[1].meta.csum_start = 60;
  burst_.push(maker_.make(plain));
  run(0);
  EXPECT_EQ(got_, std::vector<Bytes>{plain});
  EXPECT_EQ(dropped_[DropReason::bad_net_header], 2u);
}

TEST_F(FinalizeTest, SmallPoolGoesRound) {
  PacketMaker small(8, 16);
  const test::GsoFrame frame = test::gso_frame(GsoType::kTcp4, 10000, random_);
  Burst burst(small.cache());
  Burst out(small.cache());
  Burst held(small.cache());
  burst.push(gso_packet(small, frame, 100));
  std::vector<Bytes> got;
  finalize(
      burst, 0, out, held,
      [&](Burst& packets) -> std::optional<DropReason> {
        for (Packet* packet : packets.packets()) got.push_back(test::bytes_of(*packet));
        return std::nullopt;
      },
      [](DropReason, size_t) { ADD_FAILURE(); });
  EXPECT_EQ(got, test::reference_segments(frame, 100, false));
}

}  // namespace
}  // namespace pollux::stage
