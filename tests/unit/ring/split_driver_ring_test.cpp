// SPDX-License-Identifier: Apache-2.0
#include "pollux/ring/split_driver_ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace pollux::ring {
namespace {

constexpr auto kOne = [](size_t, uint16_t) { return DriverBuffer{0x1000, 64}; };

/// Ring memory, and the least that a device does, by the plain fields.
struct Queue {
  explicit Queue(uint32_t size)
      : memory(split_bytes(size) + 64),
        layout(place_split(reinterpret_cast<std::byte*>(
                               (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64),
                           size)) {}

  void use(uint32_t id, uint32_t len) {
    const auto at = layout.used->idx;
    layout.used->ring[at % layout.size] = {id, len};
    layout.used->idx = static_cast<uint16_t>(at + 1);
  }

  std::vector<std::byte> memory;
  SplitLayout layout;
};

TEST(SplitDriverRing, TakesExactlyAsManyAsItHasEntries) {
  for (const uint32_t size : {1u, 2u, 256u, 32768u}) {
    Queue queue(size);
    SplitDriverRing<> ring(queue.layout);
    EXPECT_EQ(ring.add_readable(size + 5, kOne), size);
    EXPECT_EQ(ring.free_descriptors(), 0u);
    EXPECT_FALSE(ring.has_room(1));
    const DriverBuffer buffer{0x1000, 1};
    EXPECT_EQ(ring.add({&buffer, 1}, {}), kNoChain);
    (void)ring.publish();
    EXPECT_EQ(ring.outstanding(), size);
    std::vector<UsedChain> used(size);
    for (uint32_t i = 0; i < size; ++i) queue.use(i, 0);
    EXPECT_EQ(ring.poll_used(used.data(), size), size);
    EXPECT_EQ(ring.free_descriptors(), size);
  }
}

TEST(SplitDriverRing, RefusesChainsThatCanNotBe) {
  Queue queue(4);
  SplitDriverRing<> ring(queue.layout);
  EXPECT_EQ(ring.add({}, {}), kNoChain);
  const std::vector<DriverBuffer> five(5, DriverBuffer{0x1000, 1});
  EXPECT_EQ(ring.add(five, {}), kNoChain);
  const std::vector<DriverBuffer> huge(2, DriverBuffer{0x1000, 0x80000000});
  EXPECT_EQ(ring.add(huge, {}), kNoChain) << "2^32 bytes";
  EXPECT_EQ(ring.add(std::span(huge).first(1), std::span(huge).first(1)), kNoChain);
  EXPECT_EQ(ring.free_descriptors(), 4u);
  EXPECT_EQ(ring.add(std::span(five).first(3), {}), 0);
  EXPECT_FALSE(ring.has_room(2));
  EXPECT_EQ(ring.add(std::span(five).first(2), {}), kNoChain);
  EXPECT_EQ(ring.add(std::span(five).first(1), {}), 3);
}

TEST(SplitDriverRing, IndirectChainsTakeOneDescriptorEach) {
  Queue queue(4);
  std::vector<spec::virtq_desc> tables(4 * 4);
  SplitDriverRing<> ring(queue.layout, {.indirect = {tables.data(), 0x9000, 4, 4}});
  const std::vector<DriverBuffer> four(4, DriverBuffer{0x1000, 1});
  for (uint16_t i = 0; i < 4; ++i) EXPECT_EQ(ring.add(four, {}), i);
  EXPECT_FALSE(ring.has_room(4));
  (void)ring.publish();
  queue.use(2, 0);
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  EXPECT_EQ(ring.add(four, {}), 2);
  EXPECT_EQ(queue.layout.desc[2].addr, 0x9000u + 2 * 64) << "its table is free again, too";
}

TEST(SplitDriverRing, PollTakesAtMostWhatItIsGivenRoomFor) {
  Queue queue(8);
  SplitDriverRing<> ring(queue.layout);
  ring.add_writable(8, kOne);
  (void)ring.publish();
  for (uint32_t i = 0; i < 8; ++i) queue.use(7 - i, i);
  UsedChain used[8];
  EXPECT_EQ(ring.poll_used(used, 3), 3u);
  EXPECT_EQ(used[2].id, 5);
  EXPECT_EQ(used[2].len, 2u);
  EXPECT_EQ(ring.poll_used(used, 8), 5u);
  EXPECT_EQ(used[4].id, 0);
  EXPECT_FALSE(ring.broken());
}

TEST(SplitDriverRing, GoesOnBehindWhatWasReturned) {
  Queue queue(8);
  SplitDriverRing<> ring(queue.layout);
  ring.add_writable(8, kOne);
  (void)ring.publish();
  queue.use(0, 1);
  EXPECT_EQ(ring.base(), 1u) << "returned, if not seen yet";
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  EXPECT_EQ(ring.base(), 1u);
  queue.layout.used->idx = 9;
  EXPECT_EQ(ring.base(), 1u) << "only seven are out";
  queue.layout.used->idx = 0;
  EXPECT_EQ(ring.base(), 1u) << "took a chain back";
}

TEST(SplitDriverRing, LengthOfAReadOnlyChainIsIgnored) {
  Queue queue(2);
  SplitDriverRing<> ring(queue.layout);
  ring.add_readable(1, kOne);
  (void)ring.publish();
  queue.use(0, 0xffffffff);  // legacy devices put anything there, 2.7.8.1
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  EXPECT_EQ(used.len, 0u);
}

TEST(SplitDriverRing, DrainReleasesWhatWasAddedAndNotReturned) {
  Queue queue(8);
  std::vector<spec::virtq_desc> tables(2 * 4);
  SplitDriverRing<> ring(queue.layout, {.indirect = {tables.data(), 0x9000, 2, 4}});
  const std::vector<DriverBuffer> two(2, DriverBuffer{0x1000, 1});
  std::set<uint16_t> live;
  for (int i = 0; i < 4; ++i) live.insert(ring.add(two, {}));  // two indirect, two direct
  ring.add_writable(1, [&](size_t, uint16_t id) {
    live.insert(id);
    return DriverBuffer{0x2000, 64};
  });
  (void)ring.publish();
  const uint16_t returned = *live.begin();
  queue.use(returned, 0);
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  live.erase(returned);
  ring.drain([&](uint16_t id) { EXPECT_EQ(live.erase(id), 1u) << id; });
  EXPECT_TRUE(live.empty());
  EXPECT_EQ(ring.free_descriptors(), 8u);
  EXPECT_EQ(ring.outstanding(), 0);
}

TEST(SplitDriverRing, NeverGivesADescriptorOutTwice) {
  std::mt19937 random(1);
  Queue queue(64);
  std::vector<spec::virtq_desc> tables(8 * 6);
  SplitDriverRing<> ring(queue.layout, {.event_idx = true, .indirect = {tables.data(), 0, 8, 6}});
  std::set<uint16_t> held;  // descriptors of live chains, walked in the table as a device does
  std::vector<uint16_t> heads;
  const auto each = [&](uint16_t head, auto&& visit) {
    uint16_t id = head;
    while (true) {
      visit(id);
      if ((queue.layout.desc[id].flags & spec::VIRTQ_DESC_F_NEXT) == 0) break;
      id = queue.layout.desc[id].next;
    }
  };
  const std::vector<DriverBuffer> buffers(8, DriverBuffer{0x1000, 1});
  for (int step = 0; step < 100000; ++step) {
    const uint32_t n = 1 + random() % 8;
    const uint16_t head = ring.add(std::span(buffers).first(n), {});
    if (head != kNoChain) {
      each(head, [&](uint16_t id) { ASSERT_TRUE(held.insert(id).second) << step; });
      heads.push_back(head);
      (void)ring.publish();
    }
    if (head == kNoChain || random() % 3 == 0) {
      std::shuffle(heads.begin(), heads.end(), random);
      const size_t give = heads.empty() ? 0 : 1 + random() % heads.size();
      for (size_t i = 0; i < give; ++i) {
        each(heads.back(), [&](uint16_t id) { ASSERT_EQ(held.erase(id), 1u); });
        queue.use(heads.back(), 0);
        heads.pop_back();
      }
      std::vector<UsedChain> used(64);
      ASSERT_EQ(ring.poll_used(used.data(), 64), give);
    }
    ASSERT_EQ(ring.free_descriptors() + held.size(), 64u);
  }
}

TEST(SplitDriverRing, EntriesOfTheAvailableRingAreNotWrittenTwice) {
  Queue queue(4);
  SplitDriverRing<> ring(queue.layout);
  UsedChain used[4];
  for (int round = 0; round < 3; ++round) {
    ring.add_readable(4, kOne);
    (void)ring.publish();
    for (uint16_t i = 0; i < 4; ++i) {
      // What the driver would have to write is there already; so a mark that we leave survives.
      EXPECT_EQ(queue.layout.avail->ring[i], round == 0 ? i : 0xabcd);
      queue.layout.avail->ring[i] = 0xabcd;
      queue.use(i, 0);
    }
    ASSERT_EQ(ring.poll_used(used, 4), 4u);
  }
}

// Both sides on threads of their own: everything that is made available comes back with what the
// device found in the buffers. Run it under ThreadSanitizer.
TEST(SplitDriverRing, CarriesBuffersBetweenThreads) {
  constexpr uint32_t kCount = 20000;
  constexpr uint32_t kSize = 32;
  Queue queue(kSize);
  std::vector<uint64_t> payload(kSize), answer(kSize);
  SplitDriverRing<> ring(queue.layout, {.event_idx = true});
  std::thread device([&, layout = queue.layout] {
    const SharedAccess access;
    for (uint16_t next = 0, total = 0; total < kCount; ++next, ++total) {
      while (access.load_acquire(&layout.avail->idx) == next) std::this_thread::yield();
      const uint16_t head = access.load(&layout.avail->ring[next % kSize]);
      spec::virtq_desc desc;
      access.copy_in(&desc, &layout.desc[head], sizeof desc);
      answer[desc.addr] = payload[desc.addr] * 3;
      const spec::virtq_used_elem elem{head, 8};
      access.copy_out(&layout.used->ring[next % kSize], &elem, sizeof elem);
      access.store_release(&layout.used->idx, static_cast<uint16_t>(next + 1));
    }
  });
  uint64_t sent = 0, seen = 0;
  std::deque<uint64_t> expected;
  while (seen < kCount) {
    sent += ring.add_writable(std::min<uint64_t>(kCount - sent, 8), [&](size_t i, uint16_t id) {
      payload[id] = sent + i;
      return DriverBuffer{id, 8};
    });
    (void)ring.publish();
    UsedChain used[kSize];
    const size_t n = ring.poll_used(used, kSize);
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(answer[used[i].id], 3 * seen++);
    if (n == 0) std::this_thread::yield();
  }
  device.join();
  EXPECT_FALSE(ring.broken());
}

}  // namespace
}  // namespace pollux::ring
