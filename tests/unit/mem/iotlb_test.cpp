// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/iotlb.hpp"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <thread>

#include "pollux/mem/iotlb_reader.hpp"

namespace pollux {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kEnd = ~uint64_t{0};
constexpr uint64_t kUser = 0x7f0000000000;
constexpr uint8_t kRo = 1;
constexpr uint8_t kWo = 2;
constexpr uint8_t kRw = 3;
constexpr auto kRead = MemoryAccess::kRead;
constexpr auto kWrite = MemoryAccess::kWrite;
constexpr auto kOk = TranslationStatus::kOk;
constexpr auto kMiss = TranslationStatus::kMiss;
constexpr auto kFault = TranslationStatus::kFault;

/// Two regions of 64 pages, adjacent for the user, apart here.
struct IotlbTest : testing::Test {
  static constexpr uint64_t kRegion = 64 * kPage;
  std::vector<std::byte> low = std::vector<std::byte>(kRegion);
  std::vector<std::byte> high = std::vector<std::byte>(kRegion);
  std::shared_ptr<const PeerMemory> memory = memory_of(low, high);
  std::shared_ptr<Iotlb> iotlb = std::make_shared<Iotlb>(memory);

  static std::shared_ptr<const PeerMemory> memory_of(std::vector<std::byte>& a,
                                                     std::vector<std::byte>& b) {
    return PeerMemory::create(
               {{GuestAddr{0}, UserAddr{kUser}, kRegion, a.data(), nullptr},
                {GuestAddr{1 << 30}, UserAddr{kUser + kRegion}, kRegion, b.data(), nullptr}})
        .value();
  }
  Status map(uint64_t iova, uint64_t page, uint64_t pages = 1, uint8_t access = kRw) {
    return iotlb->update({iova, pages * kPage, UserAddr{kUser + page * kPage}, access});
  }
  Translation look(uint64_t iova, uint64_t len = 1, MemoryAccess access = kRead) {
    iotlb->publish();
    return iotlb->table()->translate(iova, len, access);
  }
  TranslationStatus status(uint64_t iova, MemoryAccess access = kRead) {
    return look(iova, 1, access).status;
  }
};

TEST_F(IotlbTest, KnowsNothingAtFirst) {
  EXPECT_EQ(status(0), kMiss);
  EXPECT_EQ(status(kEnd), kMiss);
  EXPECT_FALSE(iotlb->changed());
}

TEST_F(IotlbTest, TranslatesWhatItWasTold) {
  ASSERT_TRUE(map(0x10000, 3, 2));
  const Translation found = look(0x10ff0, 0x20);
  EXPECT_EQ(found.status, kOk);
  EXPECT_EQ(found.size, 0x20U);
  EXPECT_EQ(found.data, low.data() + 3 * kPage + 0xff0);
  EXPECT_EQ(look(0x11ff0, 0x20).size, 0x10U) << "what is behind it is not known";
  EXPECT_EQ(status(0x12000), kMiss);
  EXPECT_EQ(status(0xffff), kMiss);
}

TEST_F(IotlbTest, SaysWhatItWasTold) {
  ASSERT_TRUE(map(0x10000, 3));
  ASSERT_TRUE(map(0x11000, 4));  // one with the first
  ASSERT_TRUE(map(0x40000, 9, 1, kRo));
  iotlb->deny(0x50000, 0x50fff, kRo);
  Iotlb other(memory);
  for (const Iotlb::Mapping& mapping : iotlb->mappings()) ASSERT_TRUE(other.update(mapping));
  other.publish();
  EXPECT_EQ(other.runs(), 2U);
  EXPECT_EQ(other.table()->translate(0x11000, 1, kWrite).data, low.data() + 4 * kPage);
  EXPECT_EQ(other.table()->translate(0x40000, 1, kRead).data, low.data() + 9 * kPage);
  EXPECT_EQ(other.table()->translate(0x40000, 1, kWrite).status, kMiss);
  EXPECT_EQ(other.table()->translate(0x50000, 1, kRead).status, kMiss);
}

TEST_F(IotlbTest, NothingIsShownBeforeItIsPublished) {
  ASSERT_TRUE(map(0, 0));
  EXPECT_TRUE(iotlb->changed());
  EXPECT_EQ(iotlb->table()->translate(0, 1, kRead).status, kMiss);
  iotlb->publish();
  EXPECT_EQ(iotlb->table()->translate(0, 1, kRead).status, kOk);
  EXPECT_EQ(iotlb->retired(), 1U);
  iotlb->reclaim();
  EXPECT_EQ(iotlb->retired(), 0U);
}

TEST_F(IotlbTest, AccessIsWhatWasGranted) {
  ASSERT_TRUE(map(0, 0, 1, kRo));
  ASSERT_TRUE(map(kPage, 1, 1, kWo));
  ASSERT_TRUE(map(2 * kPage, 2, 1, 0));
  EXPECT_EQ(status(0, kRead), kOk);
  EXPECT_EQ(status(0, kWrite), kMiss) << "it may be granted, if it is asked for";
  EXPECT_EQ(status(kPage, kRead), kMiss);
  EXPECT_EQ(status(kPage, kWrite), kOk);
  EXPECT_EQ(status(2 * kPage, kRead), kFault);
  EXPECT_EQ(status(2 * kPage, kWrite), kFault);
  EXPECT_EQ(look(0, 2 * kPage, kRead).size, kPage) << "a range ends where access does";
}

TEST_F(IotlbTest, RefusesWhatCanNotBe) {
  const auto refused = [&](uint64_t iova, uint64_t size, uint64_t user) {
    const auto ok = iotlb->update({iova, size, UserAddr{user}, kRw});
    return !ok && ok.error().code == ErrorCode::kInvalidArgument && !iotlb->changed();
  };
  EXPECT_TRUE(refused(0, 0, kUser)) << "empty";
  EXPECT_TRUE(refused(kEnd - kPage + 2, kPage, kUser)) << "wraps by one";
  EXPECT_TRUE(refused(kPage, kEnd, kUser)) << "wraps";
  EXPECT_TRUE(refused(0, kPage, kUser - 1)) << "begins before the memory";
  EXPECT_TRUE(refused(0, kPage, kUser + 2 * kRegion - kPage + 1)) << "ends behind it";
  EXPECT_TRUE(refused(0, 2 * kPage, kUser + kRegion - kPage)) << "two regions";
  EXPECT_TRUE(refused(0, kPage, kEnd - 100)) << "user address wraps";
  EXPECT_EQ(iotlb->runs(), 0U);
  EXPECT_TRUE(map(kEnd - kPage + 1, 0)) << "the last page of all is one";
  EXPECT_EQ(status(kEnd), kOk);
  EXPECT_EQ(look(kEnd, 2).size, 1U);
}

TEST_F(IotlbTest, NeighboursJoinWhereTheyContinueEachOther) {
  for (const uint64_t page : {4, 2, 3, 0, 1}) ASSERT_TRUE(map(0x100000 + page * kPage, page));
  EXPECT_EQ(iotlb->runs(), 1U);
  EXPECT_EQ(look(0x100000, 5 * kPage).size, 5 * kPage);
  ASSERT_TRUE(map(0x105000, 7));          // elsewhere
  ASSERT_TRUE(map(0x106000, 8, 1, kRo));  // less access
  EXPECT_EQ(iotlb->runs(), 3U);
  EXPECT_EQ(look(0x105000, 2 * kPage).size, 2 * kPage) << "read over the seam";
  EXPECT_EQ(look(0x105000, 2 * kPage, kWrite).size, kPage);
  ASSERT_TRUE(map(0x200000, 63));
  ASSERT_TRUE(map(0x201000, 64));
  EXPECT_EQ(look(0x200000, 2 * kPage).size, kPage) << "regions are adjacent only for the user";
}

TEST_F(IotlbTest, JoinsBeforeItIsSettledToo) {
  ASSERT_TRUE(map(0, 0));
  iotlb->publish();
  ASSERT_TRUE(map(kPage, 1));
  EXPECT_EQ(look(100, kPage).size, kPage);
  EXPECT_EQ(iotlb->table()->recent().size(), 2U);
}

TEST_F(IotlbTest, TheSameAgainChangesNothing) {
  ASSERT_TRUE(map(0, 0, 4));
  iotlb->publish();
  ASSERT_TRUE(map(kPage, 1, 2));
  EXPECT_FALSE(iotlb->changed());
  EXPECT_FALSE(iotlb->must_wait());
}

TEST_F(IotlbTest, AnUpdateTakesThePlaceOfWhatItOverlaps) {
  ASSERT_TRUE(map(0, 0, 8));
  ASSERT_TRUE(map(2 * kPage, 20, 2));
  EXPECT_TRUE(iotlb->must_wait());
  EXPECT_EQ(look(kPage).data, low.data() + kPage);
  EXPECT_EQ(look(2 * kPage).data, low.data() + 20 * kPage);
  EXPECT_EQ(look(4 * kPage).data, low.data() + 4 * kPage);
  EXPECT_EQ(iotlb->runs(), 3U);
  ASSERT_TRUE(map(0, 0, 8));
  EXPECT_EQ(iotlb->runs(), 1U);
}

TEST_F(IotlbTest, OnlyWhatIsTakenAwayMustBeWaitedFor) {
  ASSERT_TRUE(map(0, 0, 2, kRo));
  ASSERT_TRUE(map(kPage, 1, 3, kRw)) << "the same place, more access";
  EXPECT_FALSE(iotlb->must_wait());
  ASSERT_TRUE(map(0, 0, 4, kRw));
  EXPECT_FALSE(iotlb->must_wait());
  iotlb->deny(0x100000, 0x100fff, kRo);
  iotlb->invalidate(0x100000, 0x100fff);
  EXPECT_FALSE(iotlb->must_wait()) << "nobody uses a refusal";
  ASSERT_TRUE(map(kPage, 1, 1, kRo));
  EXPECT_TRUE(iotlb->must_wait()) << "less access than before";
  iotlb->publish();
  iotlb->reclaim();
  iotlb->invalidate(0x200000, 0x2fffff);
  EXPECT_FALSE(iotlb->must_wait());
  iotlb->invalidate(3 * kPage, 3 * kPage);
  EXPECT_TRUE(iotlb->must_wait());
}

TEST_F(IotlbTest, InvalidationCutsExactly) {
  ASSERT_TRUE(map(0, 0, 8));
  iotlb->invalidate(3 * kPage + 5, 4 * kPage + 9);
  EXPECT_EQ(status(3 * kPage + 4), kOk);
  EXPECT_EQ(status(3 * kPage + 5), kMiss);
  EXPECT_EQ(status(4 * kPage + 9), kMiss);
  EXPECT_EQ(look(4 * kPage + 10).data, low.data() + 4 * kPage + 10);
  iotlb->invalidate(0, kEnd);
  EXPECT_EQ(iotlb->runs(), 0U);
  EXPECT_EQ(status(0), kMiss);
}

TEST_F(IotlbTest, RefusalsAreFaultsUntilSomebodySaysOtherwise) {
  ASSERT_TRUE(map(2 * kPage, 2, 1, kRo));
  iotlb->deny(0, 4 * kPage - 1, kWo);
  for (uint64_t page = 0; page < 4; ++page) EXPECT_EQ(status(page * kPage, kWrite), kFault) << page;
  EXPECT_EQ(status(0, kRead), kMiss);
  EXPECT_EQ(look(2 * kPage).data, low.data() + 2 * kPage) << "what was granted stays granted";
  iotlb->invalidate(0, kPage - 1);
  EXPECT_EQ(status(0, kWrite), kMiss);
  ASSERT_TRUE(map(kPage, 1));
  EXPECT_EQ(status(kPage, kWrite), kOk);
  iotlb->deny(0, kEnd, kRw);
  EXPECT_EQ(status(kEnd, kWrite), kFault);
  EXPECT_EQ(status(kPage, kWrite), kOk);
}

TEST_F(IotlbTest, MovesWithItsMemory) {
  ASSERT_TRUE(map(0, 0, 4));
  ASSERT_TRUE(map(0x100000, 64, 4));
  iotlb->deny(0x200000, 0x200fff, kRo);
  std::vector<std::byte> moved(kRegion);
  iotlb->rebase(
      PeerMemory::create({{GuestAddr{0}, UserAddr{kUser}, kRegion, moved.data(), nullptr}})
          .value());
  EXPECT_EQ(look(kPage).data, moved.data() + kPage);
  EXPECT_EQ(status(0x100000), kMiss) << "its region is gone";
  EXPECT_EQ(status(0x200000), kMiss);
  iotlb->rebase(nullptr);
  EXPECT_EQ(status(0), kMiss);
}

TEST_F(IotlbTest, IsBounded) {
  for (uint64_t i = 0; i < 3 * Iotlb::kMaxRuns; ++i) {
    ASSERT_TRUE(map(i * 2 * kPage, i % 128));
    ASSERT_LE(iotlb->runs(), Iotlb::kMaxRuns);
    if (i % 1000 == 0) iotlb->publish();
  }
  EXPECT_GT(iotlb->evicted(), Iotlb::kMaxRuns);
  EXPECT_FALSE(iotlb->must_wait()) << "what was forgotten still holds";
  EXPECT_EQ(status((3 * Iotlb::kMaxRuns - 1) * 2 * kPage), kOk) << "the newest are kept";
  EXPECT_EQ(status(0), kMiss) << "the oldest are not";
}

TEST_F(IotlbTest, HolesAreBoundedToo) {
  std::vector<std::byte> big((2 * Iotlb::kMaxRuns + 2) * 2);
  iotlb->rebase(
      PeerMemory::create({{GuestAddr{0}, UserAddr{kUser}, big.size(), big.data(), nullptr}})
          .value());
  ASSERT_TRUE(iotlb->update({0, big.size(), UserAddr{kUser}, kRw}));
  for (uint64_t i = 0; i < 2 * Iotlb::kMaxRuns; ++i) {
    iotlb->invalidate(2 * i + 1, 2 * i + 1);
    ASSERT_LE(iotlb->runs(), Iotlb::kMaxRuns);
  }
  EXPECT_GT(iotlb->evicted(), 0U);
}

/// Whatever is done, what workers see is what a plain map of pages says.
TEST_F(IotlbTest, AgreesWithAPlainMap) {
  struct Page {
    std::byte* host = nullptr;
    uint8_t granted = 0;
    uint8_t denied = 0;
  };
  constexpr uint64_t kPages = 96;
  std::mt19937 random(7);
  const auto upto = [&](uint64_t n) { return random() % n; };
  std::vector<Page> model(kPages);
  for (int step = 0; step < 20000; ++step) {
    const uint64_t first = upto(kPages);
    const uint64_t count = 1 + upto(std::min<uint64_t>(8, kPages - first));
    const auto access = static_cast<uint8_t>(upto(4));
    const uint64_t kind = upto(10);
    if (kind < 6) {
      const bool in_high = upto(2) != 0;
      const uint64_t to = upto(64 - count + 1);
      ASSERT_TRUE(map(first * kPage, to + (in_high ? 64 : 0), count, access));
      for (uint64_t i = 0; i < count; ++i) {
        std::byte* host = (in_high ? high : low).data() + (to + i) * kPage;
        model[first + i] = access == 0 ? Page{nullptr, 0, kRw} : Page{host, access, 0};
      }
    } else if (kind < 9) {
      iotlb->invalidate(first * kPage, (first + count) * kPage - 1);
      for (uint64_t i = 0; i < count; ++i) model[first + i] = {};
    } else {
      iotlb->deny(first * kPage, (first + count) * kPage - 1, access);
      for (uint64_t i = 0; i < count; ++i) {
        model[first + i].denied |= static_cast<uint8_t>(access & ~model[first + i].granted);
      }
    }
    if (upto(3) != 0) continue;  // several changes a table
    iotlb->publish();
    if (upto(20) == 0) iotlb->reclaim();
    const uint64_t page = upto(kPages);
    for (const MemoryAccess want : {kRead, kWrite}) {
      const auto bit = static_cast<uint8_t>(want);
      const Translation found = iotlb->table()->translate(page * kPage + 5, 3 * kPage, want);
      const Page& told = model[page];
      if ((told.granted & bit) == 0) {
        ASSERT_EQ(found.status, (told.denied & bit) != 0 ? kFault : kMiss) << step;
        continue;
      }
      ASSERT_EQ(found.status, kOk) << step;
      ASSERT_EQ(found.data, told.host + 5) << step;
      uint64_t more = 1;
      while (more < 4 && page + more < kPages && (model[page + more].granted & bit) != 0 &&
             model[page + more].host == told.host + more * kPage) {
        ++more;
      }
      ASSERT_EQ(found.size, std::min(3 * kPage, more * kPage - 5)) << step;
    }
  }
}

struct ViewTest : IotlbTest {
  std::shared_ptr<MissBell> bell =
      std::make_shared<MissBell>(UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
  IotlbReader reader{iotlb, bell};
  PeerView view{*memory, reader};

  std::vector<std::pair<uint64_t, MemoryAccess>> misses() {
    std::vector<std::pair<uint64_t, MemoryAccess>> all;
    bell->answer();
    for (IotlbMiss miss; reader.take(miss);) all.emplace_back(miss.iova, miss.access);
    return all;
  }
  bool rung() {
    eventfd_t count = 0;
    return eventfd_read(bell->fd(), &count) == 0;
  }
};

TEST_F(ViewTest, ReportsEachMissOnceATable) {
  view.refresh();
  EXPECT_EQ(view.translate(0x5010, 4, kRead).status, kMiss);
  EXPECT_EQ(view.translate(0x5ff0, 4, kRead).status, kMiss);
  EXPECT_EQ(view.translate(0x5010, 4, kWrite).status, kMiss);
  EXPECT_TRUE(rung());
  EXPECT_EQ(misses(),
            (std::vector<std::pair<uint64_t, MemoryAccess>>{{0x5010, kRead}, {0x5010, kWrite}}));
  for (int i = 0; i < 100; ++i) (void)view.translate(0x5010, 4, kRead);
  EXPECT_FALSE(view.refresh());
  EXPECT_EQ(view.translate(0x5010, 4, kRead).status, kMiss);
  EXPECT_TRUE(misses().empty());
  iotlb->ask_again();
  iotlb->publish();
  EXPECT_TRUE(view.refresh());
  EXPECT_EQ(view.translate(0x5010, 4, kRead).status, kMiss);
  EXPECT_EQ(misses().size(), 1U);
}

TEST_F(ViewTest, RingsOnceUntilItIsAnswered) {
  view.refresh();
  for (uint64_t page = 0; page < 200; ++page) (void)view.translate(page * kPage, 1, kRead);
  EXPECT_TRUE(rung());
  EXPECT_FALSE(rung());
  EXPECT_EQ(misses().size(), 64U) << "bounded";
  for (uint64_t page = 0; page < 200; ++page) (void)view.translate(page * kPage, 1, kRead);
  EXPECT_FALSE(rung()) << "no more before some of these are answered";
}

TEST_F(ViewTest, SeesATableFromTheNextTurnOn) {
  view.refresh();
  ASSERT_TRUE(map(0, 0));
  iotlb->publish();
  EXPECT_EQ(view.translate(0, 4, kRead).status, kMiss);
  EXPECT_TRUE(view.refresh());
  EXPECT_EQ(view.translate(0, 4, kRead).data, low.data());
  iotlb->invalidate(0, kEnd);
  iotlb->publish();
  EXPECT_EQ(view.translate(0, 4, kRead).data, low.data()) << "good to the end of the turn";
  EXPECT_TRUE(view.refresh());
  EXPECT_EQ(view.translate(0, 4, kRead).status, kMiss);
}

TEST_F(ViewTest, WhatWasHitLastDoesNotWidenAccess) {
  ASSERT_TRUE(map(0, 0, 1, kRo));
  ASSERT_TRUE(map(kPage, 9, 1, kWo));
  iotlb->publish();
  view.refresh();
  EXPECT_EQ(view.translate(8, 8, kRead).status, kOk);
  EXPECT_EQ(view.translate(8, 8, kWrite).status, kMiss);
  EXPECT_EQ(view.translate(kPage, 8, kWrite).data, low.data() + 9 * kPage);
  EXPECT_EQ(view.translate(kPage, 8, kRead).status, kMiss);
  EXPECT_EQ(view.translate(16, 8, kRead).data, low.data() + 16);
  EXPECT_EQ(view.translate(kPage - 4, 8, kRead).size, 4U);
}

/// Control maps and unmaps while a worker translates: what the worker gets within a turn is either
/// right or a miss. Worth a run under ThreadSanitizer.
TEST_F(ViewTest, ControlAndWorkerAtOnce) {
  std::atomic<uint64_t> round{0};
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    while (!stop.load()) {
      round.fetch_add(1);
      view.refresh();
      for (uint64_t page = 0; page < 64; ++page) {
        const Translation found = view.translate(page * kPage, 16, kRead);
        if (found.status != kOk) continue;
        ASSERT_EQ(found.data, low.data() + page * kPage);
      }
    }
    round.fetch_add(2);
  });
  const auto quiet = [&] {
    const uint64_t then = round.load();
    while (round.load() == then) std::this_thread::yield();
  };
  size_t missed = 0;
  for (int i = 0; i < 300; ++i) {
    bell->answer();
    for (IotlbMiss miss; reader.take(miss); ++missed) {
      ASSERT_TRUE(map(miss.iova, miss.iova / kPage));
    }
    if (i % 5 == 0) iotlb->invalidate((i % 64) * kPage, (i % 64 + 8) * kPage);
    iotlb->publish();
    if (!iotlb->must_wait()) continue;
    quiet();
    iotlb->reclaim();
  }
  stop.store(true);
  worker.join();
}

TEST(PeerMemory, KnowsTheGuestAddressOfWhatItTranslated) {
  std::vector<std::byte> bytes(100);
  const auto memory =
      PeerMemory::create({{GuestAddr{0x5000}, UserAddr{0}, 100, bytes.data(), nullptr}}).value();
  EXPECT_EQ(memory->guest_address(bytes.data() + 99), GuestAddr{0x5063});
  EXPECT_EQ(memory->guest_address(bytes.data() + 100), std::nullopt);
}

}  // namespace
}  // namespace pollux
