// SPDX-License-Identifier: Apache-2.0
// A device that notes its packed ring in a front end's region dies between any two of its accesses
// to either, and another one goes on from what the region says.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/inflight_bytes.hpp"
#include "tests/support/packed_image.hpp"
#include "tests/support/packed_lives.hpp"

namespace pollux::vhost {
namespace {

using ring::PackedCursor;
using ring::PackedDeviceRing;
using ring::UsedEntries;
using test::Guest;
using test::HookedAccess;
using test::InflightBytes;
using test::PackedImage;
using test::use_all;
using Driver = test::PackedDriverModel;

constexpr uint16_t kQueue = 1;
constexpr uint16_t kSize = 11;

/// What a device left when it died: a ring and a region.
struct Remains {
  std::vector<std::byte> desc;
  std::vector<uint8_t> region;
};

class PackedInflightLives : public testing::TestWithParam<UsedEntries> {
 protected:
  uint32_t pick(uint32_t most) { return 1 + random_() % most; }

  static Remains remains_of(const PackedImage& image, const InflightBytes& bytes) {
    const auto desc = image.desc_memory().bytes();
    return {{desc.begin(), desc.end()}, {bytes.bytes(), bytes.bytes() + bytes.told().mmap_size}};
  }
  static void restore(const Remains& from, PackedImage& image, const InflightBytes& bytes) {
    std::memcpy(image.desc_memory().data(), from.desc.data(), from.desc.size());
    std::memcpy(bytes.bytes(), from.region.data(), from.region.size());
  }

  /// Another device begins with what is there; `hook` is between its accesses.
  template <UsedEntries kEntries>
  PackedDeviceRing<HookedAccess, kEntries> rise(const PackedImage& image, HookedAccess::Hook& hook,
                                                bool& knows) {
    const auto found = after_.region()->recover_packed(kQueue, image.layout());
    knows = found && *found;
    const PackedRemains remains = knows ? **found : PackedRemains{};
    PackedDeviceRing<HookedAccess, kEntries> ring({image.layout(), remains.next}, guest_.view(),
                                                  HookedAccess(hook));
    ring.put_left(remains.chains);
    if (ring.unpublished()) (void)ring.publish();
    ring.note_in(after_.region()->packed(kQueue));
    return ring;
  }

  /// Everything that `driver` waits for comes back, in order and once, and so does what it offers
  /// then. The device that takes over may die, too, at any access until it runs.
  template <UsedEntries kEntries>
  void go_on(const Remains& left, const PackedImage& now, Driver driver, bool driver_first,
             bool dies_again) {
    PackedImage image(kSize);
    image.copy(now);
    restore(left, image, after_);
    if (driver_first) {
      while (driver.collect(image) != 0) {
      }
      (void)driver.offer(image, 1);
    }
    std::vector<Remains> deaths;
    HookedAccess::Hook hook;
    if (dies_again) hook.before = [&] { deaths.push_back(remains_of(image, after_)); };
    bool knows = false;
    auto ring = rise<kEntries>(image, hook, knows);
    ASSERT_TRUE(knows);
    hook.before = [] {};
    PackedImage then(kSize);
    then.copy(image);
    const Driver before = driver;
    for (int round = 0; round < 30; ++round) {
      if (use_all(ring, 4) != 0) (void)ring.publish();
      while (driver.collect(image) != 0) {
      }
      ASSERT_EQ(ring.error(), ring::RingError::none);
      ASSERT_TRUE(driver.waiting.empty() || round == 0 || ring.available(1) != 0)
          << "the driver waits for what the device does not see";
      if (round < 20) (void)driver.offer(image, 1 + round % 3);
    }
    ASSERT_TRUE(driver.waiting.empty());
    ASSERT_EQ(driver.room, kSize);
    for (const Remains& death : deaths) {
      ASSERT_NO_FATAL_FAILURE(go_on<kEntries>(death, then, before, false, false));
    }
  }

  template <UsedEntries kEntries>
  void die_everywhere() {
    for (int life = 0; life < 12; ++life) {
      PackedImage image(kSize);
      Driver driver(kSize);
      HookedAccess::Hook hook;
      PackedDeviceRing<HookedAccess, kEntries> ring({image.layout(), {}}, guest_.view(),
                                                    HookedAccess(hook));
      ring.note_in(bytes_.region()->packed(kQueue));
      for (int round = 0; round <= life; ++round) {
        while (driver.offer(image, pick(3)) && pick(4) != 1) {
        }
        std::vector<Remains> deaths;
        if (round == life) hook.before = [&] { deaths.push_back(remains_of(image, bytes_)); };
        const Driver before = driver;
        const uint32_t used = use_all(ring, pick(6));
        // Of what was put, a part at a time.
        const auto part = static_cast<uint16_t>(ring.filled() - used / 2);
        (void)ring.publish(part);
        (void)ring.publish();
        hook.before();
        hook.before = [] {};
        for (const Remains& left : deaths) {
          ASSERT_NO_FATAL_FAILURE(go_on<kEntries>(left, image, before, false, life % 6 == 5));
          ASSERT_NO_FATAL_FAILURE(go_on<kEntries>(left, image, before, true, false));
        }
        while (driver.collect(image) != 0) {
        }
      }
    }
  }

  Guest guest_{{{0x10000, 0x10000}}};
  std::mt19937 random_{7};
  InflightBytes bytes_{2, kSize, InflightFormat::kPacked};
  InflightBytes after_{2, kSize, InflightFormat::kPacked};
};

TEST_P(PackedInflightLives, ADeviceMayDieAnywhere) {
  if (GetParam() == UsedEntries::kEach) {
    die_everywhere<UsedEntries::kEach>();
  } else {
    die_everywhere<UsedEntries::kOneForMany>();
  }
}
INSTANTIATE_TEST_SUITE_P(Entries, PackedInflightLives,
                         testing::Values(UsedEntries::kEach, UsedEntries::kOneForMany));

/// A ring of single descriptors in whose region `uses` of them are noted as used.
class PackedInflightPast : public testing::Test {
 protected:
  static constexpr uint16_t kEntries = 8;

  void run(uint32_t uses, uint32_t left_over) {
    PackedDeviceRing<> ring({image_.layout(), {}}, guest_.view());
    ring.note_in(bytes_.region()->packed(0));
    for (uint32_t i = 0; i < uses + left_over; ++i) {
      image_.offer(0x10000, 10, 0, static_cast<uint16_t>(i % kEntries));
      if (i >= uses) continue;
      EXPECT_EQ(use_all(ring, 1), 1u);
      (void)ring.publish();
    }
  }
  [[nodiscard]] auto found() const { return bytes_.region()->recover_packed(0, image_.layout()); }

  Guest guest_{{{0x10000, 0x10000}}};
  PackedImage image_{kEntries};
  InflightBytes bytes_{1, kEntries, InflightFormat::kPacked};
};

TEST_F(PackedInflightPast, IsFoundInAnyLap) {
  for (uint32_t uses = 0; uses < 4U * kEntries; ++uses) {
    for (uint32_t left_over = 0; left_over <= kEntries; ++left_over) {
      image_.copy(PackedImage(kEntries));
      run(uses, left_over);
      const auto past = found();
      ASSERT_TRUE(past && *past) << uses << " " << left_over;
      EXPECT_EQ((*past)->next.index, uses % kEntries);
      EXPECT_EQ((*past)->next.wrap, uses / kEntries % 2 == 0);
      EXPECT_TRUE((*past)->chains.empty());
      EXPECT_TRUE(InflightRegion::tells_packed(bytes_.fd(), bytes_.told(), 0, kEntries));
    }
  }
}

TEST_F(PackedInflightPast, OfARingSetUpAnewIsForgotten) {
  for (uint32_t uses = 1; uses < 4U * kEntries; ++uses) {
    for (uint32_t offered = 0; offered <= kEntries; ++offered) {
      image_.copy(PackedImage(kEntries));
      run(uses, 0);
      PackedImage anew(kEntries);
      for (uint32_t i = 0; i < offered; ++i) {
        anew.offer(0x11000, 10, test::kWrite, static_cast<uint16_t>(i));
      }
      image_.copy(anew);
      const auto past = found();
      ASSERT_TRUE(past);
      EXPECT_TRUE(!*past || (*past)->next == PackedCursor{}) << uses << " " << offered;
    }
  }
}

TEST_F(PackedInflightPast, IsNotThatOfARingThatSomebodyElseUsed) {
  run(3, 2);
  PackedDeviceRing<> other({image_.layout(), {3, true}}, guest_.view());
  EXPECT_EQ(use_all(other, 2), 2u);
  (void)other.publish();
  const auto past = found();
  ASSERT_TRUE(past);
  EXPECT_FALSE(*past);
}

TEST_F(PackedInflightPast, NonsenseLeadsNowhere) {
  std::mt19937 random(11);
  run(13, 4);
  const std::vector<uint8_t> right(bytes_.bytes(), bytes_.bytes() + bytes_.told().mmap_size);
  uint32_t refused = 0;
  for (int turn = 0; turn < 20'000; ++turn) {
    // Wholly random and nearly right; always with a version that is known.
    std::memcpy(bytes_.bytes(), right.data(), right.size());
    for (uint32_t i = 1 + random() % (turn % 2 == 0 ? 400 : 4); i != 0; --i) {
      bytes_.bytes()[random() % right.size()] = static_cast<uint8_t>(random() % 12);
    }
    if (turn % 3 != 0) bytes_.put(8, uint32_t{1 | kEntries << 16});
    const auto past = found();
    refused += past ? 0 : 1;
    if (!past || !*past) continue;
    PackedImage image(kEntries);
    image.copy(image_);
    uint32_t covered = 0;
    for (const ring::PackedLeft& chain : (*past)->chains) {
      EXPECT_LT(chain.id, kEntries);
      covered += chain.count;
    }
    ASSERT_LE(covered, kEntries);
    PackedDeviceRing<> ring({image.layout(), (*past)->next}, guest_.view());
    ring.put_left((*past)->chains);
    if (ring.unpublished()) (void)ring.publish();
    ring.note_in(bytes_.region()->packed(0));
    (void)ring.available(kEntries);
  }
  EXPECT_GT(refused, 1000u);
}

}  // namespace
}  // namespace pollux::vhost
