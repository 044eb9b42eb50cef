// SPDX-License-Identifier: Apache-2.0
// A packed queue's in-flight region (the vhost-user text, "Inflight I/O tracking"), bytes worked
// out by hand. Its head: 0 features (8 bytes), 8 version, 10 desc_num, 12 free_head, 14
// old_free_head, 16 used_idx, 18 old_used_idx (2 each), 20 used_wrap_counter, 21
// old_used_wrap_counter (1 each), 22 padding (7), up to 32. Then for each entry 32 bytes: 0
// inflight, 1 padding, 2 next, 4 last, 6 num, 8 counter (8), 16 id, 18 flags, 20 len (4), 24 addr
// (8).
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/vhost/inflight.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/inflight_bytes.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux::vhost {
namespace {

using ring::PackedCursor;
using ring::PackedLeft;
using test::kAvail;
using test::kNext;
using test::kUsed;

constexpr uint16_t kSize = 5;   // entries of each queue: no power of two
constexpr size_t kQueue = 192;  // 32 + 5 * 32 = 192 bytes: already a multiple of 64

class PackedInflight : public testing::Test {
 protected:
  struct Head {
    uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
    uint8_t used_wrap_counter, old_used_wrap_counter;
    friend bool operator==(const Head&, const Head&) = default;
  };
  struct Entry {
    uint8_t inflight;
    uint16_t next, last, num;
    uint64_t counter;
    uint16_t id;
    friend bool operator==(const Entry&, const Entry&) = default;
  };

  /// Of queue 1.
  void head(const Head& h) {
    const uint16_t words[] = {h.version,       h.desc_num, h.free_head,
                              h.old_free_head, h.used_idx, h.old_used_idx};
    for (size_t i = 0; i < 6; ++i) region_.put(kQueue + 8 + 2 * i, words[i]);
    region_.put(kQueue + 20, h.used_wrap_counter);
    region_.put(kQueue + 21, h.old_used_wrap_counter);
  }
  [[nodiscard]] Head head() const {
    const auto word = [&](size_t at) { return region_.get<uint16_t>(kQueue + at); };
    return {word(8),
            word(10),
            word(12),
            word(14),
            word(16),
            word(18),
            region_.get<uint8_t>(kQueue + 20),
            region_.get<uint8_t>(kQueue + 21)};
  }
  void entry(size_t i, const Entry& e) {
    const size_t at = kQueue + 32 + 32 * i;
    region_.put(at, e.inflight);
    region_.put(at + 2, e.next);
    region_.put(at + 4, e.last);
    region_.put(at + 6, e.num);
    region_.put(at + 8, e.counter);
    region_.put(at + 16, e.id);
  }
  [[nodiscard]] Entry entry(size_t i) const {
    const size_t at = kQueue + 32 + 32 * i;
    const auto word = [&](size_t offset) { return region_.get<uint16_t>(at + offset); };
    return {region_.get<uint8_t>(at),      word(2), word(4), word(6),
            region_.get<uint64_t>(at + 8), word(16)};
  }
  [[nodiscard]] unsigned in_flight() const {
    unsigned count = 0;
    for (size_t i = 0; i < kSize; ++i) count += entry(i).inflight;
    return count;
  }

  void expect(PackedCursor next, const std::vector<PackedLeft>& chains) {
    auto found = region_.region()->recover_packed(1, ring_.layout());
    ASSERT_TRUE(found) << found.error().what;
    ASSERT_TRUE(*found);
    EXPECT_EQ((*found)->next, next);
    EXPECT_EQ((*found)->chains, chains);
  }
  bool refused(uint16_t queue = 1) {
    return !region_.region()->recover_packed(queue, ring_.layout()).has_value();
  }

  test::InflightBytes region_{2, kSize, InflightFormat::kPacked};
  test::PackedImage ring_{kSize};
  test::Guest guest_{{{0x10000, 0x10000}}};
};

TEST_F(PackedInflight, AFreshQueueSaysNothingUntilADeviceNotesIt) {
  EXPECT_EQ(region_.told().mmap_size, 2 * kQueue);
  const auto found = region_.region()->recover_packed(1, ring_.layout());
  ASSERT_TRUE(found);
  EXPECT_FALSE(*found);
  EXPECT_FALSE(InflightRegion::tells_packed(region_.fd(), region_.told(), 1, kSize));
  ring::PackedDeviceRing<> device({ring_.layout(), {3, false}}, guest_.view());
  device.note_in(region_.region()->packed(1));
  EXPECT_EQ(head(), (Head{1, kSize, 0, 0, 3, 3, 0, 0}));
  for (uint16_t i = 0; i < kSize; ++i) {
    EXPECT_EQ(entry(i), (Entry{0, static_cast<uint16_t>(i + 1), 0, 0, 0, 0}));
  }
  EXPECT_TRUE(InflightRegion::tells_packed(region_.fd(), region_.told(), 1, kSize));
  EXPECT_EQ(region_.get<uint16_t>(8), 0);  // the other queue is as it was
}

TEST_F(PackedInflight, ABatchIsNotedBeforeAnyOfItIsInTheRing) {
  // At 3 in the first lap: a chain of one, one of three, which goes over the end, one of one.
  ring_.next = 3;
  ring_.offer(0x10000, 100, 0, 4);
  ring_.offer({{0x11000, 11}, {0x12000, 12}, {0x13000, 13}}, 0);
  ring_.offer(0x14000, 14, 0, 2);
  test::HookedAccess::Hook hook;
  ring::PackedDeviceRing<test::HookedAccess> device({ring_.layout(), {3, true}}, guest_.view(),
                                                    test::HookedAccess(hook));
  device.note_in(region_.region()->packed(1));
  ASSERT_EQ(device.available(kSize), 3u);
  for (uint16_t i = 0; i < 3; ++i) device.put_used(i, 0);
  device.take(3);

  std::vector<uint8_t> at_last;  // before something of the ring was written over
  hook.before = [&] {
    const bool begun = ring_.used(4) || ring_.used(3) || ring_.used(2, false);
    if (!begun) at_last.assign(region_.bytes(), region_.bytes() + 2 * kQueue);
  };
  (void)device.publish();
  // Five descriptors from 3 on, so that used_idx is 3 again, in the next lap.
  EXPECT_EQ(head(), (Head{1, kSize, 0, 0, 3, 3, 0, 0}));
  EXPECT_EQ(in_flight(), 0u);

  ASSERT_EQ(at_last.size(), 2 * kQueue);
  std::memcpy(region_.bytes(), at_last.data(), at_last.size());
  // All entries taken: none is free but those of the batch, the last of which is given back first.
  EXPECT_EQ(head(), (Head{1, kSize, 0, 5, 3, 3, 0, 1}));
  EXPECT_EQ(entry(0), (Entry{1, 1, 0, 1, 0, 4}));
  EXPECT_EQ(entry(1), (Entry{1, 2, 3, 3, 1, 0}));
  EXPECT_EQ(entry(4), (Entry{1, 5, 4, 1, 2, 2}));
  EXPECT_EQ(region_.get<uint16_t>(kQueue + 32 + 32 * 1 + 18), kAvail | kNext);  // flags
  EXPECT_EQ(region_.get<uint32_t>(kQueue + 32 + 32 * 2 + 20), 12u);             // len
  EXPECT_EQ(region_.get<uint64_t>(kQueue + 32 + 32 * 3 + 24), 0x13000u);        // addr
  EXPECT_EQ(region_.get<uint16_t>(kQueue + 32 + 32 * 3 + 16), 0);               // id
}

TEST_F(PackedInflight, OneUsedDescriptorForManyNeedsNoEntries) {
  ring_.offer(0x10000, 100, 0, 0);
  ring_.offer(0x11000, 100, 0, 1);
  test::HookedAccess::Hook hook;
  ring::PackedDeviceRing<test::HookedAccess, ring::UsedEntries::kOneForMany> device(
      {ring_.layout(), {}}, guest_.view(), test::HookedAccess(hook));
  device.note_in(region_.region()->packed(1));
  ASSERT_EQ(device.available(2), 2u);
  device.put_used(0, 0);
  device.put_used(1, 0);
  device.take(2);
  std::optional<Head> before;
  hook.before = [&] {
    if (!ring_.used(0)) before = head();
    EXPECT_EQ(in_flight(), 0u);
  };
  (void)device.publish();
  EXPECT_EQ(before, (Head{1, kSize, 0, 0, 2, 0, 1, 1}));
  EXPECT_EQ(head(), (Head{1, kSize, 0, 0, 2, 2, 1, 1}));
}

TEST_F(PackedInflight, ABatchThatWasNotShownIsRolledBack) {
  // Chains of ids 3 and 1, the second of two descriptors; returning them goes from 4 to 2 in the
  // next lap. The first descriptor is still available in the first lap.
  ring_.next = 4;
  ring_.offer(0x10000, 100, 0, 3);
  ring_.offer({{0x11000, 100}, {0x12000, 100}}, 1);
  head({1, kSize, 0, 3, 2, 4, 0, 1});
  entry(0, {1, 1, 0, 1, 7, 3});
  entry(1, {1, 2, 2, 2, 8, 9});  // the id is that of the last entry
  entry(2, {0, 3, 0, 0, 0, 1});
  entry(3, {1, 4, 0, 0, 9, 9});  // it is on the list of free entries
  entry(4, {0, 5, 0, 0, 0, 0});
  expect({4, true}, {{3, 1}, {1, 2}});
  // They are the batch that is being returned now.
  EXPECT_EQ(head(), (Head{1, kSize, 1, 3, 2, 4, 0, 1}));
  EXPECT_EQ(entry(1).next, 2);
  EXPECT_EQ(entry(2).next, 0);  // from the last entry of 1 to 0, and from there to 3
  EXPECT_EQ(entry(0).next, 3);
  EXPECT_EQ(entry(3).inflight, 0);
  EXPECT_EQ(in_flight(), 2u);
  // Whoever dies before the descriptor is marked used leaves the same.
  expect({4, true}, {{3, 1}, {1, 2}});
}

TEST_F(PackedInflight, ABatchThatWasShownIsCommitted) {
  head({1, kSize, 0, 3, 2, 4, 0, 1});
  entry(0, {1, 1, 0, 1, 7, 3});
  entry(1, {1, 2, 2, 2, 8, 9});
  entry(2, {0, 3, 0, 0, 0, 1});
  entry(3, {0, 4, 0, 0, 0, 0});
  entry(4, {0, 5, 0, 0, 0, 0});
  ring_.desc(4, 0x10000, 0, 3, kAvail | kUsed);
  ring_.desc(0, 0x11000, 0, 1, 0);
  ring_.desc(1, 0x12000, 100, 1, kUsed);
  ring_.desc(2, 0x13000, 0, 0, kAvail | kUsed);  // in the lap before
  expect({2, false}, {});
  EXPECT_EQ(head(), (Head{1, kSize, 0, 0, 2, 2, 0, 0}));
  EXPECT_EQ(in_flight(), 0u);
}

TEST_F(PackedInflight, ADescriptorThatIsAvailableAgainWasShown) {
  head({1, kSize, 0, 1, 1, 0, 1, 1});
  entry(0, {1, 1, 0, 1, 7, 3});
  ring_.desc(0, 0x10000, 100, 3, kUsed);  // in the next lap: AVAIL is 0, USED is 1
  expect({1, true}, {});
}

TEST_F(PackedInflight, AWholeLapIsToldApartByItsWrapCounter) {
  for (const bool shown : {false, true}) {
    head({1, kSize, 0, 5, 0, 0, 0, 1});
    entry(0, {1, 1, 0, 1, 0, 3});
    entry(1, {1, 2, 4, 4, 1, 0});
    entry(2, {0, 3, 0, 0, 0, 0});
    entry(3, {0, 4, 0, 0, 0, 0});
    entry(4, {0, 5, 0, 0, 0, 2});
    ring_.desc(0, 0x10000, 100, 3, shown ? kAvail | kUsed : kAvail);
    ring_.desc(1, 0x10000, 100, 2, kAvail | kUsed);
    if (shown) {
      expect({0, false}, {});
    } else {
      expect({0, true}, {{3, 1}, {2, 4}});
    }
  }
}

TEST_F(PackedInflight, WhatWasTakenComesBackInTheOrderOfItsCounters) {
  // Another back end at rest in its used ring, at 1: three chains taken, of which the first noted
  // is not the first taken.
  head({1, kSize, 4, 4, 1, 1, 1, 1});
  entry(0, {1, 3, 0, 1, 12, 0});
  entry(1, {1, 2, 2, 2, 11, 7});
  entry(2, {0, 0, 0, 0, 0, 2});
  entry(3, {1, 4, 3, 1, 0xffff'ffff'0000'0000, 1});
  entry(4, {0, 5, 0, 0, 0, 0});
  ring_.desc(0, 0x10000, 100, 4, kAvail | kUsed);
  for (uint32_t i = 1; i < kSize; ++i) ring_.desc(i, 0x10000, 100, 0, kAvail);
  expect({1, true}, {{2, 2}, {0, 1}, {1, 1}});
  // Four descriptors from 1 on: over the end.
  EXPECT_EQ(head(), (Head{1, kSize, 3, 4, 0, 1, 0, 1}));

  ring::PackedDeviceRing<> device({ring_.layout(), {1, true}}, guest_.view());
  device.put_left(std::vector<PackedLeft>{{2, 2}, {0, 1}, {1, 1}});
  (void)device.publish();
  EXPECT_TRUE(ring_.used(1) && ring_.used(3) && ring_.used(4));
  EXPECT_EQ(ring_.id(1), 2);
  EXPECT_EQ(ring_.id(3), 0);
  EXPECT_EQ(ring_.id(4), 1);
  EXPECT_EQ(ring_.len(1) + ring_.len(3) + ring_.len(4), 0u);
  expect({0, false}, {});
}

TEST_F(PackedInflight, ARingThatIsAnothersByNowIsNotGoneOnWith) {
  const auto told = [&] {
    return region_.region()->recover_packed(1, ring_.layout())->has_value();
  };
  head({1, kSize, 0, 0, 2, 2, 1, 1});
  EXPECT_FALSE(told()) << "set up anew: no descriptor was ever used";
  for (uint32_t i = 0; i < 3; ++i) ring_.desc(i, 0x10000, 100, 0, kAvail | kUsed);
  EXPECT_FALSE(told()) << "somebody has used the next one, too";
  ring_.desc(2, 0x10000, 100, 0, kAvail);
  EXPECT_TRUE(told());
}

TEST_F(PackedInflight, ContentsThatContradictThemselvesAreRefused) {
  ring_.desc(0, 0x10000, 100, 3, kAvail | kUsed);
  for (uint32_t i = 1; i < kSize; ++i) ring_.desc(i, 0x10000, 100, 0, kAvail);
  const Head good{1, kSize, 4, 4, 1, 1, 1, 1};
  const auto with = [&](auto change) {
    head(good);
    entry(0, {1, 1, 1, 2, 0, 9});
    entry(1, {0, 2, 0, 0, 0, 3});
    entry(2, {1, 3, 2, 1, 1, 2});
    entry(3, {0, 4, 0, 0, 0, 0});
    entry(4, {0, 5, 0, 0, 0, 0});
    change();
    return refused();
  };
  const auto with_head = [&](const Head& h) { return with([&] { head(h); }); };
  EXPECT_FALSE(with([] {}));
  EXPECT_TRUE(with_head({2, kSize, 4, 4, 1, 1, 1, 1}));  // version
  EXPECT_TRUE(with_head({1, 4, 4, 4, 1, 1, 1, 1}));      // desc_num
  EXPECT_TRUE(with_head({1, kSize, 6, 4, 1, 1, 1, 1}));  // free_head: 5 would be none
  EXPECT_TRUE(with_head({1, kSize, 4, 6, 1, 1, 1, 1}));
  EXPECT_TRUE(with_head({1, kSize, 4, 4, 5, 1, 1, 1}));  // used_idx beyond the ring
  EXPECT_TRUE(with_head({1, kSize, 4, 4, 1, 5, 1, 1}));
  EXPECT_TRUE(with_head({1, kSize, 4, 4, 1, 1, 2, 1}));  // wrap counters
  EXPECT_TRUE(with_head({1, kSize, 4, 4, 1, 1, 1, 3}));
  EXPECT_TRUE(with([&] { entry(0, {2, 1, 1, 2, 0, 9}); }));  // neither in flight nor not
  EXPECT_TRUE(with([&] { entry(0, {1, 1, 5, 2, 0, 9}); }));  // last
  EXPECT_TRUE(with([&] { entry(0, {1, 1, 1, 0, 0, 9}); }));  // num
  EXPECT_TRUE(with([&] { entry(0, {1, 1, 1, 5, 0, 9}); }));  // 5 and 1 are more than the ring has
  EXPECT_TRUE(with([&] { entry(1, {0, 2, 0, 0, 0, 5}); }));  // id
  EXPECT_TRUE(with([&] { entry(1, {0, 2, 0, 0, 0, 2}); }));  // the same id twice
  EXPECT_TRUE(refused(2));
  test::PackedImage larger(kSize + 1);
  EXPECT_FALSE(region_.region()->recover_packed(1, larger.layout()));
}

TEST_F(PackedInflight, ALoopInTheListOfFreeEntriesEnds) {
  ring_.desc(0, 0x10000, 100, 3, kAvail | kUsed);
  head({1, kSize, 1, 1, 1, 1, 1, 1});
  entry(1, {1, 2, 0, 1, 0, 0});
  entry(2, {1, 1, 0, 1, 0, 0});
  expect({1, true}, {});
  EXPECT_EQ(in_flight(), 0u);
}

}  // namespace
}  // namespace pollux::vhost
