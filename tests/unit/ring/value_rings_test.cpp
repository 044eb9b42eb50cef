// SPDX-License-Identifier: Apache-2.0
// The rings that carry plain values between threads: SpscRing and MpmcRing.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <latch>
#include <numeric>
#include <thread>
#include <vector>

#include "pollux/ring/mpmc_ring.hpp"
#include "pollux/ring/spsc_ring.hpp"

namespace pollux {
namespace {

template <typename Ring>
class ValueRing : public testing::Test {};

using Rings = testing::Types<SpscRing<uint64_t>, MpmcRing<uint64_t>>;
TYPED_TEST_SUITE(ValueRing, Rings);

TYPED_TEST(ValueRing, CapacityIsRoundedUpAndFullyUsable) {
  TypeParam ring(5);
  EXPECT_EQ(ring.capacity(), 8u);
  for (uint64_t i = 0; i < 8; ++i) EXPECT_TRUE(ring.push(i));
  EXPECT_FALSE(ring.push(8));
  EXPECT_EQ(ring.size(), 8u);
  uint64_t out = 99;
  for (uint64_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(ring.pop(out));
    EXPECT_EQ(out, i);
  }
  EXPECT_FALSE(ring.pop(out));
  EXPECT_EQ(ring.size(), 0u);
}

TYPED_TEST(ValueRing, BulkIsAllOrNothing) {
  TypeParam ring(8);
  const std::array<uint64_t, 6> six{1, 2, 3, 4, 5, 6};
  std::array<uint64_t, 8> out{};
  EXPECT_TRUE(ring.push_bulk(six.data(), 6));
  EXPECT_FALSE(ring.push_bulk(six.data(), 3));
  EXPECT_EQ(ring.size(), 6u);
  EXPECT_FALSE(ring.pop_bulk(out.data(), 7));
  EXPECT_TRUE(ring.pop_bulk(out.data(), 6));
  EXPECT_TRUE(std::equal(six.begin(), six.end(), out.begin()));
}

TYPED_TEST(ValueRing, BurstTakesWhatFits) {
  TypeParam ring(8);
  const std::array<uint64_t, 6> six{1, 2, 3, 4, 5, 6};
  std::array<uint64_t, 16> out{};
  EXPECT_EQ(ring.push_burst(six.data(), 6), 6u);
  EXPECT_EQ(ring.push_burst(six.data(), 6), 2u);
  EXPECT_EQ(ring.push_burst(six.data(), 6), 0u);
  EXPECT_EQ(ring.pop_burst(out.data(), 16), 8u);
  const std::array<uint64_t, 8> expected{1, 2, 3, 4, 5, 6, 1, 2};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), out.begin()));
  EXPECT_EQ(ring.pop_burst(out.data(), 16), 0u);
}

TYPED_TEST(ValueRing, WrapsAtEveryPosition) {
  TypeParam ring(8);
  std::array<uint64_t, 5> in{};
  std::array<uint64_t, 5> out{};
  uint64_t next = 0;
  for (int round = 0; round < 40; ++round) {
    std::iota(in.begin(), in.end(), next);
    next += in.size();
    ASSERT_TRUE(ring.push_bulk(in.data(), in.size()));
    ASSERT_TRUE(ring.pop_bulk(out.data(), out.size()));
    ASSERT_EQ(in, out);
  }
}

TYPED_TEST(ValueRing, NothingOfNothing) {
  TypeParam ring(4);
  EXPECT_TRUE(ring.push_bulk(nullptr, 0));
  EXPECT_EQ(ring.pop_burst(nullptr, 0), 0u);
}

// One producer and one consumer see every value once and in order, whatever the sizes of calls.
TYPED_TEST(ValueRing, OrderBetweenTwoThreads) {
  constexpr uint64_t kCount = 200'000;
  TypeParam ring(64);
  std::jthread producer([&] {
    std::array<uint64_t, 16> values{};
    for (uint64_t next = 0; next < kCount;) {
      const size_t want = std::min<uint64_t>(1 + next % 16, kCount - next);
      std::iota(values.begin(), values.end(), next);
      const size_t done = ring.push_burst(values.data(), want);
      if (done == 0) std::this_thread::yield();
      next += done;
    }
  });
  std::array<uint64_t, 32> values{};
  for (uint64_t next = 0; next < kCount;) {
    const size_t got = ring.pop_burst(values.data(), 1 + next % 32);
    if (got == 0) std::this_thread::yield();
    for (size_t i = 0; i < got; ++i) ASSERT_EQ(values[i], next++);
  }
}

// Several of each: every value arrives once, and those of one producer in order at each consumer.
TEST(MpmcRing, EveryValueOnceAmongManyThreads) {
  constexpr size_t kThreads = 3;
  constexpr uint64_t kEach = 30'000;
  MpmcRing<uint64_t> ring(32);
  std::atomic<uint64_t> taken{0};
  std::latch start(2 * kThreads);
  std::array<std::vector<uint64_t>, kThreads> seen;
  {
    std::vector<std::jthread> threads;
    for (size_t p = 0; p < kThreads; ++p) {
      threads.emplace_back([&, p] {
        start.arrive_and_wait();
        std::array<uint64_t, 4> values{};
        for (uint64_t i = 0; i < kEach;) {
          const size_t n = std::min<uint64_t>(values.size(), kEach - i);
          for (size_t k = 0; k < n; ++k) values[k] = p * kEach + i + k;
          if (ring.push_bulk(values.data(), n)) {
            i += n;
          } else {
            std::this_thread::yield();
          }
        }
      });
    }
    for (size_t c = 0; c < kThreads; ++c) {
      threads.emplace_back([&, c] {
        start.arrive_and_wait();
        std::array<uint64_t, 5> values{};
        while (taken.load() < kThreads * kEach) {
          const size_t n = ring.pop_burst(values.data(), values.size());
          if (n == 0) std::this_thread::yield();
          taken += n;
          seen[c].insert(seen[c].end(), values.begin(), values.begin() + n);
        }
      });
    }
  }
  std::vector<int> times(kThreads * kEach, 0);
  for (const auto& mine : seen) {
    std::array<uint64_t, kThreads> last{};
    for (const uint64_t value : mine) {
      ++times[value];
      uint64_t& before = last[value / kEach];
      EXPECT_GE(value + 1, before);
      before = value + 1;
    }
  }
  EXPECT_TRUE(std::ranges::all_of(times, [](int n) { return n == 1; }));
}

// Values of one bulk stay together.
TEST(MpmcRing, BulkStaysTogether) {
  constexpr uint64_t kBulks = 20'000;
  MpmcRing<uint64_t> ring(64);
  const auto produce = [&](uint64_t first) {
    for (uint64_t i = 0; i < kBulks; ++i) {
      const uint64_t value = first + 2 * i;
      const std::array<uint64_t, 3> three{value, value, value};
      while (!ring.push_bulk(three.data(), 3)) std::this_thread::yield();
    }
  };
  std::jthread even(produce, 0);
  std::jthread odd(produce, 1);
  std::array<uint64_t, 3> out{};
  for (uint64_t i = 0; i < 2 * kBulks; ++i) {
    while (!ring.pop_bulk(out.data(), 3)) std::this_thread::yield();
    ASSERT_TRUE(out[0] == out[1] && out[1] == out[2]);
  }
}

}  // namespace
}  // namespace pollux
