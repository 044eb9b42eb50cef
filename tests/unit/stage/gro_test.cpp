// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/gro.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "pollux/stage/gso.hpp"
#include "tests/support/packets.hpp"
#include "tests/unit/stage/gso_reference.hpp"

namespace pollux::stage {
namespace {

using test::Bytes;
using test::get16;
using test::put16;
using test::word_sum;
using test::operator+;

constexpr uint32_t kTso = kTxTso4 | kTxTso6;
constexpr uint8_t kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 0x10, kUrg = 0x20, kEce = 0x40,
                  kCwr = 0x80;

TEST(Joinable, WhatTheReceiverTakesLargeAndTheSenderDoesNotGive) {
  constexpr uint32_t kAll = kTxJoin | kTxChecksum | kTso;
  EXPECT_EQ(joinable(kAll, nullptr), kTso);
  EXPECT_EQ(joinable(kAll & ~kTxTso6, nullptr), kTxTso4);
  EXPECT_EQ(joinable(kAll & ~kTxJoin, nullptr), 0u);
  std::atomic<uint32_t> large{kTxTso4};
  EXPECT_EQ(joinable(kAll, &large), kTxTso6);
  large = kTso;
  EXPECT_EQ(joinable(kAll, &large), 0u);
}

/// A large frame, and the segments that are sent instead of it.
struct Stream {
  test::GsoFrame frame;
  bool partial = false;
  std::vector<Bytes> segments;

  void put_flags(Bytes& segment, uint8_t flags) const { segment[frame.l4 + 13] = flags; }

  /// Makes lengths and checksums right again after something was changed.
  void mend(Bytes& segment) const {
    test::GsoFrame now = frame;
    now.bytes = segment;
    const size_t size = segment.size() - frame.l3;
    put16(now.bytes, frame.l3 + (frame.v4() ? 2 : 4),
          static_cast<uint32_t>(frame.v4() ? size : size - 40));
    const uint8_t flags = segment[frame.l4 + 13];
    const uint32_t id = get16(segment, frame.l3 + 4);
    segment = test::reference_segment(now, 65536, 0, partial);
    EXPECT_EQ(segment[frame.l4 + 13] & ~kCwr, flags & ~kCwr);
    if (frame.v4()) {
      EXPECT_EQ(get16(segment, frame.l3 + 4), id);
    }
  }
};

Stream stream(GsoType gso, size_t payload, size_t size, bool partial, std::mt19937& random,
              size_t options = 12, size_t tags = 0, uint8_t flags = kAck | kPsh) {
  Stream made{test::gso_frame(gso, payload, random, options, tags), partial, {}};
  made.put_flags(made.frame.bytes, flags);
  made.segments = test::reference_segments(made.frame, size, partial);
  return made;
}

class GroTest : public testing::Test {
 protected:
  Packet* packet(const Bytes& bytes, size_t l4 = 0) {
    Packet* made = maker_.make(bytes);
    if (l4 == 0) return made;
    made->meta.needs_csum = true;
    made->meta.csum_start = static_cast<uint16_t>(l4);
    made->meta.csum_offset = 16;
    return made;
  }
  void push(const Stream& stream, const Bytes& segment) {
    burst_.push(packet(segment, stream.partial ? stream.frame.l4 : 0));
  }
  void push_all(const Stream& stream) {
    for (const Bytes& segment : stream.segments) push(stream, segment);
  }

  Joiner::Counts join(uint32_t types = kTso) {
    inputs_.clear();
    for (const Packet* packet : burst_.packets()) inputs_.push_back(test::bytes_of(*packet));
    return joiner_.join(burst_, types);
  }

  /// The burst with joined packets cut again.
  std::vector<Bytes> cut() {
    std::vector<Bytes> all;
    for (Packet* packet : burst_.packets()) {
      if (packet->meta.gso == GsoType::kNone) {
        all.push_back(test::bytes_of(*packet));
        continue;
      }
      // What was joined is asked for in the shape in which it came.
      Segmenter segmenter(*packet, partial_ ? kTxChecksum : 0);
      EXPECT_EQ(segmenter.error(), std::nullopt);
      while (!segmenter.done()) {
        Burst out(maker_.cache());
        EXPECT_EQ(segmenter.emit(out), std::nullopt);
        for (const Packet* segment : out.packets()) all.push_back(test::bytes_of(*segment));
      }
    }
    return all;
  }

  void expect_nothing_joined(const std::string& what) {
    const auto counts = join();
    EXPECT_EQ(counts.packets, 0u) << what;
    EXPECT_EQ(counts.segments, 0u) << what;
    EXPECT_EQ(cut(), inputs_) << what;
    EXPECT_EQ(burst_.size(), inputs_.size()) << what;
    clear();
  }
  void clear() {
    burst_.clear();
    joiner_.release();
  }
  void TearDown() override { clear(); }

  std::mt19937 random_{8};
  bool partial_ = false;
  test::PacketMaker maker_;
  Burst burst_{maker_.cache()};
  Joiner joiner_{maker_.cache()};
  std::vector<Bytes> inputs_;
};

TEST_F(GroTest, MakesTheFrameThatWasCut) {
  for (const GsoType gso : {GsoType::kTcp4, GsoType::kTcp6}) {
    for (const bool partial : {false, true}) {
      for (const size_t tags : {0, 1, 2}) {
        for (const size_t options : {0, 12, 40}) {
          const auto sent = stream(gso, 4 * 1400 + 77, 1400, partial, random_, options, tags);
          push_all(sent);
          const auto counts = join();
          EXPECT_EQ(counts.segments, 5u);
          EXPECT_EQ(counts.packets, 1u);
          ASSERT_EQ(burst_.size(), 1u);
          EXPECT_EQ(test::bytes_of(burst_[0]), sent.frame.bytes);
          const PacketMeta& meta = burst_[0].meta;
          EXPECT_EQ(meta.gso, gso);
          EXPECT_EQ(meta.gso_size, 1400u);
          EXPECT_TRUE(meta.needs_csum);
          EXPECT_FALSE(meta.gso_ecn);
          EXPECT_EQ(meta.csum_start, sent.frame.l4);
          EXPECT_EQ(meta.csum_offset, 16u);
          EXPECT_EQ(meta.payload_offset, sent.frame.payload);
          partial_ = partial;
          EXPECT_EQ(cut(), sent.segments);
          clear();
        }
      }
    }
  }
}

TEST_F(GroTest, OnlyTheTypesThatAreWanted) {
  const auto v4 = stream(GsoType::kTcp4, 3000, 1000, false, random_);
  const auto v6 = stream(GsoType::kTcp6, 3000, 1000, false, random_);
  push_all(v4);
  push_all(v6);
  EXPECT_EQ(join(kTxTso6).packets, 1u);
  ASSERT_EQ(burst_.size(), 4u);
  EXPECT_EQ(burst_[3].meta.gso, GsoType::kTcp6);
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, FlagsOfTheLastAreKept) {
  for (const uint8_t flags :
       {kAck + 0, kAck | kPsh, kAck | kFin, kAck | kFin | kPsh, kAck | kEce}) {
    const auto sent =
        stream(GsoType::kTcp4, 3000, 1000, false, random_, 12, 0, static_cast<uint8_t>(flags));
    push_all(sent);
    EXPECT_EQ(join().segments, 3u);
    EXPECT_EQ(burst_[0].head()[sent.frame.l4 + 13], std::byte{static_cast<uint8_t>(flags)});
    EXPECT_EQ(cut(), inputs_);
    clear();
  }
}

TEST_F(GroTest, SequenceAndIdentificationCountOverZero) {
  auto sent = stream(GsoType::kTcp4, 4000, 1000, false, random_);
  put16(sent.frame.bytes, sent.frame.l3 + 4, 0xfffe);
  put16(sent.frame.bytes, sent.frame.l4 + 4, 0xffff);
  put16(sent.frame.bytes, sent.frame.l4 + 6, 0xf800);
  sent.segments = test::reference_segments(sent.frame, 1000, false);
  push_all(sent);
  EXPECT_EQ(join().segments, 4u);
  EXPECT_EQ(cut(), inputs_);
}

// Each changes the second of three segments (or the packet made of it) so that it is not what
// segmentation makes of the first.
TEST_F(GroTest, WhatSegmentationWouldNotMakeIsLeftAlone) {
  struct Change {
    const char* what;
    std::function<void(const Stream&, Bytes&)> change;
    bool mended = true;
    bool v4_only = false;
  };
  const auto at3 = [](size_t offset, uint8_t bits) {
    return [=](const Stream& s, Bytes& b) { b[s.frame.l3 + offset] ^= bits; };
  };
  const auto at4 = [](size_t offset, uint8_t bits) {
    return [=](const Stream& s, Bytes& b) { b[s.frame.l4 + offset] ^= bits; };
  };
  const std::vector<Change> changes{
      {"SYN", at4(13, kSyn)},
      {"RST", at4(13, kRst)},
      {"URG", at4(13, kUrg)},
      {"CWR", [](const Stream& s, Bytes& b) { b[s.frame.l4 + 13] ^= kCwr; }, false},
      {"ECE", at4(13, kEce)},
      {"no ACK", at4(13, kAck)},
      {"reserved bit", at4(12, 1)},
      {"source port", at4(1, 1)},
      {"destination port", at4(3, 1)},
      {"behind a gap", at4(7, 1)},
      {"acknowledgment", at4(11, 1)},
      {"window", at4(15, 1)},
      {"urgent pointer", at4(19, 1)},
      {"options", at4(20, 1)},
      {"destination address", [](const Stream&, Bytes& b) { b[5] ^= 1; }},
      {"source address", [](const Stream&, Bytes& b) { b[11] ^= 1; }},
      {"VLAN", [](const Stream&, Bytes& b) { b[15] ^= 1; }},
      {"TCP checksum", at4(16, 1), false},
      {"payload", [](const Stream&, Bytes& b) { b.back() ^= 1; }, false},
      {"type of service or traffic class", at3(1, 0x10)},
      {"time to live",
       [](const Stream& s, Bytes& b) { b[s.frame.l3 + (s.frame.v4() ? 8 : 7)] ^= 1; }},
      {"IP source",
       [](const Stream& s, Bytes& b) { b[s.frame.l3 + (s.frame.v4() ? 12 : 8)] ^= 1; }},
      {"IP destination", [](const Stream& s, Bytes& b) { b[s.frame.l4 - 1] ^= 1; }},
      {"identification", at3(5, 1), true, true},
      {"DF", at3(6, 0x40), true, true},
      {"reserved IP flag", at3(6, 0x80), true, true},
      {"IP checksum", at3(10, 1), false, true},
      {"bytes behind the IP packet", [](const Stream&, Bytes& b) { b.push_back(0); }, false},
      {"longer than the first", [](const Stream&, Bytes& b) { b.push_back(0); }},
  };
  for (const GsoType gso : {GsoType::kTcp4, GsoType::kTcp6}) {
    for (const Change& change : changes) {
      if (change.v4_only && gso == GsoType::kTcp6) continue;
      auto sent = stream(gso, 3000, 1000, false, random_, 12, 1, kAck);
      change.change(sent, sent.segments[1]);
      if (change.mended) sent.mend(sent.segments[1]);
      push_all(sent);
      expect_nothing_joined(change.what);
    }
  }
}

TEST_F(GroTest, AnAllOnesChecksumIsNotWhatSegmentationMakes) {
  // The payload's last two bytes make the sum come out as zero, of which 0xffff is the other name.
  auto sent = stream(GsoType::kTcp4, 2000, 1000, false, random_, 12, 0, kAck);
  Bytes& second = sent.segments[1];
  put16(second, second.size() - 2, 0);
  sent.mend(second);
  put16(second, second.size() - 2, get16(second, sent.frame.l4 + 16));
  sent.mend(second);
  ASSERT_EQ(get16(second, sent.frame.l4 + 16), 0u);
  push_all(sent);
  EXPECT_EQ(join().segments, 2u);
  EXPECT_EQ(cut(), inputs_);
  clear();
  put16(second, sent.frame.l4 + 16, 0xffff);
  push_all(sent);
  expect_nothing_joined("0xffff");
}

TEST_F(GroTest, IdentificationsThatStandStill) {
  auto sent = stream(GsoType::kTcp4, 3000, 1000, false, random_);
  for (Bytes& segment : sent.segments) {
    put16(segment, sent.frame.l3 + 4, 0);
    sent.mend(segment);
  }
  push_all(sent);
  expect_nothing_joined("fixed identification");
}

TEST_F(GroTest, IpOptionsAndFragments) {
  auto options = stream(GsoType::kTcp4, 2000, 1000, false, random_);
  for (Bytes& segment : options.segments) {
    segment[14] = 0x46;
    segment.insert(segment.begin() + 34, 4, 1);
    put16(segment, 16, static_cast<uint32_t>(segment.size() - 14));
    put16(segment, 24, 0);
    put16(segment, 24, ~word_sum(Bytes(segment.begin() + 14, segment.begin() + 38)));
  }
  push_all(options);
  expect_nothing_joined("IP options");
  auto fragments = stream(GsoType::kTcp4, 2000, 1000, false, random_);
  for (Bytes& segment : fragments.segments) {
    put16(segment, 20, 0x2000);
    fragments.mend(segment);
  }
  push_all(fragments);
  expect_nothing_joined("fragments");
  auto extended = stream(GsoType::kTcp6, 2000, 1000, false, random_);
  for (Bytes& segment : extended.segments) {
    const Bytes extension{6, 0, 1, 4, 0, 0, 0, 0};  // destination options: padding
    segment[20] = 60;
    segment.insert(segment.begin() + 54, extension.begin(), extension.end());
    put16(segment, 18, get16(segment, 18) + 8);
  }
  push_all(extended);
  expect_nothing_joined("IPv6 extension headers");
}

TEST_F(GroTest, NoPayload) {
  auto sent = stream(GsoType::kTcp4, 3000, 1000, false, random_, 12, 0, kAck);
  for (Bytes& segment : sent.segments) {
    segment.resize(sent.frame.payload);
    sent.mend(segment);
  }
  push_all(sent);
  expect_nothing_joined("pure acknowledgements");
}

TEST_F(GroTest, PartialChecksums) {
  auto sent = stream(GsoType::kTcp4, 3000, 1000, true, random_);
  partial_ = true;
  sent.segments[1][sent.frame.l4 + 17] ^= 1;  // not the pseudo header's sum
  push_all(sent);
  expect_nothing_joined("wrong pseudo header");

  sent = stream(GsoType::kTcp4, 3000, 1000, true, random_);
  push_all(sent);
  burst_[1].meta.csum_offset = 18;
  EXPECT_EQ(join().packets, 0u);
  clear();

  const auto complete = test::reference_segments(sent.frame, 1000, false);
  push(sent, sent.segments[0]);
  burst_.push(packet(complete[1]));
  push(sent, sent.segments[2]);
  EXPECT_EQ(join().packets, 0u) << "complete among partial ones";
}

TEST_F(GroTest, LargePacketsStayAsTheyAre) {
  const auto sent = stream(GsoType::kTcp4, 3000, 1000, true, random_);
  push_all(sent);
  burst_[1].meta.gso = GsoType::kTcp4;
  burst_[1].meta.gso_size = 500;
  EXPECT_EQ(join().packets, 0u);
  EXPECT_EQ(burst_.size(), 3u);
}

TEST_F(GroTest, PushEndsAPacket) {
  auto sent = stream(GsoType::kTcp4, 6000, 1000, false, random_, 12, 0, kAck);
  for (const size_t i : {1, 2}) {
    sent.put_flags(sent.segments[i], kAck | kPsh);
    sent.mend(sent.segments[i]);
  }
  push_all(sent);
  EXPECT_EQ(join().segments, 5u);  // 0 1 | 2 | 3 4 5
  ASSERT_EQ(burst_.size(), 3u);
  EXPECT_EQ(burst_[1].meta.gso, GsoType::kNone);
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, AShortSegmentEndsAPacket) {
  const auto sent = stream(GsoType::kTcp4, 6000, 1000, false, random_, 12, 0, kAck);
  const auto other = stream(GsoType::kTcp4, 2500, 1000, false, random_, 12, 0, kAck);
  push_all(other);
  push_all(sent);
  Bytes follows = other.segments[2];  // after the short one, in sequence
  const uint32_t sequence = get16(follows, other.frame.l4 + 6) + 500;
  put16(follows, other.frame.l4 + 6, sequence);
  put16(follows, other.frame.l4 + 4, get16(follows, other.frame.l4 + 4) + (sequence >> 16));
  put16(follows, other.frame.l3 + 4, get16(follows, other.frame.l3 + 4) + 1);
  other.mend(follows);
  push(other, follows);
  EXPECT_EQ(join().segments, 9u);
  ASSERT_EQ(burst_.size(), 3u);
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, ReorderedAndRepeatedOnes) {
  const auto sent = stream(GsoType::kTcp4, 5000, 1000, false, random_, 12, 0, kAck);
  for (const size_t i : {0, 2, 1, 3, 4}) push(sent, sent.segments[i]);
  EXPECT_EQ(join().segments, 2u);  // 0 | 2 | 1 | 3 4
  EXPECT_EQ(cut(), inputs_);
  clear();
  for (const size_t i : {0, 1, 1, 2}) push(sent, sent.segments[i]);
  EXPECT_EQ(join().segments, 4u);  // 0 1 | 1 2
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, NothingOvertakesInItsConnection) {
  const auto sent = stream(GsoType::kTcp4, 4000, 1000, false, random_, 12, 0, kAck);
  Bytes ack = sent.segments[0];
  ack.resize(sent.frame.payload);
  sent.mend(ack);
  push(sent, sent.segments[0]);
  push(sent, sent.segments[1]);
  push(sent, ack);
  push(sent, sent.segments[2]);
  push(sent, sent.segments[3]);
  EXPECT_EQ(join().packets, 2u);
  ASSERT_EQ(burst_.size(), 3u);
  EXPECT_EQ(test::bytes_of(burst_[1]), ack);
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, AFragmentMayBeAnybodys) {
  const auto sent = stream(GsoType::kTcp4, 4000, 1000, false, random_, 12, 0, kAck);
  Bytes fragment = sent.segments[1];
  put16(fragment, sent.frame.l3 + 6, 100);
  push(sent, sent.segments[0]);
  push(sent, sent.segments[1]);
  push(sent, fragment);
  push(sent, sent.segments[2]);
  push(sent, sent.segments[3]);
  EXPECT_EQ(join().packets, 2u);
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, ManyConnectionsAtOnce) {
  std::vector<Stream> streams;
  for (int i = 0; i < 8; ++i) {
    streams.push_back(stream(i % 2 == 0 ? GsoType::kTcp4 : GsoType::kTcp6, 7000, 1000, false,
                             random_, 12, 0, kAck));
  }
  const Bytes datagram = test::gso_frame(GsoType::kUdp4, 100, random_).bytes;
  for (size_t n = 0; n < 7; ++n) {
    for (const Stream& stream : streams) push(stream, stream.segments[n]);
    burst_.push(packet(datagram));
  }
  EXPECT_EQ(join().packets, 8u);
  ASSERT_EQ(burst_.size(), 8u + 7u);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(test::bytes_of(burst_[i]), streams[i].frame.bytes);
}

TEST_F(GroTest, NoLongerThanAnIpPacketMayBe) {
  const auto sent = stream(GsoType::kTcp4, 64 * 1448, 1448, true, random_, 12, 0, kAck);
  push_all(sent);  // the frame's own length does not fit its field, which nobody looks at
  EXPECT_EQ(join().segments, 64u);
  ASSERT_EQ(burst_.size(), 2u);
  EXPECT_EQ(burst_[0].size(), 66u + 45 * 1448);
  partial_ = true;
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, TheListOfALongTailIsLent) {
  const auto sent = stream(GsoType::kTcp4, 40 * 1400, 1400, false, random_);
  push_all(sent);
  EXPECT_EQ(join().segments, 40u);
  ASSERT_EQ(burst_.size(), 1u);
  EXPECT_GT(burst_[0].tail().size(), Packet::kMaxSegments);
  Packet* clone = maker_.cache().clone_borrowing(burst_[0]);
  EXPECT_EQ(test::bytes_of(*clone), sent.frame.bytes);
  ASSERT_TRUE(maker_.cache().make_owned(*clone));
  clear();
  EXPECT_EQ(test::bytes_of(*clone), sent.frame.bytes);
  maker_.cache().release(clone);
}

TEST_F(GroTest, TailsInPiecesWithoutNumber) {
  const auto sent = stream(GsoType::kTcp4, 64 * 900, 900, false, random_, 12, 0, kAck);
  for (const Bytes& segment : sent.segments) {
    std::vector<size_t> cuts;
    for (size_t at = 20; at < 800; at += 25) cuts.push_back(at);
    burst_.push(maker_.make(segment, 80, cuts));
  }
  const auto counts = join();
  EXPECT_GE(counts.packets, 2u);
  for (const Packet* packet : burst_.packets()) {
    EXPECT_LE(packet->tail().size(), Packet::kMaxLentSegments);
  }
  EXPECT_EQ(cut(), inputs_);
}

TEST_F(GroTest, WithoutPacketsAllStaysAsItIs) {
  const auto sent = stream(GsoType::kTcp4, 3000, 1000, false, random_);
  push_all(sent);
  std::vector<Packet*> taken;
  while (Packet* packet = maker_.cache().allocate()) taken.push_back(packet);
  expect_nothing_joined("an empty pool");
  for (Packet* packet : taken) maker_.cache().release(packet);
}

/// Addresses and ports of a TCP frame; empty for others.
Bytes connection_of(const Bytes& bytes) {
  size_t l3 = 14;
  while (get16(bytes, l3 - 2) == 0x8100) l3 += 4;
  const bool v4 = get16(bytes, l3 - 2) == 0x0800;
  if (bytes[l3 + (v4 ? 9 : 6)] != 6) return {};
  const auto from = bytes.begin() + static_cast<long>(l3);
  return Bytes(from + (v4 ? 12 : 8), from + (v4 ? 24 : 44));
}

// Streams with everything that may happen to them, mixed: cut again they are what they were.
TEST_F(GroTest, RandomBurstsAreTheSameBytesAfterCuttingAgain) {
  size_t joined = 0;
  size_t seen = 0;
  for (int round = 0; round < 150; ++round) {
    partial_ = random_() % 2 == 0;
    std::vector<Stream> streams;
    for (size_t i = 0; i < 1 + random_() % 4; ++i) {
      const size_t size = 8 + random_() % (random_() % 2 == 0 ? 1450 : 200);
      const uint8_t flags = static_cast<uint8_t>(kAck | (random_() % 4 == 0 ? kPsh | kFin : 0));
      streams.push_back(stream(random_() % 2 == 0 ? GsoType::kTcp4 : GsoType::kTcp6,
                               1 + random_() % (size * 20), size, partial_, random_,
                               random_() % 11 * 4, random_() % 3, flags));
    }
    std::vector<size_t> next(streams.size());
    while (burst_.room() != 0) {
      const size_t which = random_() % streams.size();
      const Stream& from = streams[which];
      if (next[which] == from.segments.size()) {
        if (random_() % 8 == 0) break;
        continue;
      }
      Bytes segment = from.segments[next[which]++];
      switch (random_() % 24) {
        case 0:
          segment[random_() % segment.size()] ^= static_cast<uint8_t>(1 << random_() % 8);
          break;
        case 1:
          push(from, segment);  // twice
          if (burst_.room() == 0) continue;
          break;
        case 2:
          continue;  // lost
        case 3:
          segment[from.frame.l4 + 13] ^= static_cast<uint8_t>(1 << random_() % 7);
          from.mend(segment);
          break;
        default:
          break;
      }
      push(from, segment);
    }
    seen += burst_.size();
    joined += join().segments;
    std::map<Bytes, std::vector<Bytes>> before;
    std::map<Bytes, std::vector<Bytes>> after;
    for (const Bytes& bytes : inputs_) before[connection_of(bytes)].push_back(bytes);
    for (const Bytes& bytes : cut()) after[connection_of(bytes)].push_back(bytes);
    ASSERT_EQ(before, after) << round;
    clear();
  }
  EXPECT_GT(joined, seen / 2);
}

}  // namespace
}  // namespace pollux::stage
