// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/rx_filter.hpp"

#include <gtest/gtest.h>

#include "tests/support/packets.hpp"

namespace pollux::virtio {
namespace {

using test::Bytes;
using test::from_hex;
using test::operator+;

const Bytes kBroadcast = from_hex("ffffffffffff");
const Bytes kOwn = from_hex("525400000001");
const Bytes kOther = from_hex("525400000002");
const Bytes kListed = from_hex("525400000003");
const Bytes kGroup = from_hex("01005e000001");
const Bytes kListedGroup = from_hex("01005e000002");

class RxFilterTest : public testing::Test {
 protected:
  RxFilterTest() {
    state_.promisc = false;
    state_.mac = net::MacAddress({0x52, 0x54, 0, 0, 0, 1});
    state_.unicast.macs = {net::MacAddress({0x52, 0x54, 0, 0, 0, 3})};
    state_.multicast.macs = {net::MacAddress({1, 0, 0x5e, 0, 0, 2})};
  }

  bool accepts(const Bytes& to, const Bytes& behind = from_hex("0800 4500")) {
    Packet* packet = maker_.make(to + from_hex("020000000009") + behind);
    const bool accepted = RxFilter(state_).accepts(*packet);
    maker_.cache().release(packet);
    return accepted;
  }
  /// Which of broadcast, own, other, listed, group, listed group pass.
  std::string passes() {
    std::string out;
    for (const Bytes& to : {kBroadcast, kOwn, kOther, kListed, kGroup, kListedGroup}) {
      out += accepts(to) ? '1' : '0';
    }
    return out;
  }

  test::PacketMaker maker_;
  RxFilterState state_;
};

TEST_F(RxFilterTest, Addresses) {
  EXPECT_EQ(passes(), "110101");
  state_.unicast.macs.clear();
  state_.multicast.macs.clear();
  EXPECT_EQ(passes(), "110000");
}

TEST_F(RxFilterTest, Modes) {
  state_.allmulti = true;
  EXPECT_EQ(passes(), "110111");
  state_.nomulti = true;
  EXPECT_EQ(passes(), "110100") << "NOMULTI outweighs ALLMULTI and spares broadcasts";
  state_.alluni = true;
  EXPECT_EQ(passes(), "111100");
  state_.nouni = true;
  EXPECT_EQ(passes(), "100000") << "NOUNI outweighs ALLUNI";
  state_.nobcast = true;
  EXPECT_EQ(passes(), "000000");
  state_.promisc = true;
  EXPECT_EQ(passes(), "111111") << "promiscuous outweighs all";
  EXPECT_TRUE(RxFilter::passes_all(state_));
}

TEST_F(RxFilterTest, TablesTooLongToKeep) {
  state_.unicast = {{}, true};
  EXPECT_EQ(passes(), "111101");
  state_.multicast = {{}, true};
  EXPECT_EQ(passes(), "111111");
}

TEST_F(RxFilterTest, OwnAddressThatNobodyTold) {
  state_.mac.reset();
  EXPECT_EQ(passes(), "111101");
}

TEST_F(RxFilterTest, Vlans) {
  const Bytes tagged = from_hex("8100 2005 0800 4500");  // priority 1, VLAN 5
  EXPECT_TRUE(accepts(kOwn, tagged)) << "not negotiated";
  state_.vlan_filter = true;
  EXPECT_FALSE(accepts(kOwn, tagged));
  EXPECT_FALSE(accepts(kBroadcast, tagged));
  EXPECT_TRUE(accepts(kOwn)) << "untagged";
  EXPECT_TRUE(accepts(kOwn, from_hex("8100 e000 0800 4500"))) << "priority alone";
  EXPECT_FALSE(accepts(kOwn, from_hex("88a8 0005 8100 0006 0800")));
  EXPECT_TRUE(accepts(kOwn, from_hex("8100"))) << "a tag cut off is none";
  state_.vlans[5] = true;
  EXPECT_TRUE(accepts(kOwn, tagged));
  EXPECT_FALSE(accepts(kOther, tagged)) << "the address counts still";
  EXPECT_TRUE(accepts(kOwn, from_hex("88a8 0005 8100 0006 0800")));
}

}  // namespace
}  // namespace pollux::virtio
