// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/absent_pages.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <vector>

#include "pollux/mem/iotlb.hpp"
#include "pollux/mem/iotlb_reader.hpp"
#include "pollux/mem/page_faults.hpp"

namespace pollux {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 600;
constexpr int kPatienceMs = 20'000;

bool readable(int fd, int wait_ms = kPatienceMs) {
  pollfd wanted{fd, POLLIN, 0};
  return ::poll(&wanted, 1, wait_ms) == 1;
}

/// A guest whose pages are not here yet; the test plays its front end.
class AbsentGuest : public testing::Test {
 protected:
  void SetUp() override {
    auto faults = PageFaults::open();
    if (!faults) GTEST_SKIP() << faults.error().what;
    faults_.emplace(std::move(*faults));
    file_ = UniqueFd(memfd_create("absent-guest", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file_.get(), kPages * kPage), 0);
    mapping_ =
        *PeerMapping::map(UniqueFd(fcntl(file_.get(), F_DUPFD_CLOEXEC, 0)), 0, kPages * kPage);
    region_ = {GuestAddr{0x10000}, UserAddr{0}, kPages * kPage, mapping_->data(), mapping_};
    ASSERT_TRUE(faults_->watch(*mapping_));
    pages_ = *AbsentPages::create({&region_, 1});
  }
  [[nodiscard]] std::byte* page(uint64_t number) const { return region_.host + number * kPage; }
  /// The page that the front end is asked for next.
  uint64_t asked() {
    if (!readable(faults_->fd())) return ~uint64_t{0};
    uffd_msg message{};
    EXPECT_EQ(read(faults_->fd(), &message, sizeof message), ssize_t{sizeof message});
    EXPECT_EQ(message.event, UFFD_EVENT_PAGEFAULT);
    return (message.arg.pagefault.address - reinterpret_cast<uintptr_t>(region_.host)) / kPage;
  }
  void bring(uint64_t number, char content = 'x') {
    ASSERT_EQ(pwrite(file_.get(), &content, 1, static_cast<off_t>(number * kPage)), 1);
    uffdio_range range{reinterpret_cast<uintptr_t>(page(number)), kPage};
    (void)ioctl(faults_->fd(), UFFDIO_WAKE, &range);
  }
  bool arrived() {
    eventfd_t count = 0;
    return readable(pages_->arrivals()) && eventfd_read(pages_->arrivals(), &count) == 0;
  }
  uint64_t pages_in_file() {
    struct stat st{};
    EXPECT_EQ(fstat(file_.get(), &st), 0);
    return static_cast<uint64_t>(st.st_blocks) * 512 / kPage;
  }

  std::optional<PageFaults> faults_;
  UniqueFd file_;
  std::shared_ptr<PeerMapping> mapping_;
  PeerRegion region_;
  std::shared_ptr<AbsentPages> pages_;
};

TEST_F(AbsentGuest, APageThatIsMissingIsAskedForAndNobodyWaits) {
  EXPECT_FALSE(pages_->present(page(7) + 100, 1));
  EXPECT_EQ(asked(), 7U);
  EXPECT_FALSE(pages_->present(page(7), 1)) << "still";
  bring(7);
  ASSERT_TRUE(arrived());
  EXPECT_TRUE(pages_->present(page(7), kPage));
  EXPECT_EQ(*page(7), std::byte{'x'});
  EXPECT_EQ(pages_in_file(), 1U);
}

TEST_F(AbsentGuest, PagesThatCameUnaskedAreKnown) {
  for (const uint64_t number : {63U, 64U, 65U}) bring(number);
  EXPECT_TRUE(pages_->present(page(63) + 10, 2 * kPage));
  EXPECT_FALSE(pages_->present(page(63), 4 * kPage));
  EXPECT_EQ(asked(), 66U);
  EXPECT_FALSE(pages_->present(page(62) + kPage - 1, 2));
  EXPECT_EQ(asked(), 62U);
  bring(62);
  bring(66);
}

TEST_F(AbsentGuest, ALongRangeOnceItIsWhole) {
  for (uint64_t number = 0; number < 256; ++number) bring(number);
  EXPECT_TRUE(pages_->present(page(0), AbsentPages::kMaxRange));
  EXPECT_TRUE(pages_->present(page(0), 0));
  EXPECT_TRUE(pages_->present(page(599), 0));
}

TEST_F(AbsentGuest, MemoryOfOurOwnIsAlwaysHere) {
  std::vector<std::byte> own(64);
  EXPECT_TRUE(pages_->present(own.data(), own.size()));
}

TEST_F(AbsentGuest, TranslatingAPageThatIsMissingIsAMiss) {
  const auto memory = *PeerMemory::create({region_}, pages_);
  PeerView view(*memory);
  bring(0);
  EXPECT_EQ(view.translate(0x10000, 10, MemoryAccess::kRead).status, TranslationStatus::kOk);
  EXPECT_EQ(view.translate(0x11000, 10, MemoryAccess::kWrite).status, TranslationStatus::kMiss)
      << "knowing one page of a region says nothing of the next";
  EXPECT_EQ(asked(), 1U);
  bring(1);
  ASSERT_TRUE(arrived());
  const Translation at = view.translate(0x10ff8, 16, MemoryAccess::kWrite);
  EXPECT_EQ(at.status, TranslationStatus::kOk);
  EXPECT_EQ(at.size, 16U);
  EXPECT_EQ(view.translate(0x10000 + kPages * kPage, 1, MemoryAccess::kRead).status,
            TranslationStatus::kFault);
}

TEST_F(AbsentGuest, BehindAnIommuToo) {
  const auto memory = *PeerMemory::create({region_}, pages_);
  const auto iotlb = std::make_shared<Iotlb>(memory);
  ASSERT_TRUE(iotlb->update({0x400000, 4 * kPage, region_.user, 3}));
  iotlb->publish();
  IotlbReader reader(iotlb, std::make_shared<MissBell>(UniqueFd()));
  PeerView view(*memory, reader);
  view.refresh();
  bring(0);
  EXPECT_EQ(view.translate(0x400000, 10, MemoryAccess::kRead).status, TranslationStatus::kOk);
  EXPECT_EQ(view.translate(0x401000, 10, MemoryAccess::kRead).status, TranslationStatus::kMiss);
  EXPECT_EQ(asked(), 1U);
  IotlbMiss miss;
  EXPECT_FALSE(reader.take(miss)) << "the IOMMU has said all there is to say";
  bring(1);
}

// A source that says nothing more: what waits for it is let go, and the guest's memory is as it
// was.
TEST_F(AbsentGuest, AbandonedPagesAreZerosAndNotTheGuests) {
  for (uint64_t number = 0; number < 8; ++number) {
    EXPECT_FALSE(pages_->present(page(number), 1));
  }
  EXPECT_LT(asked(), 8U) << "somebody waits";
  faults_->abandon(*mapping_);
  EXPECT_TRUE(arrived());
  EXPECT_EQ(*page(0), std::byte{0});
  EXPECT_EQ(pages_in_file(), 0U);
}

TEST_F(AbsentGuest, LettingGoWaitsForNobody) {
  EXPECT_FALSE(pages_->present(page(3), 1));
  EXPECT_EQ(asked(), 3U);
  pages_.reset();  // its thread still waits
  bring(3);
}

TEST_F(AbsentGuest, UnwatchedPagesAreTheKernelsToMake) {
  faults_->unwatch(*mapping_);
  EXPECT_EQ(*page(5), std::byte{0});
  EXPECT_TRUE(pages_->present(page(5), 1));
}

}  // namespace
}  // namespace pollux
