// SPDX-License-Identifier: Apache-2.0
// Guests that change their memory between any two accesses of the switch.
#include <gtest/gtest.h>

#include <set>

#include "tests/support/three_guests.hpp"

namespace pollux {
namespace {

using namespace hostile;

/// Something that a liar changes at the very moment between two accesses of the switch.
struct Race {
  std::string name;
  std::function<void(Peer&)> change;

  friend void PrintTo(const Race& /*race*/, std::ostream* os) {
    *os << "before any access: each chain returned once, each packet one fate";
  }
};

std::vector<Race> races() {
  // Frame 0 is one descriptor (0), frame 1 a chain (1, 2, 3), frame 2 a table (4) of three.
  const auto all = [](Peer& p, size_t field, uint64_t value, size_t bytes) {
    for (uint32_t i = 0; i < 5; ++i) {
      std::byte* at = p.sends.desc_memory().data() + 16 * i + field;
      for (size_t b = 0; b < bytes; ++b) at[b] = static_cast<std::byte>(value >> (8 * b));
    }
  };
  return {
      {"length_longest", [=](Peer& p) { all(p, 8, 0xffffffff, 4); }},
      {"length_0", [=](Peer& p) { all(p, 8, 0, 4); }},
      {"length_1", [=](Peer& p) { all(p, 8, 1, 4); }},
      {"length_64k", [=](Peer& p) { all(p, 8, 0x10000, 4); }},
      {"flags_next", [=](Peer& p) { all(p, 12, kNext, 2); }},
      {"flags_indirect", [=](Peer& p) { all(p, 12, kIndirect, 2); }},
      {"flags_write", [=](Peer& p) { all(p, 12, kWrite, 2); }},
      {"flags_none", [=](Peer& p) { all(p, 12, 0, 2); }},
      {"next_all_ones", [=](Peer& p) { all(p, 14, 0xffff, 2); }},
      {"next_0", [=](Peer& p) { all(p, 14, 0, 2); }},
      {"address_nowhere", [=](Peer& p) { all(p, 0, kNowhere, 8); }},
      {"address_at_the_end", [=](Peer& p) { all(p, 0, kEnd - 1, 8); }},
      {"address_of_the_table", [=](Peer& p) { all(p, 0, kDescTable, 8); }},
      {"heads_all_ones",
       [](Peer& p) {
         for (uint32_t i = 0; i < kSize; ++i) p.sends.avail_entry(i, 0xffff);
       }},
      {"index_back", [](Peer& p) { p.sends.avail_idx(0); }},
      {"index_far", [](Peer& p) { p.sends.avail_idx(0x7000); }},
      {"all_of_its_memory_all_ones",
       [](Peer& p) { std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{0xff}); }},
      {"all_of_its_memory_0",
       [](Peer& p) { std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{}); }},
      {"everything_random",
       [](Peer& p) {
         static unsigned seed = 0;
         const Bytes noise = pattern(0x2000, ++seed);
         std::copy(noise.begin(), noise.end(), p.guest.at(kFirst));
         std::copy_n(noise.begin(), 16 * kSize, p.sends.desc_memory().data());
         std::copy_n(noise.begin(), 6 + 2 * kSize, p.sends.avail_memory().data());
       }},
  };
}

class Racing : public testing::TestWithParam<Race> {
 protected:
  static void offer_three(Peer& p) {
    const Bytes frame = NetHeader(test::tso4(100)).bytes() + everybody(test::tcp_frame(500));
    const auto size = static_cast<uint32_t>(frame.size());
    const uint64_t at = p.guest.place(frame);
    p.sends.desc(0, at, size);
    p.sends.desc(1, at, 20, kNext, 2);
    p.sends.desc(2, at + 20, 200, kNext, 3);
    p.sends.desc(3, at + 220, size - 220);
    p.sends.desc(
        4, p.table({{at, 5, kNext, 1}, {at + 5, 300, kNext, 2}, {at + 305, size - 305, 0, 0}}), 48,
        kIndirect);
    for (const uint16_t head : {0, 1, 4}) p.sends.offer(head);
  }
};

TEST_P(Racing, BetweenAnyTwoAccesses) {
  // First how many accesses there are, then a change before each of them.
  uint64_t accesses = 0;
  {
    Switch net(Terms{});
    offer_three(net.liar);
    net.run();
    accesses = net.liar.hook.reads + net.liar.hook.writes;
    ASSERT_EQ(net.liar.in.packets.value(), 3u);
    ASSERT_EQ(test::all_drops(net.liar.in), 0u);
  }
  for (uint64_t when = 1; when <= accesses; ++when) {
    SCOPED_TRACE("before access " + std::to_string(when));
    Switch net(Terms{});
    offer_three(net.liar);
    uint64_t now = 0;
    net.liar.hook.before = [&] {
      if (++now == when) GetParam().change(net.liar);
    };
    net.run(net.liar);
    net.liar.hook.before = [] {};
    // Every chain taken is returned, once, and each packet has one fate.
    EXPECT_LE(net.liar.in.packets.value(), kSize);
    EXPECT_EQ(net.liar.sends.used_idx(), net.liar.in.packets.value());
    net.expect_accounts_to_hold();
    net.expect_the_honest_to_be_well();
    if (HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Hostile, Racing, testing::ValuesIn(races()), kLieName);

/// The same for a receiver: buffers of several shapes, changed while frames are written.
class RacingReceiver : public testing::TestWithParam<std::tuple<bool, int>> {};

TEST_P(RacingReceiver, BetweenAnyTwoAccesses) {
  const auto [mergeable, what] = GetParam();
  const auto post = [](Peer& p) {
    const uint64_t at = p.guest.allocate(4000);
    p.receives.desc(0, at, 300, kWrite);
    p.receives.desc(1, at + 300, 20, kWrite | kNext, 2);
    p.receives.desc(2, at + 320, 900, kWrite);
    p.receives.desc(3, p.table({{at + 1300, 5, kWrite | kNext, 1}, {at + 1305, 1500, kWrite, 0}}),
                    32, kIndirect);
    p.receives.desc(4, at + 3000, 1000, kWrite);
    for (const uint16_t head : {0, 1, 3, 4}) p.receives.offer(head);
  };
  const auto change = [what](Peer& p) {
    constexpr std::array<std::pair<size_t, uint16_t>, 8> kFields{{{8, 0},
                                                                  {8, 0xffff},
                                                                  {10, 0xffff},
                                                                  {12, 0},
                                                                  {12, kNext | kWrite},
                                                                  {12, kIndirect},
                                                                  {14, 0xffff},
                                                                  {3, 0x7000}}};
    if (what < 8) {
      for (uint32_t i = 0; i < 5; ++i) {
        test::put_le(p.receives.desc_memory().data() + 16 * i + kFields[what].first,
                     kFields[what].second);
      }
    } else if (what == 8) {
      p.receives.avail_idx(0x4000);
    } else if (what == 9) {
      for (uint32_t i = 0; i < kSize; ++i) p.receives.avail_entry(i, 0x4000);
    } else if (what == 10) {
      std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{0xff});
    } else {
      std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{});
    }
  };
  for (uint64_t when = 1; when < 200; ++when) {
    Switch net(Terms{.mergeable = mergeable});
    post(net.liar);
    net.alice.offer_frame(0, broadcast(200, 1, 1));
    net.alice.offer_frame(1, broadcast(1000, 1, 2));
    uint64_t now = 0;
    net.liar.hook.before = [&] {
      if (++now == when) change(net.liar);
    };
    net.run(net.alice);
    net.liar.hook.before = [] {};
    EXPECT_EQ(net.liar.out.packets.value() + test::all_drops(net.liar.out), 2u);
    EXPECT_LE(net.liar.receives.used_idx(), 4u);
    std::set<uint32_t> heads;
    for (uint16_t i = 0; i < net.liar.receives.used_idx(); ++i) {
      EXPECT_TRUE(heads.insert(net.liar.receives.used_id(i)).second) << "returned twice";
    }
    EXPECT_EQ(net.bob.receives.used_idx(), 2);
    net.expect_accounts_to_hold();
    if (now < when || HasFailure()) break;  // no more accesses
  }
}

INSTANTIATE_TEST_SUITE_P(Hostile, RacingReceiver,
                         testing::Combine(testing::Bool(), testing::Range(0, 12)));

}  // namespace
}  // namespace pollux
