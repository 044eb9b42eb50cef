// SPDX-License-Identifier: Apache-2.0
// Guests that lie in their receive rings: a table of lies, with what must come of each.
#include <gtest/gtest.h>

#include "tests/support/three_guests.hpp"

namespace pollux {
namespace {

using namespace hostile;

/// What a liar posts to receive into, and what comes of two frames of 100 bytes sent to it.
struct ReceiveLie {
  std::string name;
  std::function<void(Peer&)> tell;
  Drops drops;                      // counted on the liar's tx queue
  uint64_t delivered = 0;           // frames that were written
  std::vector<uint32_t> used = {};  // lengths of the chains returned
  RingError error = RingError::none;
  Terms terms = {};

  friend void PrintTo(const ReceiveLie& lie, std::ostream* os) {
    *os << lie.delivered << " of 2 frames written";
    if (!lie.drops.empty()) *os << ", counted as " << in_words(lie.drops);
    if (lie.error != RingError::none) *os << ", broken: " << ring::describe(lie.error);
  }
};

constexpr DropReason kBadBuffer = DropReason::receiver_bad_buffer;
constexpr DropReason kFull = DropReason::receiver_ring_full;
constexpr DropReason kTooSmall = DropReason::receiver_too_small;

std::function<void(Peer&)> buffer(uint64_t addr, uint32_t len, uint16_t flags = kWrite,
                                  uint16_t next = 0) {
  return [=](Peer& p) {
    p.receives.desc(0, addr, len, flags, next);
    p.receives.offer(0);
  };
}

std::vector<ReceiveLie> receive_lies() {
  constexpr Terms kPlain{.mergeable = false};
  std::vector<ReceiveLie> lies{
      {"nothing_posted", [](Peer&) {}, {{kFull, 2}}},
      {"head_is_the_size",
       [](Peer& p) { p.receives.offer(kSize); },
       {{DropReason::receiver_down, 2}},
       0,
       {},
       RingError::head_range},
      {"index_jumps",
       [](Peer& p) { p.receives.avail_idx(kSize + 1); },
       {{DropReason::receiver_down, 2}},
       0,
       {},
       RingError::avail_jump},
      {"index_goes_backwards",
       [](Peer& p) { p.receives.avail_idx(0xffff); },
       {{DropReason::receiver_down, 2}},
       0,
       {},
       RingError::avail_jump},
      {"good_buffer_then_bad_head",
       [](Peer& p) {
         p.post(0, 2000);
         p.receives.offer(0xffff);
       },
       {{DropReason::receiver_down, 1}},
       1,
       {112},
       RingError::head_range},
      {"readable", buffer(kFirst, 2000, 0), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"nowhere", buffer(kNowhere, 2000), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"ends_one_past_a_region", buffer(kEnd - 111, 112), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"ends_with_a_region", buffer(kEnd - 112, 112), {{kFull, 1}}, 1, {112}},
      {"address_wraps", buffer(~uint64_t{0} - 50, 112), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"longest", buffer(kFirst, 0xffffffff), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"spans_two_adjacent_regions", buffer(kSecond - 50, 200), {{kFull, 1}}, 1, {112}},
      {"loop", buffer(kFirst, 1, kWrite | kNext, 0), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"loop_of_nothing",
       buffer(kFirst, 0, kWrite | kNext, 0),
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0}},
      {"next_past_the_queue",
       buffer(kFirst, 50, kWrite | kNext, kSize),
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0}},
      {"second_is_readable",
       [](Peer& p) {
         p.receives.desc(0, p.guest.allocate(50), 50, kWrite | kNext, 1);
         p.receives.desc(1, p.guest.allocate(500), 500, 0);
         p.receives.offer(0);
       },
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0}},
      {"indirect_nowhere", buffer(kNowhere, 16, kIndirect), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"indirect_length_0", buffer(kFirst, 0, kIndirect), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"indirect_length_17", buffer(kFirst, 17, kIndirect), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"indirect_not_negotiated",
       [](Peer& p) {
         p.receives.desc(0, p.table({{p.guest.allocate(500), 500, kWrite, 0}}), 16, kIndirect);
         p.receives.offer(0);
       },
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0},
       RingError::none,
       {.indirect = false}},
      {"smaller_than_the_header",
       [](Peer& p) {
         for (uint16_t i = 0; i < 4; ++i) p.post(i, 5);
         p.post(4, 200);
       },
       {{kFull, 1}},
       1,
       {5, 5, 5, 5, 92}},
      {"chains_of_nothing",
       [](Peer& p) {
         for (uint16_t i = 0; i < kSize; ++i) p.post(i, 0);
       },
       {{kTooSmall, 2}},
       0,
       {}},
      {"too_small_without_mergeable",
       [](Peer& p) { p.post(0, 111); },
       {{kTooSmall, 2}},
       0,
       {},
       RingError::none,
       kPlain},
      {"nothing_without_mergeable",
       [](Peer& p) { p.post(0, 0); },
       {{kTooSmall, 2}},
       0,
       {},
       RingError::none,
       kPlain},
      {"header_alone_without_mergeable",
       [](Peer& p) { p.post(0, 12); },
       {{kTooSmall, 2}},
       0,
       {},
       RingError::none,
       kPlain},
      {"buffer_is_the_available_ring_of_the_other_queue",
       buffer(kAvailRing, 6 + 2 * kSize),
       {{kFull, 2}},
       0,
       {}},
  };
  // The same without mergeable buffers, where a chain alone must do.
  for (const char* name :
       {"readable", "nowhere", "ends_one_past_a_region", "ends_with_a_region", "address_wraps",
        "longest", "spans_two_adjacent_regions", "loop", "loop_of_nothing", "next_past_the_queue",
        "second_is_readable", "indirect_nowhere", "indirect_length_0", "indirect_length_17"}) {
    ReceiveLie lie = *std::find_if(lies.begin(), lies.end(),
                                   [&](const ReceiveLie& l) { return l.name == name; });
    lie.name += "_without_mergeable";
    lie.terms.mergeable = false;
    if (lie.name == "longest_without_mergeable") {
      // Bytes that a frame does not need are not looked at.
      lie.drops = {{kFull, 1}};
      lie.delivered = 1;
      lie.used = {112};
    }
    lies.push_back(lie);
  }
  return lies;
}

class ReceivingLiar : public testing::TestWithParam<ReceiveLie> {};

TEST_P(ReceivingLiar, CostsItselfFramesAndNobodyElse) {
  const ReceiveLie& lie = GetParam();
  Switch net(lie.terms);
  lie.tell(net.liar);
  for (uint16_t i = 0; i < 2; ++i) {
    net.alice.offer_frame(i, broadcast(100, 1, i));
    net.run();
  }
  EXPECT_EQ(drops_of(net.liar.out), lie.drops) << in_words(drops_of(net.liar.out));
  EXPECT_EQ(net.liar.out.packets.value(), lie.delivered);
  EXPECT_EQ(net.liar.tx.ring().error(), lie.error);
  std::vector<uint32_t> used;
  for (uint16_t i = 0; i < net.liar.receives.used_idx(); ++i) {
    used.push_back(net.liar.receives.used_len(i));
  }
  EXPECT_EQ(used, lie.used);
  EXPECT_EQ(net.bob.receives.used_idx(), 2);
  EXPECT_EQ(net.alice.sends.used_idx(), 2);
  net.expect_accounts_to_hold();
  net.expect_the_honest_to_be_well();
}

INSTANTIATE_TEST_SUITE_P(Hostile, ReceivingLiar, testing::ValuesIn(receive_lies()), kLieName);

TEST(ReceivingLiarAtWork, BuffersOverItsOwnRings) {
  for (const uint64_t place : {kDescTable, kAvailRing, kUsedRing}) {
    Switch net(Terms{});
    // The liar sends from and receives into the parts of its transmitq.
    for (uint16_t i = 0; i < kSize; ++i) {
      net.liar.receives.desc(i, place, 6 + 2 * kSize, kWrite);
      net.liar.receives.offer(i);
    }
    for (uint16_t i = 0; i < 4; ++i) {
      net.alice.offer_frame(i, broadcast(100, 1, i));
      net.liar.offer(i, good());
      net.run();
    }
    for (int i = 0; i < 3; ++i) net.run();
    net.expect_accounts_to_hold();
    net.expect_the_honest_to_be_well();
  }
}

TEST(ReceivingLiarAtWork, SendsAndReceivesInTheSameMemory) {
  // Its frame comes back into the very bytes that it is sent from, shifted by a few.
  for (const int shift : {-100, -12, -1, 0, 1, 12, 100}) {
    DriverImage sends(kSize);
    DriverImage receives(kSize);
    Guest guest;
    test::LeakChecked pool;
    QueueCounters counters;
    virtio::NetDeviceRx<ring::SplitDeviceRing<>> rx(
        ring::SplitDeviceRing<>({sends.layout(), 0, false, false}, guest.view()),
        spec::VIRTIO_F_VERSION_1);
    virtio::NetDeviceTx<ring::SplitDeviceRing<>> tx(
        ring::SplitDeviceRing<>({receives.layout(), 0, false, false}, guest.view()),
        spec::VIRTIO_F_VERSION_1);
    for (const size_t size : {60U, 100U, 190U, 250U, 1500U, 9000U}) {
      const uint64_t at = Guest::kBase + 0x8000;
      guest.write(at, NetHeader{}.bytes() + pattern(size));
      sends.desc(0, at, static_cast<uint32_t>(kHdr + size));
      sends.offer(0);
      receives.desc(0, at + static_cast<uint64_t>(shift), 10000, kWrite);
      receives.offer(0);
      Burst burst(pool.cache());
      rx.poll(burst, counters);
      ASSERT_EQ(burst.size(), 1u);
      tx.send(burst, counters);
      EXPECT_TRUE(burst.empty());
      (void)rx.complete();
      (void)tx.publish();
    }
  }
}

}  // namespace
}  // namespace pollux
