// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/loop_gate.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace pollux::control {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class LoopGateTest : public testing::Test {
 protected:
  LoopGateTest() : loop_(std::move(*EventLoop::create())), gate_(*loop_) {}

  std::unique_ptr<EventLoop> loop_;
  LoopGate gate_;
};

TEST_F(LoopGateTest, WorkRunsOnTheLoopsThread) {
  std::thread::id ran_on;
  std::thread caller([&] {
    EXPECT_TRUE(gate_.call([&] { ran_on = std::this_thread::get_id(); }, seconds(10)));
    loop_->stop();
  });
  EXPECT_TRUE(loop_->run());
  caller.join();
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST_F(LoopGateTest, WorkThatWasGivenUpNeverRuns) {
  bool ran = false;
  std::thread caller([&] {
    const Status late = gate_.call([&] { ran = true; }, milliseconds(1));
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, ErrorCode::kTimeout);
  });
  caller.join();
  (void)loop_->run_once(Nanos(0));
  EXPECT_FALSE(ran);
}

TEST_F(LoopGateTest, ClosingTurnsAwayWhoWaitsAndWhoComes) {
  std::promise<void> waiting;
  std::thread caller([&] {
    waiting.set_value();
    const Status refused = gate_.call([] { FAIL(); }, seconds(60));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kDisconnected);
  });
  waiting.get_future().wait();
  gate_.close();
  caller.join();
  const Status refused = gate_.call([] { FAIL(); }, seconds(60));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kDisconnected);
}

TEST_F(LoopGateTest, ManyCallersWhileItCloses) {
  std::atomic<int> ran{0};
  std::atomic<int> answered{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        if (gate_.call([&] { ++ran; }, seconds(60))) ++answered;
      }
    });
  }
  while (ran < 50) (void)loop_->run_once(milliseconds(1));
  gate_.close();
  for (std::thread& caller : callers) caller.join();
  (void)loop_->run_once(Nanos(0));
  EXPECT_EQ(ran, answered) << "what ran was answered, what was refused did not run";
}

}  // namespace
}  // namespace pollux::control
