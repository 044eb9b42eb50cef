// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/doorbell.hpp"

#include <gtest/gtest.h>

#include <thread>

namespace pollux {
namespace {

TEST(Doorbell, DoesNotSleepWhenThereIsWork) {
  Doorbell bell;
  bell.wait([] { return true; });
  bell.ring();
}

// Would hang if a ring between the look and the sleep were lost.
TEST(Doorbell, NoRingIsLost) {
  constexpr uint32_t kRounds = 20'000;
  Doorbell there;
  Doorbell back;
  std::atomic<uint32_t> sent{0};
  std::atomic<uint32_t> answered{0};
  std::jthread other([&] {
    for (uint32_t i = 1; i <= kRounds; ++i) {
      while (sent.load() < i) there.wait([&] { return sent.load() >= i; });
      answered.store(i);
      back.ring();
    }
  });
  for (uint32_t i = 1; i <= kRounds; ++i) {
    sent.store(i);
    there.ring();
    while (answered.load() < i) back.wait([&] { return answered.load() >= i; });
  }
  EXPECT_EQ(answered.load(), kRounds);
}

}  // namespace
}  // namespace pollux
