// SPDX-License-Identifier: Apache-2.0
// A device that lies about used chains, in rings of both formats: a table of lies each, with what
// must come of it.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "tests/support/hooked_access.hpp"

namespace pollux::ring {
namespace {

constexpr uint32_t kSize = 8;

template <typename Layout>
struct Lie {
  std::string name;
  std::function<void(const Layout&)> tell;  // four writable chains of 100 bytes are out
  RingError error;
  size_t returned = 0;  // chains that were good before the lie
  bool in_order = false;

  friend void PrintTo(const Lie& lie, std::ostream* os) {
    *os << lie.returned << " chains good, then: " << describe(lie.error);
  }
};
using SplitLie = Lie<SplitLayout>;
using PackedLie = Lie<PackedLayout>;

void use(const SplitLayout& q, uint32_t id, uint32_t len) {
  q.used->ring[q.used->idx % kSize] = {id, len};
  q.used->idx = static_cast<uint16_t>(q.used->idx + 1);
}

const std::vector<SplitLie>& split_lies() {
  static const std::vector<SplitLie> table{
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
      {"batch_longer_than_the_index_says", [](const SplitLayout& q) { use(q, 2, 100); },
       RingError::used_not_outstanding, 0, true},
      {"batch_to_a_chain_that_came_back",
       [](const SplitLayout& q) {
         use(q, 0, 100);
         use(q, 0, 100);
         use(q, 2, 100);
       },
       RingError::used_not_outstanding, 1, true},
      {"batch_length_more_than_its_last",
       [](const SplitLayout& q) {
         q.used->ring[0] = {1, 101};
         q.used->idx = 2;
       },
       RingError::used_length, 0, true},
      {"batch_shorter_than_the_index_says",  // what comes after it is then another entry
       [](const SplitLayout& q) {
         q.used->ring[0] = {1, 100};
         q.used->ring[2] = {kSize, 0};
         q.used->idx = 3;
       },
       RingError::used_range, 2, true},
  };
  return table;
}

/// Marks descriptor `at` used in the first lap.
void use(const PackedLayout& q, uint32_t at, uint32_t id, uint32_t len) {
  q.desc[at] = {0, len, static_cast<uint16_t>(id), packed_used_flags(true)};
}

// The chains of one descriptor are 0, 1 and 2; the chain of two lies in descriptors 3 and 4.
const std::vector<PackedLie>& packed_lies() {
  static const std::vector<PackedLie> table{
      {"id_is_the_size", [](const PackedLayout& q) { use(q, 0, q.size, 1); },
       RingError::used_range},
      {"id_all_ones", [](const PackedLayout& q) { use(q, 0, 0xffff, 1); }, RingError::used_range},
      {"id_never_added", [](const PackedLayout& q) { use(q, 0, 6, 1); },
       RingError::used_not_outstanding},
      {"id_twice",
       [](const PackedLayout& q) {
         use(q, 0, 1, 1);
         use(q, 1, 1, 1);
       },
       RingError::used_not_outstanding, 1},
      {"length_one_more_than_the_chain", [](const PackedLayout& q) { use(q, 0, 0, 101); },
       RingError::used_length},
      {"length_all_ones", [](const PackedLayout& q) { use(q, 0, 0, 0xffffffff); },
       RingError::used_length},
      {"good_then_bad",
       [](const PackedLayout& q) {
         use(q, 0, 2, 100);
         use(q, 1, 0, 7);
         use(q, 2, 99, 7);
       },
       RingError::used_range, 2},
      {"more_than_are_out",
       [](const PackedLayout& q) {
         for (uint32_t i = 0; i < 4; ++i) use(q, i, i, 100);
         for (uint32_t i = 4; i < q.size; ++i) use(q, i, 0, 100);
       },
       RingError::none, 4},
      {"wrap_counter_flipped",  // looks like a descriptor of the last lap: nothing to see
       [](const PackedLayout& q) { q.desc[0] = {0, 1, 0, packed_used_flags(false)}; },
       RingError::none, 0},
      {"half_used", [](const PackedLayout& q) { q.desc[0] = {0, 1, 0, spec::VIRTQ_DESC_F_USED}; },
       RingError::none, 0},
      {"order_id_of_the_middle_of_a_chain", [](const PackedLayout& q) { use(q, 0, 4, 1); },
       RingError::used_not_outstanding, 0, true},
      {"order_batch_to_a_chain_that_came_back",
       [](const PackedLayout& q) {
         use(q, 0, 1, 100);
         use(q, 2, 0, 100);
       },
       RingError::used_not_outstanding, 2, true},
      {"order_batch_length_more_than_its_last", [](const PackedLayout& q) { use(q, 0, 2, 101); },
       RingError::used_length, 0, true},
      {"order_id_is_the_size", [](const PackedLayout& q) { use(q, 0, q.size, 0); },
       RingError::used_range, 0, true},
  };
  return table;
}

/// Tells the lie, and expects that the ring ends with it, but knows what to give back.
template <typename Ring, typename Layout>
void hear(Ring&& ring, const Layout& layout, const Lie<Layout>& lie) {
  ring.add_writable(3, [](size_t, uint16_t) { return DriverBuffer{0x1000, 100}; });
  const std::vector<DriverBuffer> pair(2, DriverBuffer{0x1000, 50});
  ASSERT_EQ(ring.add({}, pair), 3);  // descriptors 3 and 4
  (void)ring.publish();

  lie.tell(layout);
  UsedChain used[kSize];
  EXPECT_EQ(ring.poll_used(used, kSize), lie.returned);
  EXPECT_EQ(ring.error(), lie.error);
  EXPECT_FALSE(describe(ring.error()).empty());

  if (lie.error != RingError::none) {
    EXPECT_EQ(ring.poll_used(used, kSize), 0u);
    EXPECT_EQ(ring.add_readable(1, [](size_t, uint16_t) { return DriverBuffer{}; }), 0u);
    EXPECT_EQ(ring.add(pair, {}), kNoChain);
    EXPECT_FALSE(ring.publish());
  }
  size_t left = 0;
  ring.drain([&](uint16_t) { ++left; });
  EXPECT_EQ(left, 4 - lie.returned);
}

class LyingDevice : public testing::TestWithParam<SplitLie> {};

TEST_P(LyingDevice, BreaksTheRingWithItsReason) {
  alignas(64) static std::byte memory[split_bytes(kSize)];
  const SplitLayout layout = place_split(memory, kSize);
  hear(SplitDriverRing<>(layout, {.in_order = GetParam().in_order}), layout, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Hostile, LyingDevice, testing::ValuesIn(split_lies()),
                         [](const auto& lie) { return lie.param.name; });

class LyingPackedDevice : public testing::TestWithParam<PackedLie> {};

TEST_P(LyingPackedDevice, BreaksTheRingWithItsReason) {
  alignas(64) static std::byte memory[packed_bytes(kSize - 1)];
  const PackedLayout layout = place_packed(memory, kSize - 1);
  hear(PackedDriverRing<>(layout, {.in_order = GetParam().in_order}), layout, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Hostile, LyingPackedDevice, testing::ValuesIn(packed_lies()),
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

TEST(ScribblingDevice, PackedDescriptorsAreNeverReadBack) {
  constexpr uint32_t kOdd = 7;
  alignas(64) static std::byte memory[packed_bytes(kOdd)];
  for (const bool in_order : {false, true}) {
    const PackedLayout layout = place_packed(memory, kOdd);
    PackedDriverRing<> ring(layout, {.in_order = in_order});
    const std::vector<DriverBuffer> pair(2, DriverBuffer{0x1000, 50});
    PackedCursor at;
    for (uint16_t round = 0; round < 100; ++round) {
      const uint16_t id = ring.add({}, pair);
      ASSERT_NE(id, kNoChain);
      (void)ring.publish();
      std::fill_n(memory, spec::packed_desc_bytes(kOdd), std::byte{0x5a});
      layout.desc[at.index] = {0, 100, id, packed_used_flags(at.wrap)};
      at = at.advanced(2, kOdd);
      UsedChain used;
      ASSERT_EQ(ring.poll_used(&used, 1), 1u);
      EXPECT_EQ(used.id, id);
      EXPECT_EQ(used.len, 100u);
      EXPECT_EQ(ring.free_descriptors(), kOdd);
    }
  }
}

// A device that changes its word between our looks: what was checked is what is used.
TEST(ChangingDevice, IdAndLengthAreReadOnce) {
  alignas(64) static std::byte memory[packed_bytes(4)];
  const PackedLayout layout = place_packed(memory, 4);
  test::HookedAccess::Hook hook;
  PackedDriverRing<test::HookedAccess> ring(layout, {}, test::HookedAccess(hook));
  for (uint64_t when = 1; when < 8; ++when) {
    ASSERT_EQ(ring.add_writable(1, [](size_t, uint16_t) { return DriverBuffer{0x1000, 100}; }), 1u);
    (void)ring.publish();
    const PackedCursor at = PackedCursor{}.advanced((when - 1) % 4, 4);
    const bool lap = when <= 4;
    layout.desc[at.index] = {0, 60, layout.desc[at.index].id, packed_used_flags(lap)};
    const uint64_t from = hook.reads + when;
    hook.before = [&] {
      if (hook.reads >= from) layout.desc[at.index] = {~0ULL, 0xffffffff, 0xffff, 0xffff};
    };
    UsedChain used;
    const size_t got = ring.poll_used(&used, 1);
    hook.before = [] {};
    if (ring.broken()) {  // it saw the lie, whole
      EXPECT_EQ(got, 0u);
      EXPECT_EQ(ring.error(), RingError::used_range);
      ring.fail(RingError::none);
      layout.desc[at.index] = {0, 60, 0, packed_used_flags(lap)};
      ASSERT_EQ(ring.poll_used(&used, 1), 1u);
    } else {
      ASSERT_EQ(got, 1u);
      EXPECT_EQ(used.len, 60u);
    }
  }
}

}  // namespace
}  // namespace pollux::ring
