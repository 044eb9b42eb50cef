// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/event_loop.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pollux/base/fd.hpp"

namespace pollux {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class EventLoopTest : public testing::Test {
 protected:
  EventLoopTest() {
    auto made = EventLoop::create();
    EXPECT_TRUE(made) << made.error().what;
    loop_ = std::move(*made);
  }

  /// Dispatches until `done` or for a generous time.
  template <typename Condition>
  bool run_until(Condition done) {
    for (int i = 0; i < 5000 && !done(); ++i) EXPECT_TRUE(loop_->run_once(milliseconds(2)));
    return done();
  }

  template <typename T>
  static T take(Result<T> result) {
    EXPECT_TRUE(result) << result.error().what;
    return std::move(*result);
  }

  std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, CallsForAReadyDescriptorUntilTheWatchEnds) {
  const UniqueFd fd(eventfd(1, EFD_CLOEXEC));
  int calls = 0;
  auto watch = take(loop_->watch_fd(fd.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_NE(events & EPOLLIN, 0u);
    ++calls;
  }));
  EXPECT_TRUE(watch.active());
  EXPECT_TRUE(run_until([&] { return calls >= 2; }));
  watch.reset();
  EXPECT_FALSE(watch.active());
  const int before = calls;
  (void)loop_->run_once(Nanos(0));
  (void)loop_->run_once(Nanos(0));
  EXPECT_EQ(calls, before);
}

TEST_F(EventLoopTest, ACallbackMayEndItsOwnWatch) {
  const UniqueFd fd(eventfd(1, EFD_CLOEXEC));
  int calls = 0;
  EventLoop::Watch watch;
  // The captured string lives in the callback: it must outlast the reset.
  watch = take(loop_->watch_fd(fd.get(), EPOLLIN, [&, text = std::string(100, 'x')](uint32_t) {
    watch.reset();
    calls += static_cast<int>(text.size());
  }));
  EXPECT_TRUE(run_until([&] { return calls != 0; }));
  (void)loop_->run_once(Nanos(0));
  EXPECT_EQ(calls, 100);
}

TEST_F(EventLoopTest, ACallbackMayReplaceItsOwnWatch) {
  int fired = 0;
  EventLoop::Watch watch;
  std::function<void()> again = [&] {
    if (++fired < 3) watch = take(loop_->after(milliseconds(1), again));
  };
  watch = take(loop_->after(milliseconds(1), again));
  EXPECT_TRUE(run_until([&] { return fired == 3; }));
}

TEST_F(EventLoopTest, AfterFiresOnce) {
  int fired = 0;
  const auto watch = take(loop_->after(milliseconds(1), [&] { ++fired; }));
  EXPECT_TRUE(run_until([&] { return fired == 1; }));
  for (int i = 0; i < 5; ++i) (void)loop_->run_once(milliseconds(2));
  EXPECT_EQ(fired, 1);
}

TEST_F(EventLoopTest, EveryFiresAgainAndAgain) {
  int fired = 0;
  auto watch = take(loop_->every(milliseconds(1), [&] { ++fired; }));
  EXPECT_TRUE(run_until([&] { return fired >= 5; }));
}

TEST_F(EventLoopTest, ADroppedTimerNeverFires) {
  int fired = 0;
  {
    const auto watch = take(loop_->after(milliseconds(0), [&] { ++fired; }));
  }
  for (int i = 0; i < 5; ++i) (void)loop_->run_once(milliseconds(1));
  EXPECT_EQ(fired, 0);
}

TEST_F(EventLoopTest, CatchesABlockedSignal) {
  sigset_t signals;
  sigset_t before;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &signals, &before), 0);
  int caught = 0;
  {
    const auto watch = take(loop_->on_signal(SIGUSR1, [&](int signal) { caught = signal; }));
    kill(getpid(), SIGUSR1);
    EXPECT_TRUE(run_until([&] { return caught != 0; }));
  }
  EXPECT_EQ(caught, SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_F(EventLoopTest, RefusesASignalThatIsNotBlocked) {
  EXPECT_FALSE(loop_->on_signal(SIGUSR2, [](int) {}));
}

TEST_F(EventLoopTest, RefusesADescriptorThatCanNotBeWatched) {
  EXPECT_FALSE(loop_->watch_fd(-1, EPOLLIN, [](uint32_t) {}));
}

TEST_F(EventLoopTest, RunsPostedWorkInOrder) {
  std::vector<int> order;
  std::thread poster([&] {
    for (int i = 0; i < 100; ++i) loop_->post([&order, i] { order.push_back(i); });
  });
  poster.join();
  EXPECT_TRUE(run_until([&] { return order.size() == 100; }));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
}

TEST_F(EventLoopTest, StopFromAnotherThreadEndsRun) {
  std::thread stopper([&] { loop_->stop(); });
  EXPECT_TRUE(loop_->run());
  stopper.join();
}

TEST_F(EventLoopTest, CallRunsOnTheLoopsThreadAndWaits) {
  std::promise<void> running;
  std::thread::id loop_thread;
  loop_->post([&] {
    loop_thread = std::this_thread::get_id();
    running.set_value();
  });
  std::thread runner([&] { EXPECT_TRUE(loop_->run()); });
  running.get_future().wait();
  std::thread::id ran_on;
  loop_->call([&] {
    ran_on = std::this_thread::get_id();
    loop_->call([&] { EXPECT_EQ(std::this_thread::get_id(), ran_on) << "nested: at once"; });
  });
  EXPECT_EQ(ran_on, loop_thread);
  loop_->stop();
  runner.join();
}

TEST_F(EventLoopTest, CallRunsAtOnceWhenTheLoopDoesNot) {
  bool done = false;
  loop_->call([&] { done = true; });
  EXPECT_TRUE(done);
}

// Whoever calls while run() comes to its end must get an answer, from one thread or the other.
TEST_F(EventLoopTest, CallIsAnsweredWhileTheLoopEnds) {
  for (int round = 0; round < 50; ++round) {
    auto loop = take(EventLoop::create());
    std::promise<void> running;
    loop->post([&] { running.set_value(); });
    std::thread runner([&] { EXPECT_TRUE(loop->run()); });
    running.get_future().wait();
    int answered = 0;
    std::thread caller([&] {
      for (int i = 0; i < 20; ++i) loop->call([&] { ++answered; });
    });
    loop->stop();
    runner.join();
    caller.join();
    EXPECT_EQ(answered, 20);
  }
}

}  // namespace
}  // namespace pollux
