// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/checksum.hpp"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/packets.hpp"

namespace pollux::net {
namespace {

using test::as_span;
using test::Bytes;
using test::from_hex;

/// RFC 1071 as it is written: big-endian words, one at a time.
uint16_t naive_sum(const Bytes& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    sum += bytes[i] << 8 | (i + 1 < bytes.size() ? bytes[i + 1] : 0);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<uint16_t>(sum);
}

uint16_t as_host(uint16_t raw) { return std::bit_cast<Be16>(raw).value(); }

TEST(Checksum, ExampleOfRfc1071) {
  const Bytes bytes = from_hex("00 01 f2 03 f4 f5 f6 f7");
  EXPECT_EQ(as_host(sum_words(as_span(bytes))), 0xddf2);
  EXPECT_EQ(checksum(as_span(bytes)).value(), 0x220d);
}

TEST(Checksum, OfAnIpv4Header) {
  // 4500+0073+0000+4000+4011+c0a8+0001+c0a8+00c7 = 2479c; 479c+2 = 479e; its complement b861.
  Bytes header = from_hex("4500 0073 0000 4000 4011 0000 c0a80001 c0a800c7");
  EXPECT_EQ(checksum(as_span(header)).value(), 0xb861);
  test::put16(header, 10, 0xb861);
  EXPECT_EQ(checksum(as_span(header)).value(), 0);
}

TEST(Checksum, OfNothingAndOfZeros) {
  EXPECT_EQ(sum_words({}), 0);
  EXPECT_EQ(sum_words(as_span(Bytes(1000, 0))), 0);
  EXPECT_EQ(checksum({}).value(), 0xffff);
}

TEST(Checksum, EveryLengthAndAlignment) {
  std::mt19937 random(1);
  const Bytes all = test::random_bytes(2100, random);
  for (size_t size = 0; size <= 2048; size += size < 300 ? 1 : 37) {
    for (const size_t start : {0, 1, 2, 3, 7, 8, 31}) {
      const Bytes bytes(all.begin() + start, all.begin() + start + size);
      const auto place = as_span(all).subspan(start, size);
      ASSERT_EQ(as_host(sum_portable(place)), naive_sum(bytes)) << size << " at " << start;
      ASSERT_EQ(as_host(sum_words(place)), naive_sum(bytes)) << size << " at " << start;
    }
  }
}

TEST(Checksum, CarriesOfAllOnes) {
  for (const size_t size : {2u, 3u, 64u, 127u, 128u, 191u, 65536u, 70001u}) {
    const Bytes ones(size, 0xff);
    EXPECT_EQ(as_host(sum_words(as_span(ones))), naive_sum(ones)) << size;
    EXPECT_EQ(as_host(sum_portable(as_span(ones))), naive_sum(ones)) << size;
  }
}

TEST(ChecksumSum, PiecesOfAnyLength) {
  std::mt19937 random(2);
  for (int round = 0; round < 500; ++round) {
    const Bytes bytes = test::random_bytes(random() % 3000, random);
    ChecksumSum sum;
    size_t at = 0;
    while (at < bytes.size()) {
      const size_t size =
          std::min<size_t>(random() % (round % 2 == 0 ? 9 : 700), bytes.size() - at);
      sum.add(as_span(bytes).subspan(at, size));
      at += size;
    }
    ASSERT_EQ(sum.sum().value(), naive_sum(bytes));
    ASSERT_EQ(sum.checksum().value(), static_cast<uint16_t>(~naive_sum(bytes)));
  }
}

TEST(ChecksumSum, WordsOfThePseudoHeaderIgnoreOddness) {
  ChecksumSum sum;
  sum.add(as_span(from_hex("12")));
  sum.add_word(Be16(0x3400));
  sum.add(as_span(from_hex("56")));
  EXPECT_EQ(sum.sum().value(), 0x1200 + 0x3400 + 0x0056);
}

TEST(PseudoHeader, OfIpv4) {
  // c0a8+0001+c0a8+00c7+0011+0020 = 18249; 8249+1 = 824a.
  const Ipv4Address source{192, 168, 0, 1};
  const Ipv4Address destination{192, 168, 0, 199};
  EXPECT_EQ(pseudo_header(source, destination, kIpProtoUdp, 32).sum().value(), 0x824a);
}

TEST(PseudoHeader, OfIpv6HasALengthOf32Bits) {
  // 2001+0db8+0001 + 2001+0db8+0002 + 0001+1170 (length 70000) + 0006 = 6cec.
  Ipv6Address source{0x20, 0x01, 0x0d, 0xb8};
  Ipv6Address destination = source;
  source[15] = 1;
  destination[15] = 2;
  EXPECT_EQ(pseudo_header(source, destination, kIpProtoTcp, 70000).sum().value(), 0x6cec);
}

TEST(UpdateChecksum, GivesWhatAFullSumGives) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    Bytes bytes = test::random_bytes(40, random);
    const Be16 before = checksum(as_span(bytes));
    const Be16 old_word(static_cast<uint16_t>(test::get16(bytes, 12)));
    const Be16 new_word(static_cast<uint16_t>(round % 10 == 0 ? 0 : random()));
    test::put16(bytes, 12, new_word.value());
    ASSERT_EQ(update_checksum(before, old_word, new_word), checksum(as_span(bytes)));
  }
}

TEST(UpdateChecksum, ExampleOfRfc1624) {
  // Section 4: HC = 0xdd2f, 0x5555 becomes 0x3285; the result is 0x0000, not 0xffff.
  EXPECT_EQ(update_checksum(Be16(0xdd2f), Be16(0x5555), Be16(0x3285)).value(), 0x0000);
}

}  // namespace
}  // namespace pollux::net
