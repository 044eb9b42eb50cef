// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/sleeper.hpp"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <thread>
#include <vector>

namespace pollux {
namespace {

/// A queue that says what the test wants.
struct FakeQueue {
  Wake wake;
  unsigned armed = 0;
  unsigned disarmed = 0;

  [[nodiscard]] RxSource source() {
    RxSource made;
    made.queue.self = this;
    made.queue.arm = [](void* self) noexcept {
      ++static_cast<FakeQueue*>(self)->armed;
      return static_cast<FakeQueue*>(self)->wake;
    };
    made.queue.disarm = [](void* self) noexcept { ++static_cast<FakeQueue*>(self)->disarmed; };
    return made;
  }
};

class SleeperTest : public testing::Test {
 protected:
  SleeperTest() { EXPECT_TRUE(sleeper_.open()); }

  UniqueFd fd_{eventfd(0, EFD_NONBLOCK)};
  Sleeper sleeper_;
};

TEST_F(SleeperTest, DoesNotSleepWhenAQueueHasSomething) {
  FakeQueue idle{{Wake::kNever}};
  FakeQueue full{{Wake::kNow}};
  const std::vector queues{idle.source(), full.source()};
  EXPECT_FALSE(sleeper_.arm(queues));
  sleeper_.disarm(queues);
  EXPECT_EQ(idle.disarmed, 1u);
  EXPECT_EQ(full.disarmed, 1u);
}

TEST_F(SleeperTest, AQueueWakes) {
  FakeQueue queue{{Wake::kSignal, fd_.get()}};
  const std::vector queues{queue.source()};
  ASSERT_TRUE(sleeper_.arm(queues));
  std::thread peer([&] { EXPECT_EQ(eventfd_write(fd_.get(), 1), 0); });
  while (!sleeper_.wait()) {  // a slow peer may come after a heartbeat
  }
  peer.join();
  EXPECT_EQ(queue.armed, 1u);
}

TEST_F(SleeperTest, TimeIsUpWithoutAnybody) {
  FakeQueue by_time{{Wake::kByTime}};
  RxSource without;  // a queue that knows nothing of sleeping
  const std::vector queues{by_time.source(), without};
  ASSERT_TRUE(sleeper_.arm(queues));
  EXPECT_FALSE(sleeper_.wait());
}

TEST_F(SleeperTest, ControlWakesAlsoBeforeTheSleep) {
  FakeQueue queue{{Wake::kNever}};
  const std::vector queues{queue.source()};
  sleeper_.wake();
  ASSERT_TRUE(sleeper_.arm(queues));
  EXPECT_TRUE(sleeper_.wait());
  sleeper_.disarm(queues);
  ASSERT_TRUE(sleeper_.arm(queues));
  EXPECT_FALSE(sleeper_.wait()) << "once";
}

}  // namespace
}  // namespace pollux
