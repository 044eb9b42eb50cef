// SPDX-License-Identifier: Apache-2.0
#include "pollux/ring/packed_device_ring.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux::ring {
namespace {

using test::Guest;
using test::kAvail;
using test::kIndirect;
using test::kNext;
using test::kUsed;
using test::kWrite;
using test::PackedImage;

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

template <typename Ring>
uint16_t head(Ring& ring, uint32_t ahead = 0) {
  uint16_t out = 0xffff;
  EXPECT_TRUE(ring.head(ahead, out));
  return out;
}

/// Takes the next `count` chains and puts them, `written` bytes in each.
template <typename Ring>
void use(Ring& ring, uint32_t count, uint32_t written = 0) {
  ASSERT_GE(ring.available(count), count);
  for (uint32_t i = 0; i < count; ++i) ring.put_used(head(ring, i), written);
  ring.take(count);
}

class PackedDevice : public testing::Test {
 protected:
  static constexpr uint32_t kSize = 5;         // no power of two
  static constexpr uint64_t kFirst = 0x10000;  // two adjacent regions, and one apart
  static constexpr uint64_t kSecond = 0x20000;
  static constexpr uint64_t kApart = 0x40000;
  using OneForMany = PackedDeviceRing<SharedAccess, UsedEntries::kOneForMany>;

  template <typename Ring = PackedDeviceRing<>>
  Ring make(bool event_idx = false, PackedCursor next = {}) {
    return Ring({image_.layout(), next, true, event_idx}, guest_.view());
  }
  /// One readable descriptor of `len` bytes.
  void offer(uint16_t id, uint32_t len = 10) { image_.offer(kFirst, len, 0, id); }

  PackedImage image_{kSize};
  Guest guest_{{{kFirst, 0x10000}, {kSecond, 0x10000}, {kApart, 0x1000}}};
};

TEST_F(PackedDevice, NothingIsAvailableAtFirst) {
  auto ring = make();
  EXPECT_EQ(ring.available(1), 0u);
  EXPECT_EQ(ring.size(), kSize);
  EXPECT_FALSE(ring.unpublished());
  EXPECT_EQ(ring.next_avail(), (PackedCursor{0, true}));
}

TEST_F(PackedDevice, LooksOnlyWhenItNeedsMore) {
  test::HookedAccess::Hook hook;
  PackedDeviceRing<test::HookedAccess> ring({image_.layout(), {}, false, false}, guest_.view(),
                                            test::HookedAccess(hook));
  for (uint16_t id = 0; id < 3; ++id) offer(id);
  EXPECT_EQ(ring.available(2), 2u);
  EXPECT_EQ(hook.reads, 4u);  // flags and descriptor, twice
  EXPECT_EQ(ring.available(1), 2u);
  EXPECT_EQ(ring.available(2), 2u);
  EXPECT_EQ(hook.reads, 4u);
  EXPECT_EQ(ring.available(9), 3u);
  EXPECT_EQ(hook.reads, 7u);  // and the flags of one that is not available
}

TEST_F(PackedDevice, FlagsOfTheWrongLapAreNotAvailable) {
  for (const uint16_t flags : {uint16_t{0}, kUsed, uint16_t{kAvail | kUsed}}) {
    auto ring = make();
    image_.desc(0, kFirst, 10, 0, flags);
    EXPECT_EQ(ring.available(1), 0u) << flags;
  }
  auto second_lap = make(false, {0, false});
  for (const uint16_t flags : {uint16_t{0}, kAvail, uint16_t{kAvail | kUsed}}) {
    image_.flags(0, flags);
    EXPECT_EQ(second_lap.available(1), 0u) << flags;
  }
  image_.flags(0, kUsed);
  EXPECT_EQ(second_lap.available(1), 1u);
}

TEST_F(PackedDevice, RoundAndRound) {
  auto ring = make();
  uint32_t serial = 0;
  for (int round = 0; round < 40; ++round) {
    const uint32_t count = 1 + round % kSize;
    const uint32_t from = image_.next;
    const bool wrap = image_.wrap;
    for (uint32_t i = 0; i < count; ++i) offer(static_cast<uint16_t>((serial + i) % kSize));
    ASSERT_EQ(ring.available(kSize), count);
    use(ring, count, 100 + serial);
    ASSERT_TRUE(ring.publish());
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t at = (from + i) % kSize;
      ASSERT_TRUE(image_.used(at, from + i < kSize ? wrap : !wrap));
      ASSERT_EQ(image_.id(at), (serial + i) % kSize);
      ASSERT_EQ(image_.len(at), 100 + serial);
    }
    serial += count;
  }
  EXPECT_EQ(ring.next_avail(), (PackedCursor{static_cast<uint16_t>(image_.next), image_.wrap}));
}

TEST_F(PackedDevice, IdAndLengthOfAChain) {
  auto ring = make();
  image_.offer({{kFirst, 10}, {kFirst, 20}, {kFirst, 30}}, 4);
  test::put_le(image_.desc_memory().data() + 12, uint16_t{0xffff});  // only the last one counts
  offer(1, 40);
  ASSERT_EQ(ring.available(9), 2u);
  EXPECT_EQ(walk(ring, head(ring)).pieces, (std::vector<uint32_t>{10, 20, 30}));
  EXPECT_EQ(walk(ring, head(ring, 1)).pieces, (std::vector<uint32_t>{40}));
  use(ring, 2, 7);
  EXPECT_EQ(ring.next_avail(), (PackedCursor{4, true}));
  (void)ring.publish();
  // 2.8.6: at the first of its descriptors; the next chain's is at its own first one.
  EXPECT_TRUE(image_.used(0));
  EXPECT_EQ(image_.id(0), 4);
  EXPECT_EQ(image_.flags(1), kAvail | kNext);
  EXPECT_EQ(image_.flags(2), kAvail);
  EXPECT_TRUE(image_.used(3));
  EXPECT_EQ(image_.id(3), 1);
}

TEST_F(PackedDevice, IdBeyondTheQueueBreaksTheRing) {
  for (const uint16_t id : {uint16_t{kSize}, uint16_t{0x8000}, uint16_t{0xffff}}) {
    image_.next = 0;
    image_.wrap = true;
    auto ring = make();
    offer(0);
    offer(id);
    EXPECT_EQ(ring.available(9), 1u);  // what came before is good
    EXPECT_EQ(ring.error(), RingError::id_range);
    use(ring, 0);
    EXPECT_EQ(ring.available(1), 0u);
  }
}

TEST_F(PackedDevice, TornChainBreaksTheRing) {
  auto ring = make();
  image_.desc(0, kFirst, 10, 0, kAvail | kNext);
  EXPECT_EQ(ring.available(1), 0u);
  EXPECT_EQ(ring.error(), RingError::chain_torn);
}

TEST_F(PackedDevice, LongestChainHasAsManyDescriptorsAsTheQueue) {
  auto ring = make();
  image_.offer(std::vector<PackedImage::Element>(kSize, {kFirst, 1}), 2);
  ASSERT_EQ(ring.available(1), 1u);
  EXPECT_EQ(walk(ring, head(ring)).pieces.size(), kSize);
  use(ring, 1);
  (void)ring.publish();
  EXPECT_EQ(ring.next_avail(), (PackedCursor{0, false}));
  for (uint32_t i = 0; i < kSize; ++i) image_.flags(i, kUsed | kNext);
  EXPECT_EQ(ring.available(1), 0u);
  EXPECT_EQ(ring.error(), RingError::chain_length);
}

TEST_F(PackedDevice, ChainThatRunsIntoWhatWeHoldBreaksTheRing) {
  auto ring = make();
  for (uint16_t id = 0; id < 3; ++id) offer(id);
  ASSERT_EQ(ring.available(3), 3u);
  image_.desc(3, kFirst, 1, 3, kAvail | kNext);
  image_.desc(4, kFirst, 1, 3, kAvail | kNext);
  image_.desc(0, kFirst, 1, 3, kUsed);
  EXPECT_EQ(ring.available(4), 3u);
  EXPECT_EQ(ring.error(), RingError::chain_length);
}

TEST_F(PackedDevice, LongChainsOfLargeQueuesAreBounded) {
  PackedImage large(32768);
  for (const uint32_t length : {1024U, 1025U}) {
    large.next = 0;
    large.wrap = true;
    test::HookedAccess::Hook hook;
    PackedDeviceRing<test::HookedAccess> ring({large.layout(), {}, false, false}, guest_.view(),
                                              test::HookedAccess(hook));
    large.offer(std::vector<PackedImage::Element>(length, {kFirst, 0}), 0);
    EXPECT_EQ(ring.available(1), length == 1024 ? 1u : 0u);
    EXPECT_EQ(ring.error(), length == 1024 ? RingError::none : RingError::chain_length);
    EXPECT_LE(hook.reads, 2 * 1024u);
  }
}

TEST_F(PackedDevice, HoldsNoMoreThanTheQueueHas) {
  auto ring = make();
  for (uint16_t id = 0; id < kSize; ++id) offer(id);
  ASSERT_EQ(ring.available(kSize), kSize);
  // A driver that makes them available again while we have them.
  for (uint16_t id = 0; id < kSize; ++id) offer(id);
  EXPECT_EQ(ring.available(2 * kSize), kSize);
  use(ring, kSize);
  EXPECT_EQ(ring.available(1), 0u);
  (void)ring.publish();
  EXPECT_EQ(ring.available(1), 0u);  // ours are used now
}

TEST_F(PackedDevice, SingleTakesOnlyTheCommonChain) {
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
      {"indirect", kFirst, 16, kIndirect, false},
      {"into the next region", kFirst + 0xffff, 2, 0, false},
      {"past the end", kApart + 0xfff, 2, 0, false},
      {"before the start", kFirst - 1, 2, 0, false},
      {"outside", 0x30000, 1, 0, false},
      {"wraps around", ~uint64_t{0}, 2, 0, false},
      {"longest", kFirst, 0xffffffff, 0, false},
  };
  auto ring = make();
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    image_.offer(c.addr, c.len, c.flags, 0);
    ASSERT_EQ(ring.available(1), 1u);
    const SingleRun at = ring.single(head(ring), MemoryAccess::kRead);
    ASSERT_EQ(at.size != 0, c.good);
    if (c.good) {
      EXPECT_EQ(at.data, guest_.at(c.addr));
      EXPECT_EQ(at.size, c.len);
    }
    use(ring, 1);
    (void)ring.publish();
  }
  image_.offer({{kFirst, 100}, {kFirst, 100}}, 0);
  ASSERT_EQ(ring.available(1), 1u);
  EXPECT_EQ(ring.single(head(ring), MemoryAccess::kRead).size, 0u);
}

TEST_F(PackedDevice, WalkSplitsWhereRegionsMeetAndStopsWhenTold) {
  auto ring = make();
  image_.offer({{kFirst + 0xfff0, 0x20}, {0, 10}}, 0);
  ASSERT_EQ(ring.available(1), 1u);
  std::vector<std::byte*> where;
  EXPECT_EQ(ring.walk(head(ring), MemoryAccess::kRead,
                      [&](std::byte* data, uint32_t len) {
                        EXPECT_EQ(len, 0x10u);
                        where.push_back(data);
                        return where.size() < 2;
                      }),
            ChainStatus::kStopped);
  EXPECT_EQ(where, (std::vector<std::byte*>{guest_.at(kFirst + 0xfff0), guest_.at(kSecond)}));
  EXPECT_EQ(walk(ring, head(ring)).status, ChainStatus::kBadAddress);
}

TEST_F(PackedDevice, WalkWantsOneDirection) {
  auto ring = make();
  image_.offer({{kFirst, 10}, {kFirst, 10, kWrite}}, 0);
  ASSERT_EQ(ring.available(1), 1u);
  EXPECT_EQ(walk(ring, head(ring)).status, ChainStatus::kBadDescriptor);
  EXPECT_EQ(walk(ring, head(ring), MemoryAccess::kWrite).status, ChainStatus::kBadDescriptor);
}

TEST_F(PackedDevice, IndirectTableIsUsedWhole) {
  // 2.8.7: WRITE is the only flag in a table; the others, and ids, are ignored.
  auto ring = make();
  const uint64_t table = guest_.allocate(48 + 1) + 1;  // at an odd address
  PackedImage::put_desc(guest_.at(table), 0, kSecond, 10, 0xffff, 0);
  PackedImage::put_desc(guest_.at(table), 1, kSecond, 20, 0xffff, kNext | kIndirect);
  PackedImage::put_desc(guest_.at(table), 2, kSecond, 30, 0, kAvail | kUsed | kNext);
  image_.offer(table, 48, kIndirect | kWrite, 3);  // WRITE is ignored here
  ASSERT_EQ(ring.available(1), 1u);
  const Walked walked = walk(ring, head(ring));
  EXPECT_EQ(walked.status, ChainStatus::kOk);
  EXPECT_EQ(walked.pieces, (std::vector<uint32_t>{10, 20, 30}));
  EXPECT_EQ(walk(ring, head(ring), MemoryAccess::kWrite).status, ChainStatus::kBadDescriptor);
}

TEST_F(PackedDevice, IndirectTableToReadMayHaveWriteSet) {
  // As in the tables of DPDK's driver, of which the first entry is a header that it sends.
  auto ring = make();
  const uint64_t table = guest_.allocate(32);
  PackedImage::put_desc(guest_.at(table), 0, kSecond, 12, 0, kWrite);
  PackedImage::put_desc(guest_.at(table), 1, kSecond, 60, 1, kAvail);
  image_.offer(table, 32, kIndirect, 0);
  ASSERT_EQ(ring.available(1), 1u);
  EXPECT_EQ(walk(ring, head(ring)).pieces, (std::vector<uint32_t>{12, 60}));
  EXPECT_EQ(walk(ring, head(ring), MemoryAccess::kWrite).status, ChainStatus::kBadDescriptor);
}

TEST_F(PackedDevice, IndirectTableOfAnyLengthUpToTheBound) {
  auto ring = make();
  const uint64_t table = guest_.allocate(16 * 2000);
  for (uint32_t i = 0; i < 2000; ++i) PackedImage::put_desc(guest_.at(table), i, kSecond, 1, 0, 0);
  for (const uint32_t length : {1U, 5U, 6U, 1024U, 1025U}) {
    image_.offer(table, 16 * length, kIndirect, 0);
    ASSERT_EQ(ring.available(1), 1u);
    const Walked walked = walk(ring, head(ring));
    EXPECT_EQ(walked.status, length <= 1024 ? ChainStatus::kOk : ChainStatus::kBadDescriptor);
    EXPECT_EQ(walked.pieces.size(), length <= 1024 ? length : 0);
    use(ring, 1);
    (void)ring.publish();
  }
}

TEST_F(PackedDevice, IndirectMisuse) {
  struct Case {
    const char* name;
    std::vector<PackedImage::Element> list;
    ChainStatus status;
  };
  const std::vector<Case> cases{
      {"length 0", {{kFirst, 0, kIndirect}}, ChainStatus::kBadDescriptor},
      {"length 17", {{kFirst, 17, kIndirect}}, ChainStatus::kBadDescriptor},
      {"length all ones", {{kFirst, 0xffffffff, kIndirect}}, ChainStatus::kBadDescriptor},
      {"nowhere", {{0x30000, 16, kIndirect}}, ChainStatus::kBadAddress},
      {"over two regions", {{kSecond - 8, 16, kIndirect}}, ChainStatus::kBadAddress},
      {"first of a list", {{kFirst, 16, kIndirect}, {kFirst, 1}}, ChainStatus::kBadDescriptor},
      {"last of a list", {{kFirst, 1}, {kFirst, 16, kIndirect}}, ChainStatus::kBadDescriptor},
  };
  PackedImage::put_desc(guest_.at(kFirst), 0, kSecond, 1, 0, 0);
  auto ring = make();
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    image_.offer(c.list, 0);
    ASSERT_EQ(ring.available(1), 1u);
    EXPECT_EQ(walk(ring, head(ring)).status, c.status);
    use(ring, 1);
    (void)ring.publish();
  }
  PackedDeviceRing<> direct({image_.layout(), ring.next_avail(), false, false}, guest_.view());
  image_.offer(kFirst, 16, kIndirect, 0);
  ASSERT_EQ(direct.available(1), 1u);
  EXPECT_EQ(walk(direct, head(direct)).status, ChainStatus::kBadDescriptor);  // not negotiated
}

TEST_F(PackedDevice, EachDescriptorIsReadOnce) {
  test::HookedAccess::Hook hook;
  PackedDeviceRing<test::HookedAccess> ring({image_.layout(), {}, true, false}, guest_.view(),
                                            test::HookedAccess(hook));
  image_.offer({{kFirst, 10}, {kFirst, 20}}, 1);
  offer(2, 30);
  ASSERT_EQ(ring.available(9), 2u);
  for (uint32_t i = 0; i < kSize; ++i) image_.desc(i, ~uint64_t{0}, 0xffffffff, 0xffff, 0xffff);
  const uint64_t reads = hook.reads;
  EXPECT_EQ(walk(ring, head(ring)).pieces, (std::vector<uint32_t>{10, 20}));
  EXPECT_EQ(ring.single(head(ring, 1), MemoryAccess::kRead).size, 30u);
  use(ring, 2);
  EXPECT_EQ(hook.reads, reads);
  (void)ring.publish();
  EXPECT_EQ(image_.id(0), 1);
  EXPECT_EQ(image_.id(2), 2);
}

TEST_F(PackedDevice, NothingShowsBeforeTheFirstDescriptorOfABatch) {
  test::HookedAccess::Hook hook;
  PackedDeviceRing<test::HookedAccess> ring({image_.layout(), {}, true, false}, guest_.view(),
                                            test::HookedAccess(hook));
  for (uint16_t id = 0; id < 4; ++id) offer(id);
  ASSERT_EQ(ring.available(4), 4u);
  std::vector<bool> first_was_used;
  hook.before = [&] { first_was_used.push_back(image_.used(0)); };
  use(ring, 4, 9);
  EXPECT_EQ(hook.writes, 0u);
  (void)ring.publish();
  // Before each of four stores, and before the look at the driver's wish.
  EXPECT_EQ(first_was_used, (std::vector<bool>{false, false, false, false, true}));
  for (uint32_t i = 0; i < 4; ++i) EXPECT_TRUE(image_.used(i));
  EXPECT_FALSE(image_.used(4));
}

TEST_F(PackedDevice, WriteFlagTellsWhetherAnythingWasWritten) {
  auto ring = make();
  image_.offer(kFirst, 10, kWrite, 0);
  image_.offer(kFirst, 10, kWrite, 1);
  use(ring, 1, 10);
  use(ring, 1, 0);
  (void)ring.publish();
  EXPECT_EQ(image_.flags(0), kAvail | kUsed | kWrite);
  EXPECT_EQ(image_.flags(1), kAvail | kUsed);
}

TEST_F(PackedDevice, OneUsedDescriptorForABatch) {
  auto ring = make<OneForMany>();
  image_.offer({{kFirst, 10}, {kFirst, 20}}, 0);
  offer(2);
  offer(3);
  use(ring, 2);
  (void)ring.publish();
  EXPECT_TRUE(image_.used(0));
  EXPECT_EQ(image_.id(0), 2);  // the last of the batch
  EXPECT_EQ(image_.flags(2), kAvail);
  use(ring, 1);
  (void)ring.publish();
  EXPECT_TRUE(image_.used(3));
  EXPECT_EQ(image_.id(3), 3);
  EXPECT_EQ(ring.next_avail(), (PackedCursor{4, true}));
}

TEST_F(PackedDevice, NotificationsWithoutEventIdx) {
  auto ring = make();
  // DESC needs EVENT_IDX and 3 means nothing: rather too many notifications than too few.
  for (const uint16_t flags : {0, 1, 2, 3, 0xfffd, 0xfffc}) {
    image_.driver_event(4, flags);
    offer(0);
    use(ring, 1);
    EXPECT_EQ(ring.publish(), (flags & 3) != 1) << flags;
  }
}

TEST_F(PackedDevice, NotificationsWithEventIdx) {
  struct Case {
    uint16_t start;  // index and wrap counter before, as on the wire
    uint16_t count;
    uint16_t event;
    bool wanted;
  };
  const std::vector<Case> cases{
      // The first lap, counter 1, of five entries.
      {0x8000, 1, 0x8000, true},
      {0x8000, 1, 0x8001, false},
      {0x8000, 3, 0x8002, true},
      {0x8000, 3, 0x8003, false},
      {0x8002, 2, 0x8001, false},
      {0x8002, 2, 0x8002, true},
      {0x8002, 2, 0x8003, true},
      {0x8002, 2, 0x8004, false},
      // Over the end: entries 3, 4 of this lap and 0, 1 of the next.
      {0x8003, 4, 0x8002, false},
      {0x8003, 4, 0x8003, true},
      {0x8003, 4, 0x8004, true},
      {0x8003, 4, 0x0000, true},
      {0x8003, 4, 0x0001, true},
      {0x8003, 4, 0x0002, false},
      {0x8003, 4, 0x8000, false},
      // Counter 0, back to 1.
      {0x0004, 2, 0x0004, true},
      {0x0004, 2, 0x8000, true},
      {0x0004, 2, 0x0000, false},
      {0x0004, 2, 0x8004, false},
      {0x0004, 2, 0x7fff, false},  // no entry of the ring
      {0x0004, 2, 0xffff, false},
  };
  for (const Case& c : cases) {
    const auto start = PackedCursor::from_wire(c.start);
    auto ring = make(true, start);
    image_.next = start.index;
    image_.wrap = start.wrap;
    image_.driver_event(c.event, 2);
    for (uint16_t i = 0; i < c.count; ++i) offer(i);
    use(ring, c.count);
    EXPECT_EQ(ring.publish(), c.wanted)
        << c.count << " from " << std::hex << c.start << ", event " << c.event;
  }
}

TEST_F(PackedDevice, EventInTheMiddleOfAChain) {
  auto ring = make(true);
  image_.driver_event(0x8001, 2);
  image_.offer({{kFirst, 1}, {kFirst, 1}, {kFirst, 1}}, 0);
  use(ring, 1);
  EXPECT_TRUE(ring.publish());  // it went past that place
}

TEST_F(PackedDevice, AsksNotToBeKicked) {
  auto ring = make(true);
  ring.suppress_notifications();
  EXPECT_EQ(image_.device_flags(), 1);  // DISABLE, which is allowed with EVENT_IDX too
}

TEST_F(PackedDevice, AsksToBeKicked) {
  auto plain = make(false);
  EXPECT_FALSE(plain.request_notifications());
  EXPECT_EQ(image_.device_flags(), 0);
  auto ring = make(true, {4, true});
  EXPECT_FALSE(ring.request_notifications());
  EXPECT_EQ(image_.device_flags(), 2);
  EXPECT_EQ(image_.device_desc(), 0x8004);  // when the next one comes
  image_.next = 4;
  offer(0);
  EXPECT_TRUE(ring.request_notifications());
  use(ring, 1);
  EXPECT_FALSE(ring.request_notifications());
  EXPECT_EQ(image_.device_desc(), 0x0000);  // entry 0 of the next lap
}

TEST_F(PackedDevice, SavedAndResumedAtItsPosition) {
  auto first = make();
  for (uint16_t id = 0; id < 4; ++id) offer(id);
  ASSERT_EQ(first.available(4), 4u);  // one of them is only looked at
  use(first, 3);
  EXPECT_EQ(first.next_used(), (PackedCursor{0, true}));
  (void)first.publish();
  EXPECT_EQ(first.next_used(), (PackedCursor{3, true}));
  auto second = make(false, first.next_avail());
  offer(1);
  ASSERT_EQ(second.available(9), 2u);
  use(second, 2, 5);
  (void)second.publish();
  EXPECT_EQ(image_.id(3), 3);
  EXPECT_EQ(image_.id(4), 1);
  EXPECT_EQ(second.next_avail(), (PackedCursor{0, false}));
}

TEST_F(PackedDevice, TakenButNotYetPut) {
  auto ring = make();
  for (uint16_t id = 0; id < 3; ++id) offer(id);
  ASSERT_EQ(ring.available(3), 3u);
  const uint16_t chains[] = {head(ring, 0), head(ring, 1)};
  ring.take(2);
  EXPECT_EQ(ring.next_avail(), (PackedCursor{2, true}));
  ring.put_used(chains[0], 0);
  (void)ring.publish();
  EXPECT_EQ(ring.next_avail(), (PackedCursor{2, true}));
  EXPECT_EQ(ring.next_used(), (PackedCursor{1, true}));
  EXPECT_FALSE(image_.used(1));
  ring.put_used(chains[1], 0);
  (void)ring.publish();
  EXPECT_TRUE(image_.used(1));
  EXPECT_EQ(ring.available(1), 1u);
}

TEST(PackedPosition, AsVhostUserWritesIt) {
  // Bits 0-14 available index, 15 its wrap counter; 16-30 and 31 the same for used.
  const PackedPosition at{{3, true}, {0x7ffe, false}};
  EXPECT_EQ(at.to_wire(), 0x7ffe8003u);
  EXPECT_EQ(PackedPosition::from_wire(0x7ffe8003u), at);
  EXPECT_EQ(PackedPosition::from_wire(0x80008000u), (PackedPosition{{0, true}, {0, true}}));
  // DPDK gives the available index alone.
  EXPECT_EQ(PackedPosition::from_wire(0x8000u), (PackedPosition{{0, true}, {0, true}}));
  EXPECT_EQ(PackedPosition::from_wire(7u), (PackedPosition{{7, false}, {7, false}}));
}

}  // namespace
}  // namespace pollux::ring
