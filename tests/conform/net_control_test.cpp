// SPDX-License-Identifier: Apache-2.0
// The commands of the control queue, byte by byte; VIRTIO 1.3, 5.1.6.5.
#include "pollux/virtio/net_control.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/support/packets.hpp"

namespace pollux::virtio {
namespace {

using test::as_span;
using test::Bytes;
using test::from_hex;
using test::operator+;
using namespace spec;

constexpr uint64_t kAll = VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA |
                          VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CTRL_MAC_ADDR |
                          VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_MQ | VIRTIO_NET_F_RSS |
                          VIRTIO_NET_F_HASH_REPORT | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS |
                          VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4;
constexpr uint16_t kPairs = 4;

struct Case {
  std::string name;
  Bytes command;
  uint64_t feature;  ///< without it the command is refused
  ControlEffect effect;
  std::function<bool(const NetControlState&)> check;
};

const Bytes kKey40 = Bytes(39, 0x11) + Bytes{0x22};

const std::vector<Case>& good() {
  using S = NetControlState;
  using E = ControlEffect;
  static const std::vector<Case> table{
      {"promisc_off", from_hex("00 00 00"), VIRTIO_NET_F_CTRL_RX, E::kFilter,
       [](const S& s) { return !s.filter.promisc; }},
      {"promisc_on", from_hex("00 00 01"), VIRTIO_NET_F_CTRL_RX, E::kFilter,
       [](const S& s) { return s.filter.promisc; }},
      {"allmulti", from_hex("00 01 01"), VIRTIO_NET_F_CTRL_RX, E::kFilter,
       [](const S& s) { return s.filter.allmulti; }},
      {"alluni", from_hex("00 02 01"), VIRTIO_NET_F_CTRL_RX_EXTRA, E::kFilter,
       [](const S& s) { return s.filter.alluni; }},
      {"nomulti", from_hex("00 03 01"), VIRTIO_NET_F_CTRL_RX_EXTRA, E::kFilter,
       [](const S& s) { return s.filter.nomulti; }},
      {"nouni", from_hex("00 04 01"), VIRTIO_NET_F_CTRL_RX_EXTRA, E::kFilter,
       [](const S& s) { return s.filter.nouni; }},
      {"nobcast", from_hex("00 05 01"), VIRTIO_NET_F_CTRL_RX_EXTRA, E::kFilter,
       [](const S& s) { return s.filter.nobcast; }},
      {"mac_table", from_hex("01 00  02000000 525400000001 525400000002  01000000 01005e000001"),
       VIRTIO_NET_F_CTRL_RX, E::kFilter,
       [](const S& s) {
         return s.filter.unicast.macs.size() == 2 && s.filter.multicast.macs.size() == 1 &&
                s.filter.unicast.macs[1] == net::MacAddress({0x52, 0x54, 0, 0, 0, 2}) &&
                s.filter.multicast.macs[0] == net::MacAddress({1, 0, 0x5e, 0, 0, 1});
       }},
      {"mac_tables_empty", from_hex("01 00 00000000 00000000"), VIRTIO_NET_F_CTRL_RX, E::kFilter,
       [](const S& s) { return s.filter.unicast.macs.empty() && !s.filter.unicast.overflow; }},
      {"mac_table_of_more_than_we_keep",
       from_hex("01 00 01010000") + Bytes(257 * 6, 2) + from_hex("00000000"), VIRTIO_NET_F_CTRL_RX,
       E::kFilter,
       [](const S& s) { return s.filter.unicast.overflow && !s.filter.multicast.overflow; }},
      {"mac_addr", from_hex("01 01 525400123456"), VIRTIO_NET_F_CTRL_MAC_ADDR, E::kMac,
       [](const S& s) {
         return s.filter.mac == net::MacAddress({0x52, 0x54, 0, 0x12, 0x34, 0x56});
       }},
      {"vlan_add", from_hex("02 00 ff0f"), VIRTIO_NET_F_CTRL_VLAN, E::kFilter,
       [](const S& s) { return s.filter.vlans.count() == 1 && s.filter.vlans[0xfff]; }},
      {"vlan_del", from_hex("02 01 0a00"), VIRTIO_NET_F_CTRL_VLAN, E::kFilter,
       [](const S& s) { return s.filter.vlans.none(); }},
      {"announce_ack", from_hex("03 00"), VIRTIO_NET_F_GUEST_ANNOUNCE, E::kNone,
       [](const S&) { return true; }},
      {"vq_pairs", from_hex("04 00 0400"), VIRTIO_NET_F_MQ, E::kQueues,
       [](const S& s) { return s.queue_pairs == 4 && !s.rss; }},
      // hash_types TCPv4 and IPv4, mask 1, unclassified 3, table 1 2, max_tx_vq 4, key.
      {"rss", from_hex("04 01 03000000 0100 0300 0100 0200 0400 28") + kKey40, VIRTIO_NET_F_RSS,
       E::kQueues,
       [](const S& s) {
         return s.rss && s.rss->unclassified == 3 && s.rss->table == std::vector<uint16_t>{1, 2} &&
                s.hash.types == 3 && s.hash.key.size() == 40 && s.hash.key[39] == std::byte{0x22} &&
                s.queue_pairs == 4;
       }},
      {"rss_of_one_entry_without_key", from_hex("04 01 00000000 0000 0000 0000 0100 00"),
       VIRTIO_NET_F_RSS, E::kQueues,
       [](const S& s) { return s.rss && s.rss->table.size() == 1 && s.hash.key.empty(); }},
      {"rss_of_128_entries",
       from_hex("04 01 3f000000 7f00 0000") + Bytes(256) + from_hex("0100 28") + kKey40,
       VIRTIO_NET_F_RSS, E::kQueues, [](const S& s) { return s.rss->table.size() == 128; }},
      {"hash_config", from_hex("04 02 20000000 0000000000000000 28") + kKey40,
       VIRTIO_NET_F_HASH_REPORT, E::kQueues,
       [](const S& s) { return s.hash.types == 0x20 && s.hash.key.size() == 40 && !s.rss; }},
      {"offloads_none", from_hex("05 00 0000000000000000"), VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
       E::kOffloads, [](const S& s) { return s.guest_offloads == 0; }},
      {"offloads_csum_and_tso4", from_hex("05 00 8200000000000000"),
       VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, E::kOffloads,
       [](const S& s) {
         return s.guest_offloads == (VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4);
       }},
  };
  return table;
}

class Command : public testing::TestWithParam<Case> {};

TEST_P(Command, IsCarriedOut) {
  NetControl control({.features = kAll, .max_queue_pairs = kPairs});
  const auto effect = control.apply(as_span(GetParam().command));
  ASSERT_TRUE(effect) << effect.error().what;
  EXPECT_EQ(*effect, GetParam().effect);
  EXPECT_TRUE(GetParam().check(control.state()));
}

TEST_P(Command, IsRefusedWithoutItsFeature) {
  NetControl control({.features = kAll & ~GetParam().feature, .max_queue_pairs = kPairs});
  EXPECT_FALSE(control.apply(as_span(GetParam().command)));
}

TEST_P(Command, IsRefusedShorterOrLonger) {
  for (size_t size = 0; size < GetParam().command.size(); ++size) {
    NetControl control({.features = kAll, .max_queue_pairs = kPairs});
    const Bytes cut(GetParam().command.begin(), GetParam().command.begin() + long(size));
    EXPECT_FALSE(control.apply(as_span(cut))) << size;
  }
  NetControl control({.features = kAll, .max_queue_pairs = kPairs});
  EXPECT_FALSE(control.apply(as_span(GetParam().command + Bytes{0})));
}

INSTANTIATE_TEST_SUITE_P(Conform, Command, testing::ValuesIn(good()),
                         [](const auto& c) { return c.param.name; });

struct BadCase {
  std::string name;
  Bytes command;
};

class BadCommand : public testing::TestWithParam<BadCase> {};

TEST_P(BadCommand, IsRefusedWithoutEffect) {
  NetControl control({.features = kAll, .max_queue_pairs = kPairs});
  ASSERT_TRUE(control.apply(as_span(from_hex("04 00 0200"))));
  const NetControlState before = control.state();
  const auto effect = control.apply(as_span(GetParam().command));
  ASSERT_FALSE(effect);
  EXPECT_FALSE(effect.error().what.empty());
  EXPECT_EQ(control.state().queue_pairs, before.queue_pairs);
  EXPECT_EQ(control.state().filter.promisc, before.filter.promisc);
  EXPECT_EQ(control.state().filter.unicast.macs, before.filter.unicast.macs);
  EXPECT_EQ(control.state().filter.mac, before.filter.mac);
  EXPECT_EQ(control.state().filter.vlans, before.filter.vlans);
  EXPECT_EQ(control.state().hash.types, before.hash.types);
  EXPECT_EQ(control.state().rss.has_value(), before.rss.has_value());
  EXPECT_EQ(control.state().guest_offloads, before.guest_offloads);
}

INSTANTIATE_TEST_SUITE_P(
    Conform, BadCommand,
    testing::Values(
        BadCase{"empty", {}}, BadCase{"class_alone", {0}},
        BadCase{"unknown_class", from_hex("06 00 00")},
        BadCase{"unknown_class_255", from_hex("ff ff")},
        BadCase{"unknown_rx_mode", from_hex("00 06 01")},
        BadCase{"rx_mode_two", from_hex("00 00 02")},
        BadCase{"unknown_mac_command", from_hex("01 02 525400000001")},
        BadCase{"mac_addr_of_a_group", from_hex("01 01 015400000001")},
        BadCase{"mac_count_that_overflows", from_hex("01 00 ffffffff 525400000001 00000000")},
        // 0x2aaaaaab * 6 is 2 in 32 bits.
        BadCase{"mac_count_that_wraps", from_hex("01 00 abaaaa2a 0000 00000000")},
        BadCase{"mac_second_count_too_large", from_hex("01 00 00000000 02000000 01005e000001")},
        BadCase{"unknown_vlan_command", from_hex("02 02 0100")},
        BadCase{"vlan_4096", from_hex("02 00 0010")}, BadCase{"vlan_65535", from_hex("02 01 ffff")},
        BadCase{"unknown_announce", from_hex("03 01")},
        BadCase{"unknown_mq", from_hex("04 03 0100")},
        BadCase{"no_queue_pairs", from_hex("04 00 0000")},
        BadCase{"too_many_queue_pairs", from_hex("04 00 0500")},
        BadCase{"queue_pairs_8001", from_hex("04 00 0180")},
        BadCase{"rss_table_of_three", from_hex("04 01 00000000 0200 0000 0000 0000 0000 0100 00")},
        BadCase{"rss_table_of_256",
                from_hex("04 01 00000000 ff00 0000") + Bytes(512) + from_hex("0100 00")},
        // CVE-2024-6505: a mask of 0xffff.
        BadCase{"rss_table_of_65536",
                from_hex("04 01 00000000 ffff 0000") + Bytes(131072) + from_hex("0100 00")},
        BadCase{"rss_entry_beyond", from_hex("04 01 00000000 0100 0000 0000 0400 0100 00")},
        BadCase{"rss_entry_with_reserved_bit", from_hex("04 01 00000000 0000 0000 0080 0100 00")},
        BadCase{"rss_unclassified_beyond", from_hex("04 01 00000000 0000 0400 0000 0100 00")},
        BadCase{"rss_no_tx", from_hex("04 01 00000000 0000 0000 0000 0000 00")},
        BadCase{"rss_tx_beyond", from_hex("04 01 00000000 0000 0000 0000 0500 00")},
        BadCase{"rss_key_of_41", from_hex("04 01 00000000 0000 0000 0000 0100 29") + Bytes(41)},
        BadCase{"rss_key_shorter_than_its_length",
                from_hex("04 01 00000000 0000 0000 0000 0100 28") + Bytes(39)},
        BadCase{"rss_unknown_hash_type", from_hex("04 01 40000000 0000 0000 0000 0100 00")},
        BadCase{"hash_unknown_type", from_hex("04 02 00000080 0000000000000000 00")},
        BadCase{"hash_key_of_255", from_hex("04 02 01000000 0000000000000000 ff") + Bytes(255)},
        BadCase{"unknown_offload_command", from_hex("05 01 0000000000000000")},
        BadCase{"offload_not_negotiated", from_hex("05 00 0001000000000000")},
        BadCase{"offload_that_is_none", from_hex("05 00 0100000000000000")}),
    [](const auto& c) { return c.param.name; });

/// 5.1.6.5.3 and 5.1.6.5.6: what a driver finds after a reset.
TEST(NetControlState, AfterAReset) {
  const net::MacAddress mac({0x52, 0x54, 0, 0, 0, 9});
  const NetControl control({.features = kAll, .max_queue_pairs = kPairs, .mac = mac});
  const NetControlState& state = control.state();
  EXPECT_TRUE(state.filter.promisc);
  EXPECT_TRUE(state.filter.unicast.macs.empty());
  EXPECT_EQ(state.filter.mac, mac);
  EXPECT_TRUE(state.filter.vlans.none());
  EXPECT_TRUE(state.filter.vlan_filter);
  EXPECT_EQ(state.queue_pairs, 1);
  EXPECT_FALSE(state.rss);
  EXPECT_EQ(state.hash.types, 0u);
  EXPECT_EQ(state.guest_offloads, VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4);
}

/// 5.1.6.5.5: of two modes of multiqueue the last command decides.
TEST(NetControlState, TheLastModeOfMultiqueueCounts) {
  NetControl control({.features = kAll, .max_queue_pairs = kPairs});
  const Bytes rss = from_hex("04 01 00000000 0000 0000 0100 0200 00");
  ASSERT_TRUE(control.apply(as_span(rss)));
  EXPECT_TRUE(control.state().rss);
  EXPECT_EQ(control.state().queue_pairs, 2);
  ASSERT_TRUE(control.apply(as_span(from_hex("04 00 0300"))));
  EXPECT_FALSE(control.state().rss);
  ASSERT_TRUE(control.apply(as_span(rss)));
  EXPECT_TRUE(control.state().rss);
}

}  // namespace
}  // namespace pollux::virtio
