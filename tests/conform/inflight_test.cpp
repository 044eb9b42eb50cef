// SPDX-License-Identifier: Apache-2.0
// The in-flight region of the vhost-user text ("Inflight I/O tracking"), bytes worked out by hand:
// a split queue's region is 8 bytes of features, 2 each of version, desc_num, last_batch_head and
// used_idx, then for each entry 1 byte inflight, 5 of padding, 2 of next, 8 of counter. Packed
// ones: inflight_packed_test.cpp.
#include "pollux/vhost/inflight.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <vector>

#include "tests/support/inflight_bytes.hpp"

namespace pollux::vhost {
namespace {

constexpr uint16_t kSize = 4;   // entries of each queue
constexpr size_t kQueue = 128;  // 16 + 4 * 16 = 80 bytes, rounded up to 64

spec::VhostUserInflight told(uint16_t queues, uint16_t size) {
  spec::VhostUserInflight told{};
  told.num_queues = queues;
  told.queue_size = size;
  return told;
}

/// A region for two queues of four entries, as bytes.
class SplitInflight : public testing::Test {
 protected:
  void put16(size_t at, uint16_t value) { region_.put(at, value); }
  uint16_t get16(size_t at) const { return region_.get<uint16_t>(at); }
  /// Entry `i` of queue 1.
  void entry(size_t i, uint8_t inflight, uint16_t next, uint64_t counter) {
    uint8_t* at = region_.bytes() + kQueue + 16 + 16 * i;
    at[0] = inflight;
    std::memcpy(at + 6, &next, 2);
    std::memcpy(at + 8, &counter, 8);
  }
  uint8_t inflight(size_t i) const { return region_.bytes()[kQueue + 16 + 16 * i]; }
  /// The header of queue 1.
  void header(uint16_t version, uint16_t desc_num, uint16_t last_batch_head, uint16_t used_idx) {
    put16(kQueue + 8, version);
    put16(kQueue + 10, desc_num);
    put16(kQueue + 12, last_batch_head);
    put16(kQueue + 14, used_idx);
  }
  std::vector<uint16_t> recover(uint16_t used_idx) {
    auto heads = region_.region()->recover_split(1, kSize, used_idx);
    EXPECT_TRUE(heads) << (heads ? "" : heads.error().what);
    return heads ? *heads : std::vector<uint16_t>{0xffff};
  }
  bool refused(uint16_t queue = 1, uint32_t size = kSize, uint16_t used_idx = 0) {
    return !region_.region()->recover_split(queue, size, used_idx).has_value();
  }

  test::InflightBytes region_{2, kSize, InflightFormat::kSplit};
};

TEST_F(SplitInflight, SizesAreThoseOfTheText) {
  EXPECT_EQ(region_.told().mmap_size, 2 * kQueue);
  EXPECT_EQ(region_.told().mmap_offset, 0u);
  EXPECT_EQ(InflightRegion::queue_bytes(256, InflightFormat::kSplit), 4160u);   // 16 + 4096, up
  EXPECT_EQ(InflightRegion::queue_bytes(256, InflightFormat::kPacked), 8256u);  // 32 + 8192, up
  struct stat st{};
  ASSERT_EQ(fstat(region_.fd(), &st), 0);
  EXPECT_GE(static_cast<uint64_t>(st.st_size), region_.told().mmap_size);
  EXPECT_NE(ftruncate(region_.fd(), 1), 0);  // nobody takes it from under anybody
}

TEST_F(SplitInflight, AFreshQueueIsInitialized) {
  EXPECT_TRUE(recover(7).empty());
  EXPECT_EQ(get16(kQueue + 8), 1);   // version
  EXPECT_EQ(get16(kQueue + 10), 4);  // desc_num
  EXPECT_EQ(get16(kQueue + 14), 7);  // used_idx
  EXPECT_EQ(get16(8), 0);            // the other queue is as it was
}

TEST_F(SplitInflight, WhatWasTakenComesBackInTheOrderOfItsCounters) {
  header(1, kSize, 0, 10);
  entry(0, 1, 0, 12);
  entry(2, 1, 0, 11);
  entry(3, 1, 0, 0xffff'ffff'0000'0000);
  EXPECT_EQ(recover(10), (std::vector<uint16_t>{2, 0, 3}));
  // Until the used index has moved they are in flight, and the batch that is being returned.
  EXPECT_EQ(get16(kQueue + 12), 3);               // last_batch_head
  EXPECT_EQ(get16(kQueue + 16 + 16 * 3 + 6), 0);  // 3 -> 0
  EXPECT_EQ(get16(kQueue + 16 + 16 * 0 + 6), 2);  // 0 -> 2
  EXPECT_EQ(inflight(0) + inflight(2) + inflight(3), 3);
  region_.region()->commit_split(1, 13);
  EXPECT_EQ(inflight(0) + inflight(2) + inflight(3), 0);
  EXPECT_EQ(get16(kQueue + 14), 13);
  EXPECT_TRUE(recover(13).empty());
}

TEST_F(SplitInflight, ABatchThatWasReturnedBeforeTheCrashIsNotTakenAgain) {
  // Entries 1 and 3 are in flight in the notes, but the used index went from 65535 to 1 with them.
  header(1, kSize, 3, 65535);
  entry(3, 1, 1, 5);
  entry(1, 1, 0, 4);
  entry(2, 1, 0, 6);
  EXPECT_EQ(recover(1), (std::vector<uint16_t>{2}));
  EXPECT_EQ(inflight(1), 0);
  EXPECT_EQ(inflight(3), 0);
  EXPECT_EQ(get16(kQueue + 14), 1);
}

TEST_F(SplitInflight, ACrashWhileGivingBackIsToldApart) {
  header(1, kSize, 0, 10);
  entry(0, 1, 0, 12);
  entry(2, 1, 0, 11);
  EXPECT_EQ(recover(10).size(), 2u);
  EXPECT_EQ(recover(10), (std::vector<uint16_t>{2, 0}));  // it died before the used index moved
  EXPECT_TRUE(recover(12).empty());                       // it died after
}

TEST_F(SplitInflight, ContentsThatContradictThemselvesAreRefused) {
  header(2, kSize, 0, 0);
  EXPECT_TRUE(refused());  // version
  header(1, 5, 0, 0);
  EXPECT_TRUE(refused());  // desc_num
  header(1, kSize, kSize, 0);
  EXPECT_TRUE(refused(1, kSize, 1));  // last_batch_head beyond the queue
  header(1, kSize, 0, 0);
  entry(0, 0, 0x8000, 0);
  EXPECT_TRUE(refused(1, kSize, 2));  // next beyond the queue
  header(1, kSize, 0, 0);
  entry(0, 2, 0, 0);
  EXPECT_TRUE(refused());  // neither in flight nor not
  EXPECT_TRUE(refused(2));
  EXPECT_TRUE(refused(1, 8));
}

TEST_F(SplitInflight, ALoopInTheLastBatchEnds) {
  header(1, kSize, 1, 0);
  entry(1, 1, 1, 0);
  EXPECT_TRUE(recover(0x7fff).empty());
}

TEST(Inflight, ImpossibleShapesAreRefused) {
  // CVE-2021-3839: numbers of queues that nobody has.
  for (const auto [queues, size] :
       std::vector<std::array<uint16_t, 2>>{{0, 4}, {5, 4}, {65535, 4}, {1, 0}, {1, 32769}}) {
    spec::VhostUserInflight wanted = told(queues, size);
    EXPECT_FALSE(InflightRegion::create(wanted, 4, InflightFormat::kSplit))
        << queues << ' ' << size;
  }
}

TEST(Inflight, RegionsThatDoNotHoldWhatTheySayAreRefused) {
  spec::VhostUserInflight made = told(2, kSize);
  const UniqueFd fd = std::move(InflightRegion::create(made, 2, InflightFormat::kSplit).value());
  const auto refuse = [&](auto change, InflightFormat format = InflightFormat::kSplit) {
    spec::VhostUserInflight wrong = made;
    change(wrong);
    UniqueFd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    return !InflightRegion::map(std::move(copy), wrong, 2, format).has_value();
  };
  EXPECT_FALSE(refuse([](auto&) {}));
  EXPECT_TRUE(refuse([](auto& t) { t.num_queues = 0; }));
  EXPECT_TRUE(refuse([](auto& t) { t.num_queues = 65535; }));
  EXPECT_TRUE(refuse([](auto& t) { t.mmap_size = 255; }));
  EXPECT_TRUE(refuse([](auto& t) { t.mmap_offset = 1; }));
  EXPECT_TRUE(refuse([](auto& t) { t.mmap_offset = 4096; }));  // beyond the file
  EXPECT_TRUE(refuse([](auto& t) { t.mmap_offset = ~uint64_t{63}; }));
  EXPECT_TRUE(refuse([](auto& t) { t.mmap_size = ~uint64_t{0}, t.mmap_offset = 8192; }));
  EXPECT_TRUE(refuse([](auto& t) { t.queue_size = 0; }));
  EXPECT_TRUE(refuse([](auto& t) { t.queue_size = 32768; }));  // truncated
}

}  // namespace
}  // namespace pollux::vhost
