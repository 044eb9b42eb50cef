// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/flow_hash.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "tests/support/packets.hpp"

namespace pollux::net {
namespace {

using test::Bytes;
using test::from_hex;

Bytes udp_frame(uint32_t flow) {
  Bytes frame = from_hex(
      "525400000002 525400000001 0800 4500 0020 0001 0000 4011 0000 0a000001 0a000002"
      "1000 1f90 000c 0000 61626364");
  frame[29] = static_cast<uint8_t>(flow >> 8);  // last byte of the source address
  frame[35] = static_cast<uint8_t>(flow);       // low byte of the source port
  return frame;
}

uint32_t hash_of(const Bytes& frame, uint64_t seed = 7) {
  return flow_hash(test::as_span(frame), parse(test::as_span(frame)), seed);
}

TEST(FlowHash, SameFlowSameHash) {
  Bytes frame = udp_frame(5);
  const uint32_t hash = hash_of(frame);
  frame.back() ^= 1;
  frame[0] ^= 2;
  EXPECT_EQ(hash_of(frame), hash);
  EXPECT_NE(hash_of(frame, 8), hash) << "another seed";
}

TEST(FlowHash, AnswersHashAsTheReverse) {
  const auto both = [](const Bytes& frame, const Bytes& answer) {
    const auto reverse = [](const Bytes& of) {
      return flow_hash(test::as_span(of), parse(test::as_span(of)), 7, FlowDirection::kReverse);
    };
    EXPECT_EQ(reverse(frame), hash_of(answer));
    EXPECT_EQ(reverse(answer), hash_of(frame));
    EXPECT_NE(hash_of(frame), hash_of(answer));
  };
  both(udp_frame(0x103), from_hex("525400000001 525400000002 0800 4500 0020 0001 0000 4011 0000 "
                                  "0a000002 0a000001 1f90 1003 000c 0000 61626364"));
  both(from_hex("525400000002 525400000001 86dd 6000 0000 0008 1140 "
                "20010db8000000000000000000000001 20010db8000000000000000000000002 "
                "1000 1f90 0008 0000"),
       from_hex("525400000001 525400000002 86dd 6000 0000 0008 1140 "
                "20010db8000000000000000000000002 20010db8000000000000000000000001 "
                "1f90 1000 0008 0000"));
  both(from_hex("525400000002 525400000001 88cc 0001"),
       from_hex("525400000001 525400000002 88cc 0001"));
}

TEST(FlowHash, FlowsSpread) {
  std::vector<int> buckets(16);
  std::set<uint32_t> hashes;
  for (uint32_t flow = 0; flow < 16384; ++flow) {
    const uint32_t hash = hash_of(udp_frame(flow));
    EXPECT_NE(hash, 0u);
    hashes.insert(hash);
    ++buckets[hash % buckets.size()];
  }
  EXPECT_GT(hashes.size(), 16300u);
  // 1024 expected in each; 6 standard deviations are 190.
  EXPECT_GT(*std::min_element(buckets.begin(), buckets.end()), 834);
  EXPECT_LT(*std::max_element(buckets.begin(), buckets.end()), 1214);
}

TEST(FlowHash, FragmentsOfOnePacketHashAlike) {
  Bytes first = udp_frame(1);
  first[20] = 0x20;  // more fragments
  Bytes last = first;
  last[20] = 0;
  last[21] = 1;   // offset 8
  last[35] ^= 1;  // where the ports of the first one are
  EXPECT_EQ(hash_of(first), hash_of(last));
}

TEST(FlowHash, OtherFramesHashByAddress) {
  const Bytes arp = from_hex("ffffffffffff 525400000001 0806 0001");
  Bytes other = arp;
  other[11] = 2;
  EXPECT_NE(hash_of(arp), 0u);
  EXPECT_NE(hash_of(arp), hash_of(other));
  EXPECT_NE(hash_of(Bytes(3)), 0u);
}

}  // namespace
}  // namespace pollux::net
