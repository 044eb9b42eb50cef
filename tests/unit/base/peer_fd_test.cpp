// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/peer_fd.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <thread>

#include "tests/support/vhost_peer.hpp"

namespace pollux {
namespace {

uint64_t value_of(int eventfd) {
  uint64_t value = 0;
  EXPECT_EQ(::read(eventfd, &value, sizeof(value)), ssize_t{sizeof(value)});
  return value;
}

TEST(SignalEvent, AddsOne) {
  const UniqueFd event(::eventfd(0, EFD_NONBLOCK));
  for (int i = 0; i < 1000; ++i) signal_event(event.get());
  EXPECT_EQ(value_of(event.get()), 1000U);
}

TEST(SignalEvent, FromAnyThread) {
  const UniqueFd event(::eventfd(0, EFD_NONBLOCK));
  for (int i = 0; i < 3; ++i) {
    std::thread([&] {
      for (int j = 0; j < 100; ++j) signal_event(event.get());
    }).join();
  }
  EXPECT_EQ(value_of(event.get()), 300U);
}

// To end a context takes the kernel long: threads leave theirs behind for the next.
TEST(SignalEvent, ThreadsThatFollowEachOtherShareAContext) {
  const UniqueFd event(::eventfd(0, EFD_NONBLOCK));
  const auto contexts = [] { return test::mappings_of("[aio]"); };
  size_t of_first = 0;
  for (int i = 0; i < 10; ++i) {
    size_t in_thread = 0;
    std::thread([&] {
      signal_event(event.get());
      in_thread = contexts();
    }).join();
    if (i == 0) of_first = in_thread;
    EXPECT_EQ(in_thread, of_first);
    EXPECT_EQ(contexts(), of_first);
  }
}

// What a hostile peer does with the file description that it shares with us: blocking, and full.
TEST(SignalEvent, NeverWaitsForAnEventfdThatIsFullAndBlocking) {
  if (!signals_without_waiting()) GTEST_SKIP() << "no asynchronous I/O on this kernel";
  const UniqueFd event(::eventfd(0, 0));
  const uint64_t most = 0xfffffffffffffffe;
  ASSERT_EQ(::write(event.get(), &most, sizeof(most)), ssize_t{sizeof(most)});
  ASSERT_EQ(::fcntl(event.get(), F_GETFL) & O_NONBLOCK, 0);
  for (int i = 0; i < 200; ++i) signal_event(event.get());  // hangs where write() is used
  EXPECT_EQ(::fcntl(event.get(), F_GETFL) & O_NONBLOCK, 0) << "nor does it need the flag";
  EXPECT_GE(value_of(event.get()), most);
}

TEST(SignalEvent, WhatIsNoEventfdDoesNoHarm) {
  signal_event(-1);
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  signal_event(null.get());
}

TEST(OwnPipe, NeverBlocksWhateverThePeerDoesToItsOwn) {
  int fds[2] = {-1, -1};
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  UniqueFd out(fds[0]);
  const UniqueFd in(fds[1]);
  const auto own = open_own_pipe(in.get(), true);
  ASSERT_TRUE(own) << own.error().what;
  ASSERT_EQ(::fcntl(in.get(), F_SETFL, 0), 0);
  for (int i = 0; i < 20'000; ++i) signal_event(own->get());  // more than it holds
  EXPECT_EQ(value_of(out.get()), 1U);
  out.reset();
  signal_event(own->get());  // no SIGPIPE
}

TEST(OwnPipe, HasADirection) {
  int fds[2] = {-1, -1};
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd out(fds[0]);
  const UniqueFd in(fds[1]);
  EXPECT_FALSE(open_own_pipe(out.get(), true));
  EXPECT_FALSE(open_own_pipe(in.get(), false));
  const auto own = open_own_pipe(out.get(), false);
  ASSERT_TRUE(own);
  uint64_t none = 0;
  EXPECT_EQ(::read(own->get(), &none, sizeof(none)), -1);
  EXPECT_EQ(errno, EAGAIN);
}

}  // namespace
}  // namespace pollux
