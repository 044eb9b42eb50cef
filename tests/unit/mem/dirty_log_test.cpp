// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/dirty_log.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

namespace pollux {
namespace {

UniqueFd file_of(off_t size) {
  UniqueFd fd(memfd_create("dirty-log", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), size), 0);
  return fd;
}
UniqueFd copy_of(const UniqueFd& fd) { return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

std::vector<uint8_t> bytes_of(const UniqueFd& fd, size_t size) {
  std::vector<uint8_t> bytes(size);
  EXPECT_EQ(pread(fd.get(), bytes.data(), size, 0), static_cast<ssize_t>(size));
  return bytes;
}

TEST(DirtyLog, LiesInTheFrontEndsFileAtItsOffset) {
  const UniqueFd fd = file_of(0x3000);
  auto log = DirtyLog::map(copy_of(fd), 0x1008, 4);  // not even aligned
  ASSERT_TRUE(log) << log.error().what;
  EXPECT_EQ((*log)->pages(), 32U);
  (*log)->mark(9 * DirtyLog::kPage, 1);
  auto want = std::vector<uint8_t>(0x3000);
  want[0x1009] = 0x02;
  EXPECT_EQ(bytes_of(fd, 0x3000), want);
}

TEST(DirtyLog, MarksNothingBehindItsEnd) {
  const UniqueFd fd = file_of(0x1000);
  auto log = *DirtyLog::map(copy_of(fd), 0, 2);  // 16 pages
  log->mark(16 * DirtyLog::kPage - 1, 2);        // CVE-2020-10722
  EXPECT_TRUE(log->incomplete());
  log->mark(16 * DirtyLog::kPage, 1);
  log->mark(~uint64_t{0}, 1);
  log->mark(uint64_t{1} << 63, uint64_t{1} << 40);
  log->mark(~uint64_t{0} - 10, 100);  // wraps around
  auto want = std::vector<uint8_t>(0x1000);
  want[1] = 0x80;
  EXPECT_EQ(bytes_of(fd, 0x1000), want);
  EXPECT_TRUE(log->take_incomplete());
  EXPECT_FALSE(log->take_incomplete()) << "said once";
}

TEST(DirtyLog, TellsWhetherItWasTouched) {
  std::array<std::byte, 8> bits{};
  DirtyLog log(bits);
  EXPECT_FALSE(log.take_touched());
  log.mark(0, 1);
  EXPECT_TRUE(log.take_touched());
  EXPECT_FALSE(log.take_touched());
}

TEST(DirtyLog, SurvivesATruncatedFile) {
  const UniqueFd fd = file_of(0x2000);
  auto log = *DirtyLog::map(copy_of(fd), 0, 0x2000);
  ASSERT_EQ(ftruncate(fd.get(), 0), 0);
  log->mark(0, 1);
  EXPECT_TRUE(log->faulted());
}

TEST(DirtyLog, RefusesWhatIsNotMemoryOrTooSmall) {
  EXPECT_FALSE(DirtyLog::map(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)), 0, 4096));
  EXPECT_FALSE(DirtyLog::map(file_of(4096), 0, 4097));
  EXPECT_FALSE(DirtyLog::map(file_of(4096), 4096, 1));
  EXPECT_FALSE(DirtyLog::map(file_of(4096), 0, 0));
}

// Neighbouring bits set from several threads while the front end takes them.
TEST(DirtyLog, LosesNoMark) {
  std::vector<std::byte> bits(8);
  DirtyLog log{bits};
  std::atomic<bool> done{false};
  uint64_t taken = 0;
  std::thread front_end([&] {
    while (!done.load()) {
      taken |= __atomic_exchange_n(reinterpret_cast<uint64_t*>(bits.data()), 0, __ATOMIC_SEQ_CST);
    }
  });
  std::vector<std::thread> workers;
  for (unsigned w = 0; w < 3; ++w) {
    workers.emplace_back([&log, w] {
      for (unsigned page = w; page < 64; page += 3) log.mark(page * DirtyLog::kPage, 1);
    });
  }
  for (auto& worker : workers) worker.join();
  done = true;
  front_end.join();
  taken |= *reinterpret_cast<uint64_t*>(bits.data());
  EXPECT_EQ(taken, ~uint64_t{0});
}

struct TwoRegions : testing::Test {
  std::vector<std::byte> low = std::vector<std::byte>(0x4000);
  std::vector<std::byte> high = std::vector<std::byte>(0x4000);
  std::shared_ptr<const PeerMemory> memory = *PeerMemory::create(
      {{GuestAddr{0x8000}, UserAddr{0x7f0000000000}, 0x4000, low.data(), nullptr},
       {GuestAddr{0x2000}, UserAddr{0x7f1000000000}, 0x4000, high.data(), nullptr}});
  std::vector<std::byte> bits = std::vector<std::byte>(4);
  std::shared_ptr<DirtyLog> log = std::make_shared<DirtyLog>(std::span(bits));

  uint32_t take() {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value |= std::to_integer<uint32_t>(bits[i]) << (8 * i);
    bits.assign(4, std::byte{});
    return value;
  }
};

TEST_F(TwoRegions, AnAddressHereIsFoundInTheGuest) {
  const WriteLog writes(*memory, log, {});
  writes.note_buffer(&low[0], 1);
  EXPECT_EQ(take(), 1U << 8);
  writes.note_buffer(&low[0x3fff], 1);
  EXPECT_EQ(take(), 1U << 11);
  writes.note_buffer(&high[0x1000], 0x1001);
  EXPECT_EQ(take(), 3U << 3);
  EXPECT_FALSE(log->incomplete());
}

TEST_F(TwoRegions, AnAddressOfNobodyIsNotMarkedButSaid) {
  const WriteLog writes(*memory, log, {});
  const int elsewhere = 0;
  writes.note_buffer(&elsewhere, 4);
  EXPECT_EQ(take(), 0U);
  EXPECT_TRUE(log->incomplete());
}

TEST_F(TwoRegions, TheRingAreaCountsWhereTheFrontEndSays) {
  const WriteLog writes(*memory, log, {&low[0x100], 0x20, GuestAddr{0x10ff8}, true});
  writes.note_ring(&low[0x100], 4);
  EXPECT_EQ(take(), 1U << 16);
  writes.note_ring(&low[0x106], 4);
  EXPECT_EQ(take(), 3U << 16);
  writes.note_buffer(&low[0x106], 4);  // a guest whose buffer lies over its ring
  EXPECT_EQ(take(), 1U << 8);
  writes.note_ring(&low[0x2000], 16);  // a descriptor of a packed ring
  EXPECT_EQ(take(), 1U << 10);
  const WriteLog unlogged(*memory, log, {&low[0x100], 0x20, GuestAddr{0x10ff8}, false});
  unlogged.note_ring(&low[0x100], 4);
  unlogged.note_ring(&low[0x2000], 16);
  EXPECT_EQ(take(), 0U);
}

TEST_F(TwoRegions, AViewMarksOnlyWhileItHasALog) {
  const WriteLog writes(*memory, log, {});
  PeerView view(*memory);
  view.note_write(low.data(), 1);
  EXPECT_EQ(take(), 0U);
  view.set_log(&writes);
  view.note_write(low.data(), 1);
  EXPECT_EQ(take(), 1U << 8);
  view.set_log(nullptr);
  view.note_write(low.data(), 1);
  EXPECT_EQ(take(), 0U);
}

}  // namespace
}  // namespace pollux
