// SPDX-License-Identifier: Apache-2.0
#include "pollux/ring/split_device_ring.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"

namespace pollux::ring {
namespace {

using test::DriverImage;
using test::Guest;
using test::kIndirect;
using test::kNext;
using test::kWrite;

/// What a walk found: the lengths of the pieces, in order.
struct Walked {
  ChainStatus status;
  std::vector<uint32_t> pieces;
};

template <typename Ring>
Walked walk(Ring& ring, uint16_t head, MemoryAccess want = MemoryAccess::kRead) {
  Walked walked;
  walked.status = ring.walk(head, want, [&](std::byte*, uint32_t len) {
    walked.pieces.push_back(len);
    return true;
  });
  return walked;
}

class SplitDevice : public testing::Test {
 protected:
  static constexpr uint32_t kSize = 8;
  static constexpr uint64_t kFirst = 0x10000;  // two adjacent regions, and one apart
  static constexpr uint64_t kSecond = 0x20000;
  static constexpr uint64_t kApart = 0x40000;

  SplitDeviceRing<> make(bool indirect = true, bool event_idx = false, uint16_t next_avail = 0) {
    return SplitDeviceRing<>({image_.layout(), next_avail, indirect, event_idx}, guest_.view());
  }

  DriverImage image_{kSize};
  Guest guest_{{{kFirst, 0x10000}, {kSecond, 0x10000}, {kApart, 0x1000}}};
};

TEST_F(SplitDevice, AsksForTheIndexOnlyWhenItNeedsMore) {
  test::HookedAccess::Hook hook;
  SplitDeviceRing<test::HookedAccess> ring({image_.layout(), 0, false, false}, guest_.view(),
                                           test::HookedAccess(hook));
  image_.avail_idx(4);
  EXPECT_EQ(ring.available(1), 4u);
  EXPECT_EQ(hook.reads, 1u);
  EXPECT_EQ(ring.available(4), 4u);
  EXPECT_EQ(hook.reads, 1u);
  image_.avail_idx(6);
  EXPECT_EQ(ring.available(5), 6u);
  EXPECT_EQ(hook.reads, 2u);
}

TEST_F(SplitDevice, IndexThatJumpsBreaksTheRing) {
  auto ring = make();
  image_.avail_idx(kSize + 1);
  EXPECT_EQ(ring.available(1), 0u);
  EXPECT_EQ(ring.error(), RingError::avail_jump);
  image_.avail_idx(1);
  EXPECT_EQ(ring.available(1), 0u);  // for good
}

TEST_F(SplitDevice, IndexThatTakesBackKnownChainsBreaksTheRing) {
  auto ring = make();
  image_.avail_idx(6);
  ASSERT_EQ(ring.available(1), 6u);
  image_.avail_idx(3);
  EXPECT_EQ(ring.available(6), 6u);  // enough are known
  EXPECT_EQ(ring.available(7), 0u);
  EXPECT_EQ(ring.error(), RingError::avail_jump);
}

TEST_F(SplitDevice, IndexThatGoesBackBreaksTheRing) {
  auto ring = make();
  image_.avail_idx(4);
  ASSERT_EQ(ring.available(1), 4u);
  ring.take(4);
  image_.avail_idx(3);
  EXPECT_EQ(ring.available(1), 0u);
  EXPECT_EQ(ring.error(), RingError::avail_jump);
}

TEST_F(SplitDevice, MoreOutThanEntriesBreaksTheRing) {
  auto ring = make();
  image_.avail_idx(kSize);
  ASSERT_EQ(ring.available(kSize), kSize);
  ring.take(kSize);
  for (uint16_t i = 0; i < kSize; ++i) ring.put_used(i, 0);
  // None was returned yet, so the driver has no entry free: a ninth would overwrite one of ours.
  image_.avail_idx(kSize + 1);
  EXPECT_EQ(ring.available(1), 0u);
  EXPECT_EQ(ring.error(), RingError::avail_jump);
  (void)ring.publish();  // what was taken is returned nevertheless
  EXPECT_EQ(image_.used_idx(), kSize);
}

TEST_F(SplitDevice, EntriesAreFreeAgainOncePublished) {
  auto ring = make();
  image_.avail_idx(kSize);
  ASSERT_EQ(ring.available(kSize), kSize);
  ring.take(1);
  ring.put_used(0, 0);
  (void)ring.publish();
  image_.avail_idx(kSize + 1);
  EXPECT_EQ(ring.available(kSize), kSize);
  EXPECT_EQ(ring.error(), RingError::none);
}

TEST_F(SplitDevice, HeadBeyondTheQueueBreaksTheRing) {
  for (const uint16_t head : {uint16_t{kSize}, uint16_t{0x8000}, uint16_t{0xffff}}) {
    auto ring = make();
    image_.avail_idx(2);
    image_.avail_entry(1, head);
    uint16_t out = 0;
    EXPECT_TRUE(ring.head(0, out));
    EXPECT_FALSE(ring.head(1, out));
    EXPECT_EQ(ring.error(), RingError::head_range);
    EXPECT_EQ(ring.available(1), 0u);
  }
}

TEST_F(SplitDevice, ManyAtOnceGoAroundTheEndOfTheRing) {
  auto ring = make(false, false, 5);
  for (uint16_t i = 0; i < kSize; ++i) {
    image_.desc(i, kFirst + 100u * i, 10u + i, 0, 0);
    image_.avail_entry(static_cast<uint16_t>((5 + i) % kSize),
                       static_cast<uint16_t>(kSize - 1 - i));
  }
  image_.avail_idx(5 + kSize);
  ASSERT_EQ(ring.available(kSize), kSize);
  std::array<uint16_t, kSize> heads{};
  ASSERT_EQ(ring.heads(0, kSize, heads.data()), kSize);
  std::array<SingleRun, kSize> runs{};
  EXPECT_TRUE(ring.singles(heads.data(), kSize, MemoryAccess::kRead, runs.data()));
  std::array<uint32_t, kSize> written{};
  for (uint16_t i = 0; i < kSize; ++i) {
    EXPECT_EQ(heads[i], kSize - 1 - i);
    EXPECT_EQ(runs[i].data, guest_.at(kFirst + 100u * heads[i]));
    EXPECT_EQ(runs[i].size, 10u + heads[i]);
    written[i] = 70u + i;
  }
  ring.take(kSize);
  ring.put_used(heads.data(), written.data(), kSize);
  (void)ring.publish();
  EXPECT_EQ(image_.used_idx(), 5 + kSize);
  for (uint16_t i = 0; i < kSize; ++i) {
    const auto elem = image_.layout().used->ring[(5 + i) % kSize];
    EXPECT_EQ(elem.id, heads[i]);
    EXPECT_EQ(elem.len, 70u + i);
  }
}

TEST_F(SplitDevice, OfManyAtOnceThoseBeforeABadHeadAreGood) {
  for (const uint16_t bad : {uint16_t{kSize}, uint16_t{0xffff}}) {
    auto ring = make(false, false, 5);
    for (uint16_t i = 0; i < kSize; ++i) image_.avail_entry(i, i == 1 ? bad : i);
    image_.avail_idx(5 + kSize);
    ASSERT_EQ(ring.available(kSize), kSize);
    std::array<uint16_t, kSize> heads{};
    EXPECT_EQ(ring.heads(0, kSize, heads.data()), 4u);  // 5, 6, 7, 0
    EXPECT_EQ(ring.error(), RingError::head_range);
  }
}

TEST_F(SplitDevice, WhatIsNoCommonChainLeavesTheOthersAlone) {
  auto ring = make();
  image_.desc(0, kFirst, 10, 0, 0);
  image_.desc(1, kFirst, 10, kNext, 0);
  image_.desc(2, kApart, 20, 0, 0);
  image_.desc(3, kFirst, 30, kWrite, 0);
  constexpr std::array<uint16_t, 4> kHeads{0, 1, 2, 3};
  std::array<SingleRun, 4> runs{};
  EXPECT_FALSE(ring.singles(kHeads.data(), 4, MemoryAccess::kRead, runs.data()));
  EXPECT_EQ(runs[0].data, guest_.at(kFirst));
  EXPECT_EQ(runs[1].size, 0u);
  EXPECT_EQ(runs[2].data, guest_.at(kApart));
  EXPECT_EQ(runs[2].size, 20u);
  EXPECT_EQ(runs[3].size, 0u);
}

TEST_F(SplitDevice, SingleTakesOnlyTheCommonChain) {
  auto ring = make();
  struct Case {
    const char* name;
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    bool good;
  };
  const std::vector<Case> cases{
      {"plain", kFirst, 100, 0, true},
      {"the whole region", kFirst, 0x10000, 0, true},
      {"its last byte", kFirst + 0xffff, 1, 0, true},
      {"nothing", kFirst, 0, 0, false},
      {"writable", kFirst, 100, kWrite, false},
      {"goes on", kFirst, 100, kNext, false},
      {"indirect", kFirst, 16, kIndirect, false},
      {"into the next region", kFirst + 0xffff, 2, 0, false},
      {"past the end", kApart + 0xfff, 2, 0, false},
      {"before the start", kFirst - 1, 2, 0, false},
      {"outside", 0x30000, 1, 0, false},
      {"wraps around", ~uint64_t{0}, 2, 0, false},
      {"longest", kFirst, 0xffffffff, 0, false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    image_.desc(0, c.addr, c.len, c.flags, 1);
    const SingleRun at = ring.single(0, MemoryAccess::kRead);
    ASSERT_EQ(at.size != 0, c.good);
    if (!c.good) continue;
    EXPECT_EQ(at.data, guest_.at(c.addr));
    EXPECT_EQ(at.size, c.len);
  }
}

TEST_F(SplitDevice, WalkFollowsNextThroughTheTable) {
  auto ring = make();
  image_.desc(7, kFirst, 10, kNext, 0);
  image_.desc(0, kFirst, 20, kNext, 3);
  image_.desc(3, kFirst, 30, 0, 7);  // next is not looked at without NEXT
  const Walked walked = walk(ring, 7);
  EXPECT_EQ(walked.status, ChainStatus::kOk);
  EXPECT_EQ(walked.pieces, (std::vector<uint32_t>{10, 20, 30}));
}

TEST_F(SplitDevice, WalkSplitsWhereRegionsMeet) {
  auto ring = make();
  image_.desc(0, kFirst + 0xfff0, 0x20, 0, 0);
  std::vector<std::byte*> where;
  ASSERT_EQ(ring.walk(0, MemoryAccess::kRead,
                      [&](std::byte* data, uint32_t len) {
                        EXPECT_EQ(len, 0x10u);
                        where.push_back(data);
                        return true;
                      }),
            ChainStatus::kOk);
  EXPECT_EQ(where, (std::vector<std::byte*>{guest_.at(kFirst + 0xfff0), guest_.at(kSecond)}));
}

TEST_F(SplitDevice, WalkEndsWhenTheVisitorHasEnough) {
  auto ring = make();
  image_.desc(0, kFirst, 10, kNext, 1);
  image_.desc(1, 0, 10, 0, 0);  // would be a bad address
  EXPECT_EQ(ring.walk(0, MemoryAccess::kRead, [](std::byte*, uint32_t) { return false; }),
            ChainStatus::kStopped);
}

TEST_F(SplitDevice, LongestChainHasAsManyDescriptorsAsTheQueue) {
  auto ring = make();
  for (uint16_t i = 0; i < kSize; ++i) {
    image_.desc(i, kFirst, 1, i + 1 == kSize ? 0 : kNext, static_cast<uint16_t>(i + 1));
  }
  EXPECT_EQ(walk(ring, 0).pieces.size(), kSize);
  image_.desc(kSize - 1, kFirst, 1, kNext, 0);
  EXPECT_EQ(walk(ring, 0).status, ChainStatus::kBadDescriptor);
}

TEST_F(SplitDevice, LongChainsOfLargeQueuesAreBounded) {
  constexpr uint32_t kLarge = 32768;
  DriverImage large(kLarge);
  test::HookedAccess::Hook hook;
  SplitDeviceRing<test::HookedAccess> ring({large.layout(), 0, false, false}, guest_.view(),
                                           test::HookedAccess(hook));
  const auto chain = [&](uint32_t length, uint32_t bytes) {
    for (uint32_t i = 0; i < length; ++i) {
      large.desc(i, kFirst, bytes, i + 1 == length ? 0 : kNext, static_cast<uint16_t>(i + 1));
    }
  };
  chain(1024, 1);
  EXPECT_EQ(walk(ring, 0).status, ChainStatus::kOk);
  for (const uint32_t bytes : {1U, 0U}) {
    hook.reads = 0;
    chain(1025, bytes);
    EXPECT_EQ(walk(ring, 0).status, ChainStatus::kBadDescriptor);
    EXPECT_LE(hook.reads, 1024u);
  }
}

TEST_F(SplitDevice, IndirectTableOfAnyLengthUpToTheBound) {
  auto ring = make();
  const uint64_t table = guest_.allocate(16 * 2000 + 1) + 1;  // at an odd address
  const auto chain = [&](uint32_t length) {
    for (uint32_t i = 0; i < length; ++i) {
      DriverImage::put_desc(guest_.at(table), i, kSecond, 1, i + 1 == length ? 0 : kNext,
                            static_cast<uint16_t>(i + 1));
    }
    image_.desc(0, table, 16 * length, kIndirect, 0);
  };
  for (const uint32_t length : {1U, 8U, 9U, 1024U}) {  // longer than the queue, as tiny ones need
    chain(length);
    const Walked walked = walk(ring, 0);
    EXPECT_EQ(walked.status, ChainStatus::kOk) << length;
    EXPECT_EQ(walked.pieces.size(), length);
  }
  chain(1025);
  EXPECT_EQ(walk(ring, 0).status, ChainStatus::kBadDescriptor);
}

TEST_F(SplitDevice, NotificationsWithoutEventIdx) {
  auto ring = make(false, false);
  image_.avail_idx(8);
  ASSERT_EQ(ring.available(8), 8u);
  ring.take(8);
  for (const uint16_t flags : {0, 1, 0}) {
    image_.avail_flags(flags);
    ring.put_used(0, 0);
    EXPECT_EQ(ring.publish(), flags == 0);
  }
}

TEST_F(SplitDevice, NotificationsWithEventIdx) {
  struct Case {
    uint16_t start;  // used index before
    uint16_t count;  // entries published
    uint16_t event;
    bool wanted;
  };
  const std::vector<Case> cases{
      {0, 1, 0, true},         {0, 1, 1, false},         {0, 1, 0xffff, false},
      {0, 4, 3, true},         {0, 4, 0, true},          {0, 4, 4, false},
      {100, 3, 99, false},     {100, 3, 100, true},      {100, 3, 102, true},
      {100, 3, 103, false},    {65534, 4, 65533, false}, {65534, 4, 65534, true},
      {65534, 4, 65535, true}, {65534, 4, 0, true},      {65534, 4, 1, true},
      {65534, 4, 2, false},    {65535, 1, 65535, true},  {65535, 1, 0, false},
      {0, 8, 0x8000, false},   {7, 8, 14, true},         {7, 8, 15, false},
  };
  for (const Case& c : cases) {
    auto ring = make(false, true, c.start);
    image_.avail_idx(static_cast<uint16_t>(c.start + c.count));
    image_.used_event(c.event);
    image_.avail_flags(1);  // not looked at
    ASSERT_EQ(ring.available(c.count), c.count);
    ring.take(c.count);
    for (uint16_t i = 0; i < c.count; ++i) ring.put_used(i, 0);
    EXPECT_EQ(ring.publish(), c.wanted)
        << c.count << " entries from " << c.start << ", event " << c.event;
  }
}

TEST_F(SplitDevice, OneUsedEntryForABatch) {
  // 2.7.9: the entry at the place of the first chain of the batch names the head of the last; idx
  // counts them all.
  SplitDeviceRing<SharedAccess, UsedEntries::kOneForMany> ring({image_.layout(), 0, false, false},
                                                               guest_.view());
  for (uint16_t i = 0; i < 5; ++i) image_.offer(i);
  for (const uint16_t batch : {3, 2}) {
    const uint16_t from = image_.used_idx();
    ASSERT_EQ(ring.available(batch), 5u - from);
    for (uint16_t i = 0; i < batch; ++i) {
      uint16_t head = 0;
      ASSERT_TRUE(ring.head(i, head));
      ring.put_used(head, 0);
    }
    ring.take(batch);
    EXPECT_EQ(image_.used_idx(), from);
    (void)ring.publish();
    EXPECT_EQ(image_.used_idx(), from + batch);
    EXPECT_EQ(image_.used_id(from), from + batch - 1u);
  }
  EXPECT_EQ(image_.used_id(1), 0u);  // not written
}

TEST_F(SplitDevice, SavedAndResumedAtItsIndex) {
  auto first = make();
  for (uint16_t i = 0; i < 3; ++i) image_.offer(i);
  ASSERT_EQ(first.available(3), 3u);
  first.take(2);
  first.put_used(0, 0);
  first.put_used(1, 0);
  (void)first.publish();
  auto second = make(true, false, first.next_avail());
  ASSERT_EQ(second.available(1), 1u);
  uint16_t head = 0;
  ASSERT_TRUE(second.head(0, head));
  EXPECT_EQ(head, 2);
  second.take(1);
  second.put_used(head, 5);
  (void)second.publish();
  EXPECT_EQ(image_.used_idx(), 3);
  EXPECT_EQ(image_.used_id(2), 2u);
}

}  // namespace
}  // namespace pollux::ring
