// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/fdb.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <span>
#include <thread>
#include <vector>

namespace pollux::stage {
namespace {

constexpr uint64_t kMac = 0x5634'1200'5452;

std::unique_ptr<Fdb> make(uint32_t capacity = 1024, uint32_t max_age_s = 300, uint64_t seed = 1) {
  auto fdb = Fdb::create({capacity, max_age_s, seed});
  EXPECT_TRUE(fdb.has_value());
  return std::move(*fdb);
}

/// Different unicast addresses, spread over all 48 bits.
uint64_t address(uint64_t i) { return (i * 0x9e37'79b9'7f4a & ~uint64_t{1}) & 0xffff'ffff'ffff; }

size_t expire_all(Fdb& fdb, uint32_t now_s) { return fdb.expire(now_s, fdb.capacity()); }

TEST(Fdb, CapacityIsAPowerOfTwo) {
  for (const uint32_t bad : {0u, 1u, 2u, 3u, 1000u, 1u << 25}) {
    EXPECT_FALSE(Fdb::create({.capacity = bad}).has_value()) << bad;
  }
  EXPECT_EQ(make(4)->capacity(), 4u);
  auto standard = Fdb::create({});
  ASSERT_TRUE(standard.has_value());
  EXPECT_EQ((*standard)->capacity(), 131072u);
}

TEST(Fdb, FindsWhatItLearned) {
  auto fdb = make();
  EXPECT_EQ(fdb->lookup(kMac, 0), Fdb::kNoPort);
  EXPECT_EQ(fdb->learn(kMac, 0, 3, 10), Learned::kNew);
  EXPECT_EQ(fdb->lookup(kMac, 0), 3);
  EXPECT_EQ(fdb->size(), 1u);
  EXPECT_EQ(fdb->learn(kMac, 0, 3, 10), Learned::kKnown);
  EXPECT_EQ(fdb->size(), 1u);
}

TEST(Fdb, VlansAreApart) {
  auto fdb = make();
  fdb->learn(kMac, 0, 1, 10);
  fdb->learn(kMac, 4095, 2, 10);
  EXPECT_EQ(fdb->lookup(kMac, 0), 1);
  EXPECT_EQ(fdb->lookup(kMac, 4095), 2);
  EXPECT_EQ(fdb->lookup(kMac, 1), Fdb::kNoPort);
}

TEST(Fdb, TheSameAddressOnTwoPortsInTurn) {
  auto fdb = make();
  fdb->learn(kMac, 0, 1, 10);
  for (uint32_t i = 0; i < 100; ++i) {
    const uint16_t port = i % 2 == 0 ? 2 : 1;
    EXPECT_EQ(fdb->learn(kMac, 0, port, 10), Learned::kMoved);
    EXPECT_EQ(fdb->lookup(kMac, 0), port);
  }
  EXPECT_EQ(fdb->size(), 1u);
  EXPECT_EQ(fdb->counters().moved, 100u);
}

TEST(Fdb, NobodyHasAddressZero) {
  auto fdb = make();
  fdb->learn(0, 0, 1, 10);
  EXPECT_EQ(fdb->lookup(0, 0), Fdb::kNoPort);
  EXPECT_EQ(fdb->size(), 0u);
}

TEST(Fdb, ForgetsWhatIsSilent) {
  auto fdb = make(1024, 300);
  fdb->learn(address(1), 0, 1, 1000);
  fdb->learn(address(2), 0, 1, 1000);
  fdb->learn(address(2), 0, 1, 1001);  // heard again
  EXPECT_EQ(expire_all(*fdb, 1300), 0u);
  EXPECT_EQ(expire_all(*fdb, 1301), 1u);
  EXPECT_EQ(fdb->lookup(address(1), 0), Fdb::kNoPort);
  EXPECT_EQ(fdb->lookup(address(2), 0), 1);
  EXPECT_EQ(expire_all(*fdb, 1302), 1u);
  EXPECT_EQ(fdb->size(), 0u);
  EXPECT_EQ(fdb->counters().expired, 2u);
}

TEST(Fdb, AWorkersClockMayBeAhead) {
  auto fdb = make(1024, 0);
  fdb->learn(kMac, 0, 1, 1001);
  EXPECT_EQ(expire_all(*fdb, 1000), 0u);
}

TEST(Fdb, ExpiryGoesRoundTheTableInSteps) {
  auto fdb = make(1024, 10);
  for (uint64_t i = 1; i <= 500; ++i) fdb->learn(address(i), 0, 1, 0);
  size_t removed = 0;
  size_t calls = 0;
  for (; removed < 500 && calls < 100; ++calls) {
    const size_t now = fdb->expire(100, 16);
    EXPECT_LE(now, 16u * 4);
    removed += now;
  }
  EXPECT_EQ(removed, 500u);
  EXPECT_EQ(calls, 16u);  // 256 buckets
}

TEST(Fdb, ForgetsAPortAndEverything) {
  auto fdb = make();
  for (uint64_t i = 1; i <= 300; ++i) {
    fdb->learn(address(i), 0, static_cast<uint16_t>(i % 3), 0);
  }
  EXPECT_EQ(fdb->forget_port(1), 100u);
  EXPECT_EQ(fdb->size(), 200u);
  for (uint64_t i = 1; i <= 300; ++i) {
    EXPECT_EQ(fdb->lookup(address(i), 0), i % 3 == 1 ? Fdb::kNoPort : i % 3);
  }
  EXPECT_EQ(fdb->flush(), 200u);
  EXPECT_EQ(fdb->size(), 0u);
  EXPECT_EQ(fdb->learn(address(1), 0, 7, 0), Learned::kNew);
  EXPECT_EQ(fdb->lookup(address(1), 0), 7);
}

TEST(Fdb, SnapshotHasEverything) {
  auto fdb = make();
  fdb->learn(kMac, 5, 3, 10);
  fdb->learn(address(9), 0, 4, 11);
  auto entries = fdb->snapshot();
  ASSERT_EQ(entries.size(), 2u);
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.port < b.port; });
  EXPECT_EQ(entries[0].mac.to_text(), "52:54:00:12:34:56");
  EXPECT_EQ(entries[0].vlan, 5);
  EXPECT_EQ(entries[0].last_seen_s, 10u);
  EXPECT_EQ(entries[1].mac.key(), address(9));
  EXPECT_EQ(entries[1].last_seen_s, 11u);
}

TEST(Fdb, HoldsAHundredThousandWithoutEvicting) {
  for (const uint64_t seed : {1u, 2u, 3u}) {
    auto fdb = make(131072, 300, seed);
    for (uint64_t i = 1; i <= 100000; ++i) {
      ASSERT_EQ(fdb->learn(address(i), 0, static_cast<uint16_t>(i % 64), 0), Learned::kNew) << i;
    }
    EXPECT_EQ(fdb->size(), 100000u);
    for (uint64_t i = 1; i <= 100000; ++i) ASSERT_EQ(fdb->lookup(address(i), 0), i % 64) << i;
  }
}

TEST(Fdb, StaysBoundedUnderAFlood) {
  auto fdb = make(1024);
  for (uint64_t i = 1; i <= 100000; ++i) fdb->learn(address(i), 0, 1, 0);
  EXPECT_LE(fdb->size(), fdb->capacity());
  EXPECT_GE(fdb->size(), fdb->capacity() / 16 * 15);
  const FdbCounters counters = fdb->counters();
  EXPECT_EQ(counters.learned, 100000u);
  EXPECT_EQ(counters.learned - counters.evicted, fdb->size());
  EXPECT_EQ(fdb->snapshot().size(), fdb->size());
}

TEST(Fdb, EvictsTheOldestSoThatTheActiveStay) {
  auto fdb = make(1024);
  for (uint64_t i = 1; i <= 100; ++i) fdb->learn(address(i), 0, 2, 0);
  uint64_t next = 1000;
  for (uint32_t now_s = 1; now_s <= 50; ++now_s) {
    for (uint64_t i = 1; i <= 100; ++i) fdb->learn(address(i), 0, 2, now_s);
    for (int i = 0; i < 300; ++i) fdb->learn(address(next++), 0, 1, now_s);
  }
  size_t kept = 0;
  for (uint64_t i = 1; i <= 100; ++i) kept += fdb->lookup(address(i), 0) == 2 ? 1 : 0;
  EXPECT_GE(kept, 99u);
}

TEST(Fdb, SmallestTable) {
  auto fdb = make(4);
  for (uint64_t i = 1; i <= 50; ++i) fdb->learn(address(i), 0, 1, static_cast<uint32_t>(i));
  EXPECT_EQ(fdb->size(), 4u);
  EXPECT_EQ(fdb->lookup(address(50), 0), 1);
  EXPECT_EQ(fdb->flush(), 4u);
}

TEST(Fdb, SeedDecidesWhoCollides) {
  auto one = make(16, 300, 1);
  auto two = make(16, 300, 2);
  for (uint64_t i = 1; i <= 64; ++i) {
    one->learn(address(i), 0, 1, static_cast<uint32_t>(i));
    two->learn(address(i), 0, 1, static_cast<uint32_t>(i));
  }
  size_t differ = 0;
  for (uint64_t i = 1; i <= 64; ++i) {
    differ += one->lookup(address(i), 0) != two->lookup(address(i), 0) ? 1 : 0;
  }
  EXPECT_GT(differ, 0u);
}

/// Against a plain model: any order of operations.
TEST(Fdb, BehavesLikeAMap) {
  std::mt19937 random(5);
  auto fdb = make(4096, 20);
  std::vector<int> model(1000, -1);
  std::vector<uint32_t> seen(1000);
  uint32_t now_s = 0;
  for (int step = 0; step < 200000; ++step) {
    const size_t i = random() % model.size();
    const auto port = static_cast<uint16_t>(random() % 8);
    switch (random() % 100) {
      case 0: {
        ++now_s;
        expire_all(*fdb, now_s);
        for (size_t j = 0; j < model.size(); ++j) {
          if (now_s - seen[j] > 20) model[j] = -1;
        }
        break;
      }
      case 1:
        if (step % 16 != 0) break;
        fdb->forget_port(port);
        std::replace(model.begin(), model.end(), static_cast<int>(port), -1);
        break;
      default:
        fdb->learn(address(i + 1), 0, port, now_s);
        model[i] = port;
        seen[i] = now_s;
    }
    const size_t j = random() % model.size();
    ASSERT_EQ(fdb->lookup(address(j + 1), 0), model[j] < 0 ? Fdb::kNoPort : model[j]) << step;
  }
}

TEST(Fdb, BurstsAreWhatOneAfterTheOtherWouldBe) {
  auto together = make(256);  // small, so that second buckets and evictions occur
  auto apart = make(256);
  std::mt19937 random(7);
  for (uint32_t step = 0; step < 3000; ++step) {
    std::vector<uint64_t> macs(random() % 80);
    for (uint64_t& mac : macs) {
      const uint32_t i = random() % 280;  // sometimes nobody's, or twice the same
      mac = i == 0 ? 0 : address(i);
    }
    std::vector<uint16_t> ports(macs.size());
    together->lookup(macs, 0, ports.data());
    for (size_t i = 0; i < macs.size(); ++i) {
      ASSERT_EQ(ports[i], together->lookup(macs[i], 0)) << step;
    }
    // One to a call, or two that would contend for one place might be entered the other way round.
    const auto port = static_cast<uint16_t>(random() % 8);
    for (const uint64_t& mac : macs) {
      together->learn(std::span(&mac, 1), 0, port, step);
      apart->learn(mac, 0, port, step);
    }
    ASSERT_EQ(together->size(), apart->size()) << step;
  }
  EXPECT_EQ(together->counters().evicted, apart->counters().evicted);
  EXPECT_GT(together->counters().evicted, 0u);
}

TEST(Fdb, BurstOfNewAndKnownAddressesIsLearned) {
  auto fdb = make();
  std::vector<uint64_t> macs{0};
  for (uint64_t i = 1; i <= 100; ++i) macs.insert(macs.end(), {address(i), address(i)});
  fdb->learn(std::span(macs).first(61), 0, 1, 10);
  EXPECT_EQ(fdb->counters().learned, 30u);
  fdb->learn(macs, 0, 2, 11);
  EXPECT_EQ(fdb->size(), 100u);
  EXPECT_EQ(fdb->counters().moved, 30u);
  for (uint64_t i = 1; i <= 100; ++i) EXPECT_EQ(fdb->lookup(address(i), 0), 2) << i;
}

/// Every address has ports of its own residue, so a reader that mixed up two entries would see it.
TEST(FdbThreads, ReadersNeverSeeAnothersPort) {
  constexpr uint16_t kResidues = 16;
  auto fdb = make(64);  // tiny: entries are reused all the time
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> found{0};
  const auto worker = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (uint32_t step = 0; step < 60000; ++step) {
      const uint64_t i = 1 + random() % 256;
      const auto port = static_cast<uint16_t>(i % kResidues + kResidues * (random() % 4));
      fdb->learn(address(i), 0, port, step / 1000);
      const uint64_t j = 1 + random() % 256;
      const std::array<uint64_t, 2> both{address(j), address(j + 1)};
      std::array<uint16_t, 2> seen;
      fdb->lookup(both, 0, seen.data());
      for (size_t n = 0; n < seen.size(); ++n) {
        if (seen[n] == Fdb::kNoPort) continue;
        found.fetch_add(1, std::memory_order_relaxed);
        if (seen[n] % kResidues != (j + n) % kResidues)
          wrong.fetch_add(1, std::memory_order_relaxed);
      }
    }
  };
  std::thread control([&] {
    for (uint32_t round = 0; !stop.load(); ++round) {
      fdb->expire(round, 4);
      if (round % 64 == 0) fdb->forget_port(static_cast<uint16_t>(round / 64 % 64));
      if (round % 1024 == 0) fdb->flush();
      for (const FdbEntry& entry : fdb->snapshot()) EXPECT_NE(entry.mac.key(), 0u);
    }
  });
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < 3; ++i) workers.emplace_back(worker, i);
  for (std::thread& thread : workers) thread.join();
  stop = true;
  control.join();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_GT(found.load(), 0u);
  EXPECT_EQ(fdb->snapshot().size(), fdb->size());
  fdb->flush();
  EXPECT_EQ(fdb->size(), 0u);
  EXPECT_TRUE(fdb->snapshot().empty());
}

}  // namespace
}  // namespace pollux::stage
