// SPDX-License-Identifier: Apache-2.0
// A device that lies in the used ring: one table of lies, each with what must come of it.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "pollux/ring/split_driver_ring.hpp"

namespace pollux::ring {
namespace {

constexpr uint32_t kSize = 8;

struct Lie {
  std::string name;
  std::function<void(const SplitLayout&)> tell;  // four writable chains of 100 bytes are out
  RingError error;
  size_t returned = 0;  // chains that were good before the lie
};

void use(const SplitLayout& q, uint32_t id, uint32_t len) {
  q.used->ring[q.used->idx % kSize] = {id, len};
  q.used->idx = static_cast<uint16_t>(q.used->idx + 1);
}

const std::vector<Lie>& lies() {
  static const std::vector<Lie> table{
      {"index_past_outstanding", [](const SplitLayout& q) { q.used->idx = 5; },
       RingError::used_jump},
      {"index_jumps_by_more_than_the_ring", [](const SplitLayout& q) { q.used->idx = 0x4000; },
       RingError::used_jump},
      {"index_goes_backwards", [](const SplitLayout& q) { q.used->idx = 0xffff; },
       RingError::used_jump},
      {"id_is_the_size", [](const SplitLayout& q) { use(q, kSize, 1); }, RingError::used_range},
      {"id_with_high_half", [](const SplitLayout& q) { use(q, 0x10000, 1); },
       RingError::used_range},
      {"id_all_ones", [](const SplitLayout& q) { use(q, 0xffffffff, 1); }, RingError::used_range},
      {"id_never_added", [](const SplitLayout& q) { use(q, 7, 1); },
       RingError::used_not_outstanding},
      {"id_of_the_middle_of_a_chain", [](const SplitLayout& q) { use(q, 4, 1); },
       RingError::used_not_outstanding},
      {"id_twice",
       [](const SplitLayout& q) {
         use(q, 1, 1);
         use(q, 1, 1);
       },
       RingError::used_not_outstanding, 1},
      {"length_one_more_than_the_chain", [](const SplitLayout& q) { use(q, 0, 101); },
       RingError::used_length},
      {"length_all_ones", [](const SplitLayout& q) { use(q, 0, 0xffffffff); },
       RingError::used_length},
      {"good_then_bad",
       [](const SplitLayout& q) {
         use(q, 2, 100);
         use(q, 0, 7);
         use(q, 99, 7);
       },
       RingError::used_range, 2},
  };
  return table;
}

class LyingDevice : public testing::TestWithParam<Lie> {};

TEST_P(LyingDevice, BreaksTheRingWithItsReason) {
  alignas(64) static std::byte memory[split_bytes(kSize)];
  const SplitLayout layout = place_split(memory, kSize);
  SplitDriverRing<> ring(layout);
  ring.add_writable(3, [](size_t, uint16_t) { return DriverBuffer{0x1000, 100}; });
  const std::vector<DriverBuffer> pair(2, DriverBuffer{0x1000, 50});
  ASSERT_EQ(ring.add({}, pair), 3);  // descriptors 3 and 4
  (void)ring.publish();

  GetParam().tell(layout);
  UsedChain used[kSize];
  EXPECT_EQ(ring.poll_used(used, kSize), GetParam().returned);
  EXPECT_EQ(ring.error(), GetParam().error);
  EXPECT_FALSE(describe(ring.error()).empty());

  // A broken ring takes and gives nothing, and still knows what to give back.
  EXPECT_EQ(ring.poll_used(used, kSize), 0u);
  EXPECT_EQ(ring.add_readable(1, [](size_t, uint16_t) { return DriverBuffer{}; }), 0u);
  EXPECT_EQ(ring.add(pair, {}), kNoChain);
  EXPECT_FALSE(ring.publish());
  size_t left = 0;
  ring.drain([&](uint16_t) { ++left; });
  EXPECT_EQ(left, 4 - GetParam().returned);
}

INSTANTIATE_TEST_SUITE_P(Hostile, LyingDevice, testing::ValuesIn(lies()),
                         [](const auto& lie) { return lie.param.name; });

// Whatever the device writes over the driver's parts of the ring, the driver does not read it.
TEST(ScribblingDevice, DescriptorTableAndAvailableRingAreNeverReadBack) {
  alignas(64) static std::byte memory[split_bytes(kSize)];
  const SplitLayout layout = place_split(memory, kSize);
  SplitDriverRing<> ring(layout);
  const std::vector<DriverBuffer> pair(2, DriverBuffer{0x1000, 50});
  for (uint16_t round = 0; round < 100; ++round) {
    const uint16_t id = ring.add({}, pair);
    ASSERT_NE(id, kNoChain);
    (void)ring.publish();
    std::fill_n(memory, spec::desc_bytes(kSize) + spec::avail_bytes(kSize), std::byte{0xff});
    use(layout, id, 100);
    UsedChain used;
    ASSERT_EQ(ring.poll_used(&used, 1), 1u);
    EXPECT_EQ(used.id, id);
    EXPECT_EQ(used.len, 100u);
    EXPECT_EQ(ring.free_descriptors(), kSize);
  }
}

}  // namespace
}  // namespace pollux::ring
