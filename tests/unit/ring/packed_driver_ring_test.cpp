// SPDX-License-Identifier: Apache-2.0
#include "pollux/ring/packed_driver_ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "tests/support/packed_model.hpp"

namespace pollux::ring {
namespace {

using test::PackedModel;

constexpr auto kOne = [](size_t, uint16_t) { return DriverBuffer{0x1000, 64}; };
constexpr uint64_t kTables = 0x9000;

/// Ring memory, and a device's hands on it.
struct Queue {
  explicit Queue(uint32_t size, uint32_t table_count = 0, uint32_t table_entries = 0)
      : memory(packed_bytes(size) + 64),
        tables(size_t{table_count} * table_entries),
        layout(place_packed(reinterpret_cast<std::byte*>(
                                (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64),
                            size)),
        indirect{tables.data(), kTables, table_count, table_entries},
        device(layout, reinterpret_cast<const std::byte*>(tables.data()), kTables) {}

  std::vector<std::byte> memory;
  std::vector<spec::pvirtq_desc> tables;
  PackedLayout layout;
  IndirectTables indirect;
  PackedModel device;
};

TEST(PackedDriverRing, TakesExactlyAsManyAsItHasEntries) {
  for (const bool in_order : {false, true}) {
    for (const uint32_t size : {1u, 2u, 3u, 100u, 256u, 1000u, 32767u, 32768u}) {
      Queue queue(size);
      PackedDriverRing<> ring(queue.layout, {.in_order = in_order});
      for (int lap = 0; lap < 3; ++lap) {
        EXPECT_FALSE(queue.device.available());
        EXPECT_EQ(ring.add_readable(size + 5, kOne), size);
        EXPECT_EQ(ring.free_descriptors(), 0u);
        EXPECT_FALSE(ring.has_room(1));
        const DriverBuffer buffer{0x1000, 1};
        EXPECT_EQ(ring.add({&buffer, 1}, {}), kNoChain);
        EXPECT_FALSE(queue.device.available());
        (void)ring.publish();
        EXPECT_EQ(ring.outstanding(), size);
        std::vector<bool> seen(size);
        for (uint32_t i = 0; i < size; ++i) {
          ASSERT_TRUE(queue.device.available());
          const auto chain = queue.device.take();
          ASSERT_LT(chain.id, size);
          ASSERT_FALSE(seen[chain.id]);
          seen[chain.id] = true;
          queue.device.use(chain, 0);
        }
        std::vector<UsedChain> used(size);
        EXPECT_EQ(ring.poll_used(used.data(), size), size);
        EXPECT_EQ(ring.free_descriptors(), size);
        EXPECT_FALSE(ring.broken());
      }
    }
  }
}

TEST(PackedDriverRing, RefusesChainsThatCanNotBe) {
  Queue queue(5);
  PackedDriverRing<> ring(queue.layout);
  EXPECT_EQ(ring.add({}, {}), kNoChain);
  const std::vector<DriverBuffer> six(6, DriverBuffer{0x1000, 1});
  EXPECT_EQ(ring.add(six, {}), kNoChain);
  const std::vector<DriverBuffer> huge(2, DriverBuffer{0x1000, 0x80000000});
  EXPECT_EQ(ring.add(huge, {}), kNoChain) << "2^32 bytes";
  EXPECT_EQ(ring.add(std::span(huge).first(1), std::span(huge).first(1)), kNoChain);
  EXPECT_EQ(ring.free_descriptors(), 5u);
  EXPECT_EQ(ring.add(std::span(six).first(4), {}), 0);
  EXPECT_FALSE(ring.has_room(2));
  EXPECT_EQ(ring.add(std::span(six).first(2), {}), kNoChain);
  EXPECT_NE(ring.add(std::span(six).first(1), {}), kNoChain);
}

TEST(PackedDriverRing, IndirectChainsTakeOneDescriptorEach) {
  Queue queue(5, 5, 4);
  PackedDriverRing<> ring(queue.layout, {.indirect = queue.indirect});
  const std::vector<DriverBuffer> four(4, DriverBuffer{0x1000, 1});
  for (int i = 0; i < 5; ++i) EXPECT_NE(ring.add(four, {}), kNoChain);
  EXPECT_FALSE(ring.has_room(4));
  (void)ring.publish();
  const auto chain = queue.device.take();
  EXPECT_EQ(chain.parts.size(), 4u);
  queue.device.use(chain, 0);
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  EXPECT_NE(ring.add(four, {}), kNoChain);
  EXPECT_EQ(queue.layout.desc[0].addr, kTables) << "its table is free again, too";
}

TEST(PackedDriverRing, PollTakesAtMostWhatItIsGivenRoomFor) {
  for (const bool in_order : {false, true}) {
    Queue queue(7);
    PackedDriverRing<> ring(queue.layout, {.in_order = in_order});
    ring.add_writable(7, kOne);
    (void)ring.publish();
    std::vector<PackedModel::Chain> chains;
    for (uint32_t i = 0; i < 7; ++i) chains.push_back(queue.device.take());
    if (!in_order) std::reverse(chains.begin(), chains.end());
    for (uint32_t i = 0; i < 7; ++i) queue.device.use(chains[i], i);
    UsedChain used[8];
    EXPECT_EQ(ring.poll_used(used, 3), 3u);
    EXPECT_EQ(used[2].id, chains[2].id);
    EXPECT_EQ(used[2].len, 2u);
    EXPECT_EQ(ring.poll_used(used, 8), 4u);
    EXPECT_EQ(used[3].id, chains[6].id);
    EXPECT_FALSE(ring.broken());
  }
}

TEST(PackedDriverRing, LengthOfAReadOnlyChainIsIgnored) {
  Queue queue(2);
  PackedDriverRing<> ring(queue.layout);
  ring.add_readable(1, kOne);
  (void)ring.publish();
  queue.device.use(queue.device.take(), 0xffffffff);  // 2.8.4: reserved
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  EXPECT_EQ(used.len, 0u);
}

TEST(PackedDriverRing, DrainReleasesWhatWasAddedAndNotReturned) {
  for (const bool in_order : {false, true}) {
    Queue queue(9, 2, 4);
    PackedDriverRing<> ring(queue.layout, {.in_order = in_order, .indirect = queue.indirect});
    const std::vector<DriverBuffer> two(2, DriverBuffer{0x1000, 1});
    std::set<uint16_t> live;
    for (int i = 0; i < 4; ++i) live.insert(ring.add(two, {}));  // two indirect, two direct
    (void)ring.publish();
    ring.add_writable(1, [&](size_t, uint16_t id) {
      live.insert(id);
      return DriverBuffer{0x2000, 64};
    });
    const auto chain = queue.device.take();
    queue.device.use(chain, 0);
    UsedChain used;
    ASSERT_EQ(ring.poll_used(&used, 1), 1u);
    live.erase(chain.id);
    ring.drain([&](uint16_t id) { EXPECT_EQ(live.erase(id), 1u) << id; });
    EXPECT_TRUE(live.empty());
    EXPECT_EQ(ring.free_descriptors(), 9u);
    EXPECT_EQ(ring.outstanding(), 0);
    EXPECT_FALSE(ring.publish());
  }
}

/// Chains of every kind, of which the device takes some and returns some, for many laps of a ring
/// of an odd size: each comes back once, with its length, and no id is given out twice.
void churn(bool in_order, bool with_tables, unsigned seed) {
  std::mt19937 random(seed);
  constexpr uint32_t kSize = 61;
  Queue queue(kSize, with_tables ? 8 : 0, 6);
  PackedDriverRing<> ring(queue.layout,
                          {.event_idx = true,
                           .in_order = in_order,
                           .indirect = with_tables ? queue.indirect : IndirectTables{}});
  struct Sent {
    uint64_t mark;
    uint32_t capacity;
    size_t parts;
  };
  std::map<uint16_t, Sent> out;
  std::deque<uint16_t> order;
  std::vector<PackedModel::Chain> held;
  std::map<uint16_t, uint32_t> lens;
  uint64_t next_mark = 1;
  for (int step = 0; step < 10000; ++step) {
    const size_t n = 1 + random() % 8;
    std::vector<DriverBuffer> readable(random() % (n + 1));
    std::vector<DriverBuffer> writable(n - readable.size());
    uint32_t capacity = 0;
    for (auto& b : readable) b = {next_mark, 1 + uint32_t(random() % 100)};
    for (auto& b : writable) {
      b = {next_mark, 1 + uint32_t(random() % 100)};
      capacity += b.len;
    }
    const uint16_t id = ring.add(readable, writable);
    if (id != kNoChain) {
      ASSERT_LT(id, kSize);
      ASSERT_TRUE(out.emplace(id, Sent{next_mark++, capacity, n}).second) << "an id twice";
      order.push_back(id);
    }
    if (id == kNoChain || random() % 2 == 0) (void)ring.publish();
    while (queue.device.available() && random() % 4 != 0) {
      held.push_back(queue.device.take());
      const Sent& sent = out.at(held.back().id);
      ASSERT_EQ(held.back().parts.size(), sent.parts);
      for (const auto& part : held.back().parts) ASSERT_EQ(part.addr, sent.mark);
    }
    if (held.empty() || random() % 3 != 0) continue;
    const size_t give = 1 + random() % held.size();
    if (!in_order) std::shuffle(held.begin(), held.end(), random);
    for (size_t i = 0; i < give;) {
      // In order, a batch ends with any chain, and all before it are whole.
      const size_t batch = in_order ? 1 + random() % (give - i) : 1;
      uint16_t length = 0;
      for (size_t k = i; k < i + batch; ++k) {
        length = static_cast<uint16_t>(length + held[k].length);
        lens[held[k].id] = out.at(held[k].id).capacity;
      }
      const auto& last = held[i + batch - 1];
      const uint32_t capacity_of_last = out.at(last.id).capacity;
      lens[last.id] = capacity_of_last == 0 ? 0 : random() % (capacity_of_last + 1);
      queue.device.use(last.id, lens[last.id], length);
      i += batch;
    }
    std::vector<UsedChain> used(kSize);
    const size_t first = ring.poll_used(used.data(), 1 + random() % kSize);
    const size_t all = first + ring.poll_used(used.data() + first, kSize - first);
    ASSERT_EQ(all, give);
    for (size_t i = 0; i < give; ++i) {
      ASSERT_EQ(used[i].id, held[i].id);
      ASSERT_EQ(used[i].len, lens[used[i].id]);
      ASSERT_EQ(out.erase(used[i].id), 1u);
      ASSERT_TRUE(!in_order || used[i].id == order.front());
      order.erase(std::find(order.begin(), order.end(), used[i].id));
    }
    held.erase(held.begin(), held.begin() + static_cast<ptrdiff_t>(give));
  }
  EXPECT_FALSE(ring.broken());
  EXPECT_GT(next_mark, 3000u);
}

TEST(PackedDriverRing, ReturnsEachChainOnceInAnyOrder) {
  churn(false, false, 1);
  churn(false, true, 2);
}

TEST(PackedDriverRing, ReturnsBatchesInOrder) {
  churn(true, false, 3);
  churn(true, true, 4);
}

// Both sides on threads of their own: everything that is made available comes back with what the
// device found in the buffers. Run it under ThreadSanitizer.
TEST(PackedDriverRing, CarriesBuffersBetweenThreads) {
  constexpr uint32_t kCount = 5000;
  constexpr uint32_t kSize = 29;
  for (const bool in_order : {false, true}) {
    Queue queue(kSize);
    std::vector<uint64_t> payload(kSize), answer(kSize);
    PackedDriverRing<> ring(queue.layout, {.event_idx = true, .in_order = in_order});
    std::thread device([&, layout = queue.layout] {
      const SharedAccess access;
      uint32_t at = 0;
      bool wrap = true;
      for (uint32_t total = 0; total < kCount; ++total) {
        spec::pvirtq_desc& desc = layout.desc[at];
        const auto available = [&] {
          return (access.load_acquire(&desc.flags) & 0x8080) == (wrap ? 0x80 : 0x8000);
        };
        while (!available()) std::this_thread::yield();
        const uint64_t addr = access.load(&desc.addr);
        answer[addr] = payload[addr] * 3;
        access.store(&desc.len, uint32_t{8});
        access.store_release(&desc.flags, static_cast<uint16_t>(wrap ? 0x8082 : 0x0002));
        if (++at == kSize) {
          at = 0;
          wrap = !wrap;
        }
      }
    });
    uint64_t sent = 0, seen = 0;
    while (seen < kCount) {
      sent += ring.add_writable(std::min<uint64_t>(kCount - sent, 8), [&](size_t i, uint16_t id) {
        payload[id] = sent + i;
        return DriverBuffer{id, 8};
      });
      (void)ring.publish();
      UsedChain used[kSize];
      const size_t n = ring.poll_used(used, kSize);
      for (size_t i = 0; i < n; ++i) {
        EXPECT_EQ(answer[used[i].id], 3 * seen++);
        EXPECT_EQ(used[i].len, 8u);
      }
      if (n == 0) std::this_thread::yield();
    }
    device.join();
    EXPECT_FALSE(ring.broken());
  }
}

}  // namespace
}  // namespace pollux::ring
