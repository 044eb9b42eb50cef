// SPDX-License-Identifier: Apache-2.0
#include "pollux/packet/packet.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace pollux {
namespace {

std::unique_ptr<Packet> packet_with_head(const std::string& text) {
  auto packet = std::make_unique<Packet>();
  packet->reset();
  packet->set_head_size(static_cast<uint32_t>(text.size()));
  std::memcpy(packet->head(), text.data(), text.size());
  return packet;
}

Segment borrowed(std::string& text) {
  return {reinterpret_cast<std::byte*>(text.data()), static_cast<uint32_t>(text.size()), kBorrowed};
}

std::string text_of(const Packet& packet, size_t offset = 0, size_t len = 1000) {
  std::string out(len, '?');
  out.resize(packet.copy_to(out.data(), offset, len));
  return out;
}

TEST(Packet, StartsEmpty) {
  const auto packet = packet_with_head("");
  EXPECT_EQ(packet->size(), 0u);
  EXPECT_TRUE(packet->tail().empty());
  EXPECT_FALSE(packet->tail_owned());
  EXPECT_FALSE(packet->tail_borrowed());
  EXPECT_EQ(text_of(*packet), "");
}

TEST(Packet, ResetForgetsEverything) {
  std::string tail = "tail";
  const auto packet = packet_with_head("head");
  packet->append(borrowed(tail));
  packet->meta.needs_csum = true;
  packet->meta.in_port = 7;
  ASSERT_TRUE(packet->trim_front(2));
  packet->reset();
  EXPECT_EQ(packet->size(), 0u);
  EXPECT_FALSE(packet->tail_borrowed());
  EXPECT_FALSE(packet->meta.needs_csum);
  EXPECT_EQ(packet->meta.in_port, 0);
  EXPECT_TRUE(packet->prepend(Packet::kHeadRoom)) << "the head room is whole again";
}

TEST(Packet, GrowsAtTheFrontAsFarAsTheHeadRoomGoes) {
  const auto packet = packet_with_head("payload");
  ASSERT_TRUE(packet->prepend(4));
  std::memcpy(packet->head(), "vlan", 4);
  EXPECT_EQ(text_of(*packet), "vlanpayload");
  EXPECT_FALSE(packet->prepend(Packet::kHeadRoom - 3));
  EXPECT_EQ(text_of(*packet), "vlanpayload") << "a refused prepend changes nothing";
  EXPECT_TRUE(packet->prepend(Packet::kHeadRoom - 4));
  EXPECT_EQ(packet->head_size(), Packet::kHeadRoom + 7);
}

TEST(Packet, FullHeadAndFullHeadRoomTogetherFit) {
  const auto packet = packet_with_head(std::string(Packet::kHeadCapacity, 'h'));
  ASSERT_TRUE(packet->prepend(Packet::kHeadRoom));
  std::memset(packet->head(), 'r', Packet::kHeadRoom);
  EXPECT_EQ(text_of(*packet),
            std::string(Packet::kHeadRoom, 'r') + std::string(Packet::kHeadCapacity, 'h'));
}

TEST(Packet, TrimsOnlyTheHead) {
  std::string tail = "tail";
  const auto packet = packet_with_head("abcd");
  packet->append(borrowed(tail));
  EXPECT_FALSE(packet->trim_front(5));
  EXPECT_TRUE(packet->trim_front(4));
  EXPECT_EQ(text_of(*packet), "tail");
}

TEST(Packet, CopiesAnyRangeAcrossHeadAndSegments) {
  std::string first = "efgh";
  std::string second = "ijklmn";
  const auto packet = packet_with_head("abcd");
  packet->append(borrowed(first));
  packet->append(borrowed(second));
  const std::string whole = "abcdefghijklmn";
  ASSERT_EQ(packet->size(), whole.size());
  EXPECT_EQ(packet->tail_size(), 10u);
  for (size_t offset = 0; offset <= whole.size() + 1; ++offset) {
    for (size_t len = 0; len <= whole.size() + 1; ++len) {
      const std::string expected = offset <= whole.size() ? whole.substr(offset, len) : "";
      EXPECT_EQ(text_of(*packet, offset, len), expected) << offset << "+" << len;
    }
  }
}

TEST(Packet, KnowsWhoseItsTailIs) {
  std::string tail = "tail";
  const auto packet = packet_with_head("head");
  packet->append(borrowed(tail));
  EXPECT_TRUE(packet->tail_borrowed());
  EXPECT_FALSE(packet->tail_owned());
  packet->drop_tail();
  EXPECT_EQ(packet->size(), 4u);
  packet->append({reinterpret_cast<std::byte*>(tail.data()), 4, 17});
  EXPECT_TRUE(packet->tail_owned());
  EXPECT_FALSE(packet->tail_borrowed());
}

TEST(Packet, TakesAsManySegmentsAsItSays) {
  std::string byte = "x";
  const auto packet = packet_with_head("");
  for (size_t i = 0; i < Packet::kMaxSegments; ++i) {
    ASSERT_FALSE(packet->segments_full());
    packet->append(borrowed(byte));
  }
  EXPECT_TRUE(packet->segments_full());
  EXPECT_EQ(packet->size(), Packet::kMaxSegments);
}

}  // namespace
}  // namespace pollux
