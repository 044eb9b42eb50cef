// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/miss_ledger.hpp"

#include <gtest/gtest.h>

namespace pollux::vhost {
namespace {

constexpr auto kRead = MemoryAccess::kRead;
constexpr auto kWrite = MemoryAccess::kWrite;

TEST(MissLedger, AsksForAPageOnce) {
  MissLedger ledger;
  EXPECT_TRUE(ledger.add({0x1234, kRead}));
  EXPECT_FALSE(ledger.add({0x1fff, kRead}));
  EXPECT_TRUE(ledger.add({0x1234, kWrite})) << "another access is another question";
  const auto first = ledger.next();
  EXPECT_EQ(first->miss.iova, 0x1234U);
  EXPECT_EQ(ledger.next()->miss.access, kWrite);
  EXPECT_FALSE(ledger.next());
  EXPECT_FALSE(ledger.add({0x1000, kRead})) << "it is on its way";
  EXPECT_TRUE(ledger.settle(*first));
  EXPECT_FALSE(ledger.settle(*first));
  EXPECT_TRUE(ledger.add({0x1000, kRead}));
}

TEST(MissLedger, AnAnswerIsForItsOwnQuestion) {
  MissLedger ledger;
  ledger.add({0x1000, kRead});
  const auto before = ledger.next();
  EXPECT_EQ(ledger.take(0x1000, 0x1fff).size(), 1U);
  ledger.add({0x1000, kRead});
  EXPECT_FALSE(ledger.settle(*before));
  ledger.put_back(*before);
  const auto now = ledger.next();
  ASSERT_TRUE(now) << "still to be asked, once";
  EXPECT_FALSE(ledger.next());
  ledger.done(*before);
  for (uint32_t i = 0; i <= MissLedger::kSettle; ++i) EXPECT_TRUE(ledger.tick().empty());
  EXPECT_TRUE(ledger.settle(*now));
}

TEST(MissLedger, TakesWhatARangeAnswers) {
  MissLedger ledger;
  for (const uint64_t iova : {0x0ff0, 0x1008, 0x2000, 0x3010}) ledger.add({iova, kRead});
  ledger.add({0x3004, kWrite});
  EXPECT_EQ(ledger.take(0x1010, 0x300f).size(), 2U) << "0x2000 and the write at 0x3004";
  EXPECT_EQ(ledger.size(), 3U);
  EXPECT_EQ(ledger.take(0, ~uint64_t{0}).size(), 3U);
  EXPECT_FALSE(ledger.next()) << "what was settled is not asked for";
  ledger.add({~uint64_t{0}, kRead});
  EXPECT_EQ(ledger.take(~uint64_t{0}, ~uint64_t{0}).size(), 1U);
}

TEST(MissLedger, WhatCouldNotBeAskedComesFirst) {
  MissLedger ledger;
  ledger.add({0x1000, kRead});
  ledger.add({0x2000, kRead});
  const auto first = ledger.next();
  ledger.put_back(*first);
  EXPECT_EQ(ledger.next()->miss.iova, 0x1000U);
}

TEST(MissLedger, AsksAgainWithoutAnAnswer) {
  MissLedger ledger;
  ledger.add({0x1000, kRead});
  ASSERT_TRUE(ledger.next());
  for (uint32_t i = 0; i < MissLedger::kAskAgain; ++i) {
    EXPECT_TRUE(ledger.tick().empty());
    EXPECT_FALSE(ledger.next());
  }
  EXPECT_TRUE(ledger.tick().empty());
  EXPECT_TRUE(ledger.next());
  EXPECT_EQ(ledger.overdue(), 1U);
}

TEST(MissLedger, DoneWithoutAnUpdateIsNoAnswer) {
  MissLedger ledger;
  ledger.add({0x1000, kRead});
  ledger.done(*ledger.next());
  for (uint32_t i = 0; i < MissLedger::kSettle; ++i) EXPECT_TRUE(ledger.tick().empty());
  EXPECT_EQ(ledger.tick().size(), 1U);
  EXPECT_TRUE(ledger.empty());
}

TEST(MissLedger, IsBounded) {
  MissLedger ledger;
  for (uint64_t i = 0; i < 5000; ++i) ledger.add({i << 12, kRead});
  EXPECT_EQ(ledger.size(), MissLedger::kMaxWaiting);
  for (int round = 0; round < 10; ++round) {  // nobody asks: there is no channel
    (void)ledger.take(0, ~uint64_t{0});
    for (uint64_t i = 0; i < 1000; ++i) ledger.add({i << 12, kRead});
  }
  size_t asked = 0;
  while (ledger.next()) ++asked;
  EXPECT_EQ(asked, 1000U);
}

}  // namespace
}  // namespace pollux::vhost
