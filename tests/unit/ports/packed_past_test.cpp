// SPDX-License-Identifier: Apache-2.0
// Of a ring whose device has died two may know where it was: our file, and its front end's region.
#include "pollux/ports/vhost_user/packed_past.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/inflight_bytes.hpp"
#include "tests/support/packed_image.hpp"
#include "tests/support/packed_lives.hpp"

namespace pollux::vhost_user {
namespace {

using ring::PackedCursor;
using ring::PackedLeft;
using test::HookedAccess;
using test::use_all;
using Ring = ring::PackedDeviceRing<HookedAccess>;

constexpr uint16_t kSize = 6;

class PackedPasts : public testing::Test {
 protected:
  void offer(uint32_t count) {
    for (; count != 0; --count) {
      image_.offer(0x10000, 10, 0, static_cast<uint16_t>(image_.next));
    }
  }
  Ring device(PackedCursor at, bool file, bool region) {
    Ring ring({image_.layout(), at, false, false, file ? journal() : ring::PackedJournal{}},
              guest_.view(), HookedAccess(hook_));
    ring.begin_journal();
    if (region) ring.note_in(bytes_.region()->packed(0));
    return ring;
  }
  ring::PackedJournal journal() { return {&batch_, chains_}; }

  struct Remains {
    std::vector<std::byte> desc;
    std::vector<uint8_t> region;
    uint64_t batch = 0;
    std::vector<ring::PackedChain> chains;
  };
  [[nodiscard]] Remains remains() const {
    const auto desc = image_.desc_memory().bytes();
    return {{desc.begin(), desc.end()},
            {bytes_.bytes(), bytes_.bytes() + bytes_.told().mmap_size},
            batch_,
            chains_};
  }
  void restore(const Remains& from) {
    std::ranges::copy(from.desc, image_.desc_memory().data());
    std::ranges::copy(from.region, bytes_.bytes());
    batch_ = from.batch;
    std::ranges::copy(from.chains, chains_.begin());
  }

  /// Where the next device begins, and what it does first. Nothing: nobody knows.
  std::optional<PackedPast> found(bool file = true) {
    PackedPast past;
    if (file) past.journal = journal();
    auto told = bytes_.region()->recover_packed(0, image_.layout());
    EXPECT_TRUE(told);
    if (!recall_past(image_.layout(), std::move(*told), past)) return std::nullopt;
    EXPECT_TRUE(past.resume.chains == 0 || past.left.empty());
    return past;
  }

  test::Guest guest_{{{0x10000, 0x10000}}};
  test::PackedImage image_{kSize};
  test::InflightBytes bytes_{1, kSize, vhost::InflightFormat::kPacked};
  uint64_t batch_ = ~uint64_t{0};
  std::vector<ring::PackedChain> chains_ =
      std::vector<ring::PackedChain>(ring::PackedJournal::places_for(kSize));
  HookedAccess::Hook hook_;
};

TEST_F(PackedPasts, NobodyKnows) {
  offer(2);
  Ring ring = device({}, false, false);
  EXPECT_EQ(use_all(ring, 2), 2u);
  (void)ring.publish();
  EXPECT_FALSE(found());
}

TEST_F(PackedPasts, EitherKnows) {
  for (const bool file : {false, true}) {
    offer(2);
    const PackedCursor at{static_cast<uint16_t>(file ? 2 : 0), true};
    Ring ring = device(at, file, !file);
    EXPECT_EQ(use_all(ring, 2), 2u);
    (void)ring.publish();
    const auto past = found(file);
    ASSERT_TRUE(past) << file;
    EXPECT_EQ(past->resume.next, at.advanced(2, kSize));
    EXPECT_EQ(past->resume.chains + past->left.size(), 0u);
  }
}

TEST_F(PackedPasts, BothSpeakOfTheSamePlaceWheneverADeviceDies) {
  Ring ring = device({}, true, true);
  std::vector<Remains> deaths;
  for (const uint32_t count : {3U, 4U, 5U}) {
    offer(count);
    EXPECT_EQ(use_all(ring, count), count);
    hook_.before = [&] { deaths.push_back(remains()); };
    (void)ring.publish();
    hook_.before = [] {};
  }
  unsigned with_lengths = 0;
  unsigned without = 0;
  for (const Remains& death : deaths) {
    restore(death);
    const auto both = found();
    restore(death);
    const auto region = found(false);
    ASSERT_TRUE(both && region);
    EXPECT_EQ(both->resume.next, region->resume.next);
    if (!region->left.empty()) {
      EXPECT_EQ(both->resume.chains + both->left.size(), region->left.size());
    }
    with_lengths += both->resume.chains != 0 ? 1 : 0;
    without += region->left.empty() ? 0 : 1;
  }
  EXPECT_GT(with_lengths, 0u);
  EXPECT_GT(without, 0u);
}

TEST_F(PackedPasts, TheRegionIsYoungerThanAFileThatDoesNotAgree) {
  // This program with its file, up to 2; then one without, up to 4 in the next lap.
  offer(2);
  Ring first = device({}, true, true);
  EXPECT_EQ(use_all(first, 2), 2u);
  (void)first.publish();
  const uint64_t old = batch_;
  Ring second = device({2, true}, false, true);
  for (int i = 0; i < 2; ++i) {
    offer(4);
    EXPECT_EQ(use_all(second, 4), 4u);
    (void)second.publish();
  }
  EXPECT_EQ(batch_, old);
  const auto past = found();
  ASSERT_TRUE(past);
  EXPECT_EQ(past->resume.next, (PackedCursor{4, false}));
}

TEST_F(PackedPasts, AFileThatSpeaksOfOtherChainsIsNotBelieved) {
  offer(1);
  Ring ring = device({}, true, true);
  EXPECT_EQ(use_all(ring, 1), 1u);
  (void)ring.publish();
  offer(2);
  EXPECT_EQ(use_all(ring, 2), 2u);
  // Dead with everything noted and nothing shown.
  Remains death;
  hook_.before = [&] {
    if (!image_.used(1) && !image_.used(2)) death = remains();
  };
  (void)ring.publish();
  hook_.before = [] {};
  restore(death);
  auto past = found();
  ASSERT_TRUE(past);
  EXPECT_EQ(past->resume.chains, 2) << "with their lengths";
  restore(death);
  for (ring::PackedChain& chain : chains_) chain.id = 5;
  past = found();
  ASSERT_TRUE(past);
  EXPECT_EQ(past->resume.chains, 0);
  EXPECT_EQ(past->left, (std::vector<PackedLeft>{{1, 1}, {2, 1}}));
  EXPECT_EQ(past->resume.next, (PackedCursor{1, true}));
}

TEST_F(PackedPasts, ARegionThatIsSilentLeavesItToTheFile) {
  offer(2);
  Ring ring = device({}, true, false);
  EXPECT_EQ(use_all(ring, 2), 2u);
  (void)ring.publish();
  const auto past = found();  // version 0
  ASSERT_TRUE(past);
  EXPECT_EQ(past->resume.next, (PackedCursor{2, true}));
}

}  // namespace
}  // namespace pollux::vhost_user
