// SPDX-License-Identifier: Apache-2.0
#include "pollux/packet/free_list.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

namespace pollux {
namespace {

std::vector<uint32_t> numbers(uint32_t count) {
  std::vector<uint32_t> all(count);
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

TEST(FreeList, HandsOutTheLastGivenBackFirst) {
  FreeList<uint32_t> list(4);
  const auto all = numbers(4);
  list.push(all.data(), all.size());
  std::vector<uint32_t> out(2);
  EXPECT_EQ(list.pop(out.data(), 2), 2u);
  std::ranges::sort(out);
  EXPECT_EQ(out, (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(list.size(), 2u);
}

TEST(FreeList, GivesWhatThereIsWhenAskedForMore) {
  FreeList<uint32_t> list(3);
  const auto all = numbers(3);
  list.push(all.data(), all.size());
  std::vector<uint32_t> out(10);
  EXPECT_EQ(list.pop(out.data(), 10), 3u);
  EXPECT_EQ(list.pop(out.data(), 10), 0u);
  EXPECT_EQ(list.size(), 0u);
}

TEST(FreeCache, GivesEachItemOnceUntilTheListIsEmpty) {
  constexpr uint32_t kCount = 1000;
  FreeList<uint32_t> list(kCount);
  const auto all = numbers(kCount);
  list.push(all.data(), all.size());
  std::vector<uint32_t> got;
  {
    FreeCache<uint32_t> cache(list);
    for (uint32_t item = 0; cache.get(item);) got.push_back(item);
    EXPECT_EQ(got.size(), kCount);
    cache.put_bulk(got.data(), got.size());
  }
  std::ranges::sort(got);
  EXPECT_EQ(got, all);
  EXPECT_EQ(list.size(), kCount) << "a dying cache gives everything back";
}

TEST(FreeCache, BulkTakesAcrossCacheAndList) {
  FreeList<uint32_t> list(300);
  const auto all = numbers(300);
  list.push(all.data(), all.size());
  FreeCache<uint32_t> cache(list);
  std::vector<uint32_t> out(300);
  ASSERT_EQ(cache.get_bulk(out.data(), 10), 10u);
  // 246 of the 256 that were fetched are left, and 44 in the list.
  ASSERT_EQ(cache.get_bulk(out.data() + 10, 250), 250u);
  EXPECT_EQ(cache.get_bulk(out.data() + 260, 256), 40u);
  std::ranges::sort(out);
  EXPECT_EQ(out, all);
}

TEST(FreeCache, KeepsOnlyItsOwnRoom) {
  constexpr size_t kRoom = 8;
  FreeList<uint32_t> list(100);
  const auto all = numbers(100);
  FreeCache<uint32_t, kRoom> cache(list);
  cache.put_bulk(all.data(), all.size());
  EXPECT_GE(list.size(), 100 - kRoom);
  uint32_t item = 0;
  ASSERT_TRUE(cache.get(item));
  EXPECT_EQ(item, 99u) << "the warmest comes first";
}

// A worker that only receives drains its cache while another that only sends fills its own: all
// items keep going round through the list.
TEST(FreeCache, ItemsCrossBetweenThreadsWithoutLossOrDouble) {
  constexpr uint32_t kCount = 4096;
  constexpr int kThreads = 4;
  constexpr int kRounds = 2000;
  FreeList<uint32_t> list(kCount);
  const auto all = numbers(kCount);
  list.push(all.data(), all.size());
  std::vector<std::atomic<int>> owners(kCount);
  std::atomic<bool> doubly_owned{false};
  const auto work = [&](unsigned seed) {
    FreeCache<uint32_t> cache(list);
    std::vector<uint32_t> held;
    for (int i = 0; i < kRounds; ++i) {
      uint32_t batch[64];
      const size_t n = cache.get_bulk(batch, 1 + (seed = seed * 1664525 + 1013904223) % 64);
      for (size_t k = 0; k < n; ++k) {
        if (owners[batch[k]].fetch_add(1) != 0) doubly_owned = true;
        held.push_back(batch[k]);
      }
      if (held.size() < 512) continue;
      for (const uint32_t item : held) owners[item].fetch_sub(1);
      cache.put_bulk(held.data(), held.size());
      held.clear();
    }
    for (const uint32_t item : held) owners[item].fetch_sub(1);
    cache.put_bulk(held.data(), held.size());
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back(work, static_cast<unsigned>(t));
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(doubly_owned);
  ASSERT_EQ(list.size(), kCount);
  std::vector<uint32_t> back(kCount);
  list.pop(back.data(), kCount);
  std::ranges::sort(back);
  EXPECT_EQ(back, all);
}

}  // namespace
}  // namespace pollux
