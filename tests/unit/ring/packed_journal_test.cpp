// SPDX-License-Identifier: Apache-2.0
// A device dies between any two of its accesses to a packed ring, and another one goes on from what
// it left in its journal.
#include "pollux/ring/packed_journal.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/packed_image.hpp"
#include "tests/support/packed_lives.hpp"

namespace pollux::ring {
namespace {

using test::Guest;
using test::HookedAccess;
using test::PackedImage;
using test::use_all;
using Driver = test::PackedDriverModel;

/// Memory that outlives a device.
struct Kept {
  explicit Kept(uint32_t size) : chains(PackedJournal::places_for(size)) {}
  uint64_t batch = ~uint64_t{0};
  std::vector<PackedChain> chains;
  PackedJournal journal() { return {&batch, chains}; }
};

/// What a device left when it died.
struct Remains {
  std::vector<std::byte> desc;
  Kept kept;
};

class PackedJournals : public testing::TestWithParam<UsedEntries> {
 protected:
  static constexpr uint32_t kSize = 11;
  Guest guest_{{{0x10000, 0x10000}}};
  std::mt19937 random_{7};

  uint32_t pick(uint32_t most) { return 1 + random_() % most; }

  /// A device takes over what is left: everything that `driver` waits for comes back, in order and
  /// once, and so does what it offers then.
  template <UsedEntries kEntries>
  void go_on(const Remains& left, const PackedImage& now, Driver driver, bool driver_first) {
    PackedImage image(kSize);
    image.copy(now);
    std::memcpy(image.desc_memory().data(), left.desc.data(), left.desc.size());
    Kept kept = left.kept;
    if (driver_first) {
      while (driver.collect(image) != 0) {
      }
      (void)driver.offer(image, 1);
    }
    const auto resume = recall(image.layout(), kept.journal());
    ASSERT_TRUE(resume);
    PackedDeviceRing<SharedAccess, kEntries> ring(
        {image.layout(), resume->next, false, false, kept.journal()}, guest_.view());
    if (resume->chains != 0) {
      ring.put_again(*resume);
      (void)ring.publish();
    } else {
      ring.begin_journal();
    }
    for (int round = 0; round < 30; ++round) {
      if (use_all(ring, 4) != 0) (void)ring.publish();
      while (driver.collect(image) != 0) {
      }
      ASSERT_EQ(ring.error(), RingError::none);
      ASSERT_TRUE(driver.waiting.empty() || round == 0 || ring.available(1) != 0)
          << "the driver waits for what the device does not see";
      if (round < 20) (void)driver.offer(image, 1 + round % 3);
    }
    ASSERT_TRUE(driver.waiting.empty());
    ASSERT_EQ(driver.room, kSize);
  }

  template <UsedEntries kEntries>
  void die_everywhere() {
    for (int life = 0; life < 25; ++life) {
      PackedImage image(kSize);
      Kept kept(kSize);
      Driver driver(kSize);
      HookedAccess::Hook hook;
      PackedDeviceRing<HookedAccess, kEntries> ring(
          {image.layout(), {}, false, false, kept.journal()}, guest_.view(), HookedAccess(hook));
      ring.begin_journal();
      const int rounds = life;
      for (int round = 0; round <= rounds; ++round) {
        while (driver.offer(image, pick(3)) && pick(4) != 1) {
        }
        std::vector<Remains> deaths;
        if (round == rounds) {
          hook.before = [&] {
            const auto bytes = image.desc_memory().bytes();
            deaths.push_back({{bytes.begin(), bytes.end()}, kept});
          };
        }
        const Driver before = driver;
        if (use_all(ring, pick(6)) != 0) (void)ring.publish();
        hook.before();
        hook.before = [] {};
        for (const Remains& left : deaths) {
          ASSERT_NO_FATAL_FAILURE(go_on<kEntries>(left, image, before, false));
          ASSERT_NO_FATAL_FAILURE(go_on<kEntries>(left, image, before, true));
        }
        while (driver.collect(image) != 0) {
        }
      }
    }
  }
};

TEST_P(PackedJournals, ADeviceMayDieAnywhere) {
  if (GetParam() == UsedEntries::kEach) {
    die_everywhere<UsedEntries::kEach>();
  } else {
    die_everywhere<UsedEntries::kOneForMany>();
  }
}
INSTANTIATE_TEST_SUITE_P(Entries, PackedJournals,
                         testing::Values(UsedEntries::kEach, UsedEntries::kOneForMany));

/// A ring of single descriptors that ran for `uses` of them.
struct Ran {
  static constexpr uint32_t kSize = 8;
  PackedImage image{kSize};
  Kept kept{kSize};

  Ran(Guest& guest, uint32_t uses, uint32_t left_over) {
    PackedDeviceRing<> ring({image.layout(), {}, false, false, kept.journal()}, guest.view());
    ring.begin_journal();
    for (uint32_t i = 0; i < uses + left_over; ++i) {
      image.offer(0x10000, 10, 0, static_cast<uint16_t>(i % kSize));
      if (i >= uses) continue;
      EXPECT_EQ(use_all(ring, 1), 1u);
      (void)ring.publish();
    }
  }
  auto found() { return recall(image.layout(), kept.journal()); }
};

class PackedJournalPast : public testing::Test {
 protected:
  Guest guest_{{{0x10000, 0x10000}}};
};

TEST_F(PackedJournalPast, IsFoundInAnyLap) {
  for (uint32_t uses = 0; uses < 4 * Ran::kSize; ++uses) {
    for (uint32_t left_over = 0; left_over <= Ran::kSize; ++left_over) {
      Ran ran(guest_, uses, left_over);
      const auto found = ran.found();
      ASSERT_TRUE(found) << uses << " " << left_over;
      EXPECT_EQ(found->next.index, uses % Ran::kSize);
      EXPECT_EQ(found->next.wrap, uses / Ran::kSize % 2 == 0);
      EXPECT_EQ(found->chains, 0);
    }
  }
}

TEST_F(PackedJournalPast, OfARingSetUpAnewIsForgotten) {
  for (uint32_t uses = 1; uses < 4 * Ran::kSize; ++uses) {
    for (uint32_t offered = 0; offered <= Ran::kSize; ++offered) {
      Ran ran(guest_, uses, 0);
      PackedImage anew(Ran::kSize);
      for (uint32_t i = 0; i < offered; ++i) {
        anew.offer(0x11000, 10, 0, static_cast<uint16_t>(i));
      }
      ran.image.copy(anew);
      const auto found = ran.found();
      ASSERT_TRUE(found);
      EXPECT_EQ(found->next, PackedCursor{}) << uses << " " << offered;
      EXPECT_EQ(found->chains, 0);
      EXPECT_FALSE(packed_ring_has_run(ran.image.layout()));
    }
  }
}

TEST_F(PackedJournalPast, IsNotThatOfARingThatSomebodyElseUsed) {
  Ran ran(guest_, 3, 2);
  PackedDeviceRing<> other({ran.image.layout(), {3, true}, false, false, {}}, guest_.view());
  EXPECT_EQ(use_all(other, 2), 2u);
  (void)other.publish();
  EXPECT_FALSE(ran.found());
  EXPECT_TRUE(packed_ring_has_run(ran.image.layout()));
}

TEST_F(PackedJournalPast, NonsenseLeadsNowhere) {
  std::mt19937_64 random(11);
  Ran ran(guest_, 13, 4);
  const uint64_t right = ran.kept.batch;
  for (int turn = 0; turn < 5'000; ++turn) {
    // Both wholly random and nearly right; what is shown changes the ring, too.
    const uint64_t one = 1;
    ran.kept.batch = turn % 2 == 0 ? random() : right ^ (one << random() % 64);
    for (PackedChain& chain : ran.kept.chains) {
      chain = {random(),
               static_cast<uint32_t>(random()),
               0,
               static_cast<uint16_t>(random() % 16),
               static_cast<uint32_t>(random() % 4),
               0};
      if (random() % 4 == 0) chain.addr = 0x10000;
    }
    const auto found = ran.found();
    if (!found) continue;
    PackedDeviceRing<> ring({ran.image.layout(), found->next, false, false, ran.kept.journal()},
                            guest_.view());
    if (found->chains != 0) {
      ring.put_again(*found);
      (void)ring.publish();
    }
    (void)ring.available(Ran::kSize);
  }
  EXPECT_TRUE(packed_ring_has_run(ran.image.layout()));
}

TEST(PackedBatch, IsOneNumber) {
  const PackedBatch batch{{0x1234, false}, 32768, 0x7fff, 0x5678};
  EXPECT_EQ(batch.to_wire(), 0x5678'7fff'8000'1234u);
  const auto back = PackedBatch::from_wire(batch.to_wire());
  EXPECT_EQ(back.at, batch.at);
  EXPECT_EQ(back.moved, batch.moved);
  EXPECT_EQ(back.first, batch.first);
  EXPECT_EQ(back.chains, batch.chains);
}

}  // namespace
}  // namespace pollux::ring
