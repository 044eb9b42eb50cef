// SPDX-License-Identifier: Apache-2.0
// Frames whose headers lie, and addresses that do. A switch that only forwards carries what it does
// not understand; it must neither stumble over it nor change it.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/three_guests.hpp"

namespace pollux {
namespace {

using namespace hostile;

struct Frame {
  std::string name;
  Bytes bytes;          // broadcast by the liar
  bool carried = true;  // else dropped as source_multicast

  friend void PrintTo(const Frame& frame, std::ostream* os) {
    *os << (frame.carried ? "reaches both others unchanged" : "counted as source_multicast 1");
  }
};

/// A broadcast of this type; the payload in hexadecimal digits, then `more` bytes of `fill`.
Bytes ether(uint16_t type, const std::string& payload, size_t more = 0, uint8_t fill = 0) {
  Bytes frame = broadcast(14, 0);
  put_be16(&frame[12], type);
  std::string digits;
  for (const char c : payload) {
    if (c != ' ') digits += c;
  }
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    frame.push_back(static_cast<std::byte>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  frame.insert(frame.end(), more, std::byte{fill});
  return frame;
}

Bytes repeated(uint16_t type, const std::string& unit, size_t count) {
  std::string payload;
  for (size_t i = 0; i < count; ++i) payload += unit;
  return ether(type, payload);
}

Bytes from(Bytes frame, uint8_t first_byte) {
  frame[6] = std::byte{first_byte};
  return frame;
}

const std::string kIp4 = "4500 0054 0000 4000 4001 0000 0a000001 0a000002 ";
const std::string kIp6 =
    "60000000 0040 3a40 fe80000000000000 0000000000000001 "
    "ff02000000000000 0000000000000001 ";

std::vector<Frame> frames() {
  const auto ip6 = [](const char* length, const char* next) {
    return "60000000 " + std::string(length) + next + kIp6.substr(16);
  };
  std::string hops = ip6("0320", "00 40 ");
  for (int i = 0; i < 99; ++i) hops += "00 00 0000 00000000 ";
  std::string endless = ip6("0320", "00 40 ");
  for (int i = 0; i < 100; ++i) endless += "3c 00 0000 00000000 ";
  return {
      {"ethernet_alone", ether(0x88b5, "")},
      {"vlan_tag_cut_off", ether(0x8100, "00")},
      {"vlan_tag_and_nothing_behind", ether(0x8100, "0001 0800")},
      {"vlan_tags_without_end", repeated(0x8100, "0001 8100", 300)},
      {"qinq_tags_without_end", repeated(0x88a8, "0001 88a8", 300)},
      {"vlan_4095", ether(0x8100, "ffff 88b5", 40)},
      {"length_field_longer_than_the_frame", ether(1500, "aaaa 03", 20)},
      {"length_field_0", ether(0, "", 46)},
      {"ipv4_header_missing", ether(0x0800, "")},
      {"ipv4_header_cut_off", ether(0x0800, kIp4.substr(0, 30))},
      {"ipv4_header_length_0", ether(0x0800, "40" + kIp4.substr(2), 64)},
      {"ipv4_header_length_beyond_the_frame", ether(0x0800, "4f" + kIp4.substr(2), 4)},
      {"ipv4_total_length_0", ether(0x0800, "4500 0000" + kIp4.substr(9), 64)},
      {"ipv4_total_length_below_its_header", ether(0x0800, "4500 0013" + kIp4.substr(9), 64)},
      {"ipv4_total_length_beyond_the_frame", ether(0x0800, "4500 ffff" + kIp4.substr(9), 64)},
      {"ipv4_version_6", ether(0x0800, "65" + kIp4.substr(2), 64)},
      {"ipv4_fragment_past_64k",
       ether(0x0800, "4500 0054 0001 1fff 4006 0000 0a000001 0a000002", 64)},
      {"ipv4_fragment_that_overwrites_tcp_flags",
       ether(0x0800, "4500 0024 0001 2001 4006 0000 0a000001 0a000002", 16, 0xff)},
      {"ipv4_option_of_length_0",
       ether(0x0800, "4600 0058 0000 0000 4006 0000 0a000001 0a000002 07000000", 64)},
      {"ipv6_header_missing", ether(0x86dd, "")},
      {"ipv6_header_cut_off", ether(0x86dd, kIp6.substr(0, 40))},
      {"ipv6_payload_length_0", ether(0x86dd, ip6("0000", "3a40"), 64)},
      {"ipv6_payload_length_beyond_the_frame", ether(0x86dd, ip6("ffff", "3a40"), 8)},
      {"ipv6_hop_by_hop_100_times", ether(0x86dd, hops, 8)},
      {"ipv6_destination_options_without_end", ether(0x86dd, endless)},
      {"ipv6_extension_cut_off", ether(0x86dd, ip6("0001", "0040") + "06")},
      {"ipv6_extension_beyond_the_frame",
       ether(0x86dd, ip6("0008", "0040") + "06ff 0000 00000000")},
      {"ipv6_fragment_header_cut_off", ether(0x86dd, ip6("0004", "2c40") + "0600 0001")},
      {"ipv6_routing_header_type_0", ether(0x86dd, ip6("0018", "2b40") + "3a02 0001 00000000", 16)},
      {"ipv6_authentication_header_too_short",
       ether(0x86dd, ip6("0008", "3340") + "06ff 0000 00000000")},
      {"tcp_header_length_0", ether(0x0800, "4500 0028 0000 4000 4006 0000 0a000001 0a000002", 20)},
      {"tcp_header_beyond_the_frame",
       ether(0x0800, "4500 0028 0000 4000 4006 0000 0a000001 0a000002", 20, 0xff)},
      {"udp_length_beyond_the_frame",
       ether(0x0800, "4500 001c 0000 4000 4011 0000 0a000001 0a000002 0035 0035 ffff 0000")},
      {"arp_cut_off", ether(0x0806, "0001 0800 06")},
      {"arp_address_lengths_255", ether(0x0806, "0001 0800 ffff 0001", 20)},
      {"arp_address_lengths_0", ether(0x0806, "0001 0800 0000 0001", 20)},
      {"neighbour_option_of_length_0",
       ether(0x86dd, ip6("0020", "3aff") + "8700 0000 00000000", 24)},
      {"neighbour_option_beyond_the_frame",
       ether(0x86dd, ip6("0020", "3aff") + "8800 0000 00000000 fe800000 00000000 00000000 00000001"
                                           " 02ff 0000 00000000")},
      {"source_is_multicast", from(ether(0x88b5, "", 46), 0x03), false},
      {"source_is_broadcast", from(ether(0x88b5, "", 46), 0xff), false},
      {"source_is_another_guests", broadcast(60, 1)},
  };
}

class Frames : public testing::TestWithParam<Frame> {};

TEST_P(Frames, AreCarriedAsTheyAre) {
  const Frame& sent = GetParam();
  Switch net(Terms{});
  net.liar.offer_frame(0, sent.bytes);
  net.run();
  EXPECT_EQ(net.liar.sends.used_idx(), 1);
  const Drops drops = sent.carried ? Drops{} : Drops{{DropReason::source_multicast, 1}};
  EXPECT_EQ(drops_of(net.liar.in), drops) << in_words(drops_of(net.liar.in));
  EXPECT_EQ(net.fdb().size(), sent.carried ? 1u : 0u);
  for (Peer* honest : {&net.alice, &net.bob}) {
    ASSERT_EQ(honest->receives.used_idx(), sent.carried ? 1 : 0);
    if (!sent.carried) continue;
    ASSERT_EQ(honest->receives.used_len(0), kHdr + sent.bytes.size());
    const uint64_t place = kFirst + 1600 * honest->receives.used_id(0);
    EXPECT_EQ(honest->guest.read(place + kHdr, sent.bytes.size()), sent.bytes);
  }
  net.expect_accounts_to_hold();
  net.expect_the_honest_to_be_well();
}

// Wherever the frame is cut, it is carried as it is, or is a runt.
TEST_P(Frames, AreCarriedCutAtEveryByte) {
  const Frame& sent = GetParam();
  for (size_t size = 14; size < std::min<size_t>(sent.bytes.size(), 120); ++size) {
    Switch net(Terms{});
    net.liar.offer_frame(0, Bytes(sent.bytes.begin(), sent.bytes.begin() + size));
    net.run();
    ASSERT_EQ(net.bob.receives.used_idx(), sent.carried ? 1 : 0) << size << " bytes";
    net.expect_accounts_to_hold();
  }
}

// A receiver of joined segments gets none of what is no segment, and nothing in another order.
TEST_P(Frames, AreNotJoined) {
  const Frame& sent = GetParam();
  Switch net(Terms{});
  net.bob.offloads = kTxChecksum | kTxTso4 | kTxTso6 | kTxJoin;
  for (uint16_t i = 0; i < 3; ++i) net.liar.offer_frame(i, sent.bytes);
  net.run();
  EXPECT_EQ(net.stats().gro_packets, 0u);
  ASSERT_EQ(net.bob.receives.used_idx(), sent.carried ? 3 : 0);
  for (uint16_t i = 0; i < net.bob.receives.used_idx(); ++i) {
    const uint64_t place = kFirst + 1600 * net.bob.receives.used_id(i);
    EXPECT_EQ(net.bob.guest.read(place + kHdr, sent.bytes.size()), sent.bytes);
  }
  net.expect_accounts_to_hold();
}

INSTANTIATE_TEST_SUITE_P(Hostile, Frames, testing::ValuesIn(frames()), kLieName);

TEST(Addresses, AFloodOfThemLeavesTheTableBounded) {
  Switch net(Terms{});
  for (uint32_t i = 0; i < 2000; ++i) {
    Bytes frame = broadcast(60, 0);
    put_be16(&frame[8], static_cast<uint16_t>(i));
    net.liar.sends.desc(i % kSize, kFirst, static_cast<uint32_t>(kHdr + frame.size()));
    net.liar.guest.write(kFirst, NetHeader{}.bytes() + frame);
    net.liar.sends.offer(i % kSize);
    net.run();
  }
  EXPECT_EQ(net.liar.sends.used_idx(), 2000);
  EXPECT_LE(net.fdb().size(), net.fdb().capacity());
  net.expect_accounts_to_hold();
}

TEST(Addresses, TheSameOnTwoPortsInTurn) {
  Switch net(Terms{});
  for (uint16_t i = 0; i < 8; ++i) {
    net.liar.offer_frame(i, broadcast(60, 1, i));  // with Alice's address
    net.run();
    net.alice.offer_frame(i, broadcast(60, 1, i));
    net.run();
  }
  EXPECT_EQ(net.fdb().size(), 1u);
  EXPECT_EQ(net.bob.receives.used_idx(), 16);
  net.expect_accounts_to_hold();
  net.expect_the_honest_to_be_well();
}

}  // namespace
}  // namespace pollux
