// SPDX-License-Identifier: Apache-2.0
// The small types of base/: descriptors, integers in byte order, drop reasons, errors, logs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/counter.hpp"
#include "pollux/base/drop_reason.hpp"
#include "pollux/base/endian.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/strong.hpp"

namespace pollux {
namespace {

bool is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

TEST(UniqueFd, ClosesWhatItHoldsOnce) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  {
    UniqueFd first(pipe_ends[0]);
    UniqueFd second(std::move(first));
    EXPECT_FALSE(first.valid());
    EXPECT_EQ(second.get(), pipe_ends[0]);
    UniqueFd other(pipe_ends[1]);
    second = std::move(other);
    EXPECT_FALSE(is_open(pipe_ends[0])) << "assignment closes what was held";
    EXPECT_TRUE(is_open(pipe_ends[1]));
  }
  EXPECT_FALSE(is_open(pipe_ends[1]));
}

TEST(UniqueFd, ReleaseLeavesItOpen) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  int raw = -1;
  {
    UniqueFd fd(pipe_ends[0]);
    raw = fd.release();
    EXPECT_FALSE(fd);
  }
  EXPECT_TRUE(is_open(raw));
  close(raw);
  close(pipe_ends[1]);
}

TEST(EndianInt, LiesInMemoryInItsOrder) {
  const Le32 little(0x01020304);
  const Be32 big(0x01020304);
  EXPECT_EQ((std::bit_cast<std::array<uint8_t, 4>>(little)),
            (std::array<uint8_t, 4>{0x04, 0x03, 0x02, 0x01}));
  EXPECT_EQ((std::bit_cast<std::array<uint8_t, 4>>(big)),
            (std::array<uint8_t, 4>{0x01, 0x02, 0x03, 0x04}));
  EXPECT_EQ(little.value(), 0x01020304u);
  EXPECT_EQ(big.value(), 0x01020304u);
  Be16 type;
  type.set(0x0800);
  EXPECT_EQ((std::bit_cast<std::array<uint8_t, 2>>(type)), (std::array<uint8_t, 2>{0x08, 0x00}));
  EXPECT_EQ(Le64(0x1122334455667788).value(), 0x1122334455667788u);
}

TEST(Strong, ComparesWithItsOwnKindOnly) {
  EXPECT_LT(GuestAddr{1}, GuestAddr{2});
  EXPECT_EQ(UserAddr{5}, UserAddr{5});
  static_assert(!std::is_convertible_v<GuestAddr, UserAddr>);
  static_assert(!std::is_convertible_v<uint64_t, GuestAddr>);
}

TEST(DropReasons, HaveDistinctNamesAndSentences) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < kDropReasonCount; ++i) {
    const DropReasonInfo& reason = info(static_cast<DropReason>(i));
    EXPECT_TRUE(names.insert(reason.name).second) << reason.name;
    EXPECT_GT(reason.help.size(), 20u) << reason.name << " needs a sentence";
    EXPECT_EQ(reason.help.find('\n'), std::string_view::npos);
  }
  EXPECT_EQ(info(DropReason::receiver_ring_full).name, "receiver_ring_full");
}

TEST(Result, ErrnoGivesKindAndText) {
  const Status refused = fail_errno(EACCES, "can not open it");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kPermission);
  EXPECT_EQ(refused.error().sys_errno, EACCES);
  EXPECT_EQ(refused.error().what, "can not open it: Permission denied");
  EXPECT_EQ(Status(fail_errno(ENOENT, "")).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(Status(fail_errno(EADDRINUSE, "")).error().code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(Status(fail_errno(EMFILE, "")).error().code, ErrorCode::kResource);
  EXPECT_EQ(Status(fail_errno(EIO, "")).error().code, ErrorCode::kSystem);
}

TEST(Result, ForwardsAnErrorToAnotherType) {
  Result<int> failed = fail(ErrorCode::kTimeout, "too late");
  const Result<std::string> passed_on = forward(failed);
  ASSERT_FALSE(passed_on);
  EXPECT_EQ(passed_on.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(passed_on.error().what, "too late");
}

TEST(Log, PutsNamesBeforeMessages) {
  std::vector<std::string> lines;
  const Log log([&](LogLevel level, std::string_view text) {
    lines.push_back(std::to_string(static_cast<int>(level)) + " " + std::string(text));
  });
  log.info("started");
  log.named("v0").named("rx0").error("broken");
  EXPECT_EQ(lines, (std::vector<std::string>{"1 started", "3 v0: rx0: broken"}));
  Log().error("nobody listens");  // and nothing happens
}

TEST(Counter, AddsUp) {
  Counter counter;
  counter.add(2);
  counter.add(40);
  EXPECT_EQ(counter.value(), 42u);
}

TEST(Clock, ManualMovesWhenTold) {
  ManualClock manual;
  EXPECT_EQ(manual.now(), Nanos(0));
  manual.advance(std::chrono::seconds(3));
  EXPECT_EQ(manual.now(), Nanos(3'000'000'000));
  const SteadyClock steady;
  const Nanos before = steady.now();
  EXPECT_LE(before, steady.now());
}

}  // namespace
}  // namespace pollux
