// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/ethernet.hpp"

#include <gtest/gtest.h>

#include "tests/support/packets.hpp"

namespace pollux::net {
namespace {

TEST(MacAddress, KeyHasTheFirstByteLowest) {
  const MacAddress mac({0x52, 0x54, 0x00, 0x12, 0x34, 0x56});
  EXPECT_EQ(mac.key(), 0x5634'1200'5452u);
  EXPECT_EQ(MacAddress::from_key(mac.key()), mac);
}

TEST(MacAddress, GroupBitIsTheLowestOfTheFirstByte) {
  EXPECT_FALSE(MacAddress({0x52, 0xff, 0xff, 0xff, 0xff, 0xff}).is_multicast());
  EXPECT_TRUE(MacAddress({0x01, 0x00, 0x5e, 0, 0, 1}).is_multicast());
  EXPECT_TRUE(is_multicast_key(MacAddress({0x33, 0x33, 0, 0, 0, 1}).key()));
  EXPECT_TRUE(kBroadcast.is_broadcast());
  EXPECT_TRUE(kBroadcast.is_multicast());
  EXPECT_FALSE(MacAddress({0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}).is_broadcast());
}

TEST(MacAddress, TextGoesThereAndBack) {
  const auto mac = MacAddress::from_text("52:54:00:AB:cd:0f");
  ASSERT_TRUE(mac.has_value());
  EXPECT_EQ(mac->to_text(), "52:54:00:ab:cd:0f");
  EXPECT_EQ(MacAddress::from_text("52-54-00-ab-cd-0f"), *mac);
}

TEST(MacAddress, BadTextIsRefused) {
  for (const char* text :
       {"", "52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:56:78", "52:54:00:12:34:5g",
        "52.54.00.12.34.56", "+2:54:00:12:34:56", "525:4:00:12:34:56", " 2:54:00:12:34:56"}) {
    EXPECT_FALSE(MacAddress::from_text(text).has_value()) << text;
  }
}

TEST(EthernetHeader, KeysAreReadFromTheFrame) {
  const auto frame = test::from_hex("ffffffffffff 525400123456 0806");
  EXPECT_EQ(destination_key(test::as_span(frame).data()), kBroadcast.key());
  EXPECT_EQ(source_key(test::as_span(frame).data()), 0x5634'1200'5452u);
}

}  // namespace
}  // namespace pollux::net
