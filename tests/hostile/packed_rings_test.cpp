// SPDX-License-Identifier: Apache-2.0
// Drivers that lie in their packed rings: one table of lies for each direction, with what must come
// of it, and races in which everything changes between any two accesses. All guest memory lies
// between pages that nobody may touch.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux {
namespace {

using ring::RingError;
using ring::UsedEntries;
using test::Bytes;
using test::Guest;
using test::HookedAccess;
using test::kAvail;
using test::kIndirect;
using test::kNext;
using test::kUsed;
using test::kWrite;
using test::PackedImage;
using test::pattern;

using Ring = ring::PackedDeviceRing<HookedAccess>;
using RingInOrder = ring::PackedDeviceRing<HookedAccess, UsedEntries::kOneForMany>;

constexpr uint32_t kSize = 5;
constexpr uint32_t kHdr = 12;
constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_RING_PACKED;

// The first two regions are adjacent; nothing lies behind the second.
constexpr uint64_t kFirst = 0x10000;
constexpr uint64_t kSecond = 0x50000;
constexpr uint64_t kEnd = 0x60000;
constexpr uint64_t kNowhere = 0x70000000;

using Drops = std::map<DropReason, uint64_t>;

Drops drops_of(const QueueCounters& counters) {
  Drops drops;
  for (size_t r = 0; r < kDropReasonCount; ++r) {
    const auto reason = static_cast<DropReason>(r);
    if (counters.drops.value(reason) != 0) drops[reason] = counters.drops.value(reason);
  }
  return drops;
}

/// A liar's memory and one ring of it.
struct Liar {
  PackedImage image{kSize};
  Guest guest{{{kFirst, kSecond - kFirst}, {kSecond, kEnd - kSecond}}};
  HookedAccess::Hook hook;

  template <typename R = Ring>
  R ring(bool indirect = true) {
    return R({image.layout(), {}, indirect, false}, guest.view(), HookedAccess(hook));
  }
  [[nodiscard]] uint64_t frame() {
    Bytes all(kHdr);
    const Bytes bytes = pattern(60);
    all.insert(all.end(), bytes.begin(), bytes.end());
    return guest.place(all);
  }
  void good(uint16_t id) { image.offer(frame(), kHdr + 60, 0, id); }
  void post(uint16_t id, uint32_t size = 2000) {
    image.offer(guest.allocate(size), size, kWrite, id);
  }
  /// A table of one good frame, each of whose entries has these flags.
  uint64_t table(uint16_t flags = 0) {
    const uint64_t bytes = frame();
    const uint64_t at = guest.allocate(32);
    PackedImage::put_desc(guest.at(at), 0, bytes, kHdr, 0xffff, flags);
    PackedImage::put_desc(guest.at(at), 1, bytes + kHdr, 60, 0xffff, flags);
    return at;
  }
};

struct Lie {
  std::string name;
  std::function<void(Liar&)> tell;
  Drops drops;
  uint64_t delivered = 0;
  uint32_t used = 1;  // chains returned
  RingError error = RingError::none;
  bool indirect = true;
  bool mergeable = true;

  friend void PrintTo(const Lie& lie, std::ostream* os) { *os << lie.name; }
};

std::function<void(Liar&)> one(uint64_t addr, uint32_t len, uint16_t flags = 0) {
  return [=](Liar& liar) { liar.image.offer(addr, len, flags, 0); };
}
std::function<void(Liar&)> flags_of_first(uint16_t flags) {
  return [=](Liar& liar) {
    liar.good(0);
    liar.image.flags(0, flags);
  };
}
/// A descriptor that refers to a good table, but with this length and these flags.
std::function<void(Liar&)> through_table(uint32_t len, uint16_t flags, uint16_t inside = 0) {
  return [=](Liar& liar) { liar.image.offer(liar.table(inside), len, flags, 0); };
}
void loop_over_the_ring(Liar& liar) {
  for (uint32_t i = 0; i < kSize; ++i) liar.image.desc(i, kFirst, 1, 0, kAvail | kNext);
}

constexpr DropReason kBadDescriptor = DropReason::bad_descriptor;
constexpr DropReason kBadAddress = DropReason::bad_address;
constexpr DropReason kBadHeader = DropReason::bad_net_header;

std::vector<Lie> sender_lies() {
  return {
      {"id_is_the_size", [](Liar& l) { l.good(kSize); }, {}, 0, 0, RingError::id_range},
      {"id_all_ones", [](Liar& l) { l.good(0xffff); }, {}, 0, 0, RingError::id_range},
      {"good_frame_then_bad_id",
       [](Liar& l) {
         l.good(0);
         l.good(0x8000);
       },
       {},
       1,
       1,
       RingError::id_range},
      {"same_id_twice",
       [](Liar& l) {
         l.good(0);
         l.good(0);
       },
       {},
       2,
       2},
      {"wrap_counter_flipped", flags_of_first(kUsed), {}, 0, 0},
      {"neither_available_nor_used", flags_of_first(0), {}, 0, 0},
      {"loops_over_the_whole_ring", loop_over_the_ring, {}, 0, 0, RingError::chain_length},
      {"chain_without_its_end",
       [](Liar& l) { l.image.desc(0, kFirst, 1, 0, kAvail | kNext); },
       {},
       0,
       0,
       RingError::chain_torn},
      {"end_of_chain_of_the_wrong_lap",
       [](Liar& l) {
         l.image.desc(0, kFirst, 1, 0, kAvail | kNext);
         l.image.desc(1, kFirst, 100, 0, kUsed);
       },
       {},
       0,
       0,
       RingError::chain_torn},
      {"writable", one(kFirst, 72, kWrite), {{kBadDescriptor, 1}}},
      {"second_is_writable",
       [](Liar& l) { l.image.offer({{kFirst, 72}, {kFirst, 72, kWrite}}, 0); },
       {{kBadDescriptor, 1}}},
      {"nowhere", one(kNowhere, 72), {{kBadAddress, 1}}},
      {"ends_with_a_region", one(kEnd - 72, 72), {}, 1},
      {"ends_one_past_a_region", one(kEnd - 71, 72), {{kBadAddress, 1}}},
      {"spans_two_adjacent_regions", one(kSecond - 36, 72), {}, 1},
      {"address_wraps", one(~uint64_t{0} - 35, 72), {{kBadAddress, 1}}},
      {"longest", one(kFirst, 0xffffffff), {{DropReason::too_long, 1}}},
      {"length_0", one(kFirst, 0), {{kBadHeader, 1}}},
      {"shorter_than_the_header", one(kFirst, 11), {{kBadHeader, 1}}},
      {"not_longer_than_the_header", one(kFirst, 12), {{DropReason::runt, 1}}},
      {"chain_not_longer_than_the_header",
       [](Liar& l) { l.image.offer({{kFirst, 6}, {kFirst, 6}, {kFirst, 0}}, 0); },
       {{DropReason::runt, 1}}},
      {"chain_of_nothing",
       [](Liar& l) { l.image.offer({{kNowhere, 0}, {kNowhere, 0}}, 0); },
       {{kBadHeader, 1}}},
      {"indirect", through_table(32, kIndirect), {}, 1},
      {"indirect_with_ignored_flags",
       through_table(32, kIndirect | kWrite, kNext | kIndirect | kAvail | kUsed),
       {},
       1},
      {"indirect_length_0", through_table(0, kIndirect), {{kBadDescriptor, 1}}},
      {"indirect_length_31", through_table(31, kIndirect), {{kBadDescriptor, 1}}},
      {"indirect_half", through_table(16, kIndirect), {{DropReason::runt, 1}}},
      {"indirect_longest", through_table(0xfffffff0, kIndirect), {{kBadAddress, 1}}},
      {"indirect_nowhere", one(kNowhere, 32, kIndirect), {{kBadAddress, 1}}},
      {"indirect_over_two_regions", one(kSecond - 16, 32, kIndirect), {{kBadAddress, 1}}},
      {"indirect_in_a_list",
       [](Liar& l) { l.image.offer({{l.table(), 32, kIndirect}, {kFirst, 1}}, 0); },
       {{kBadDescriptor, 1}}},
      {"list_that_ends_indirect",
       [](Liar& l) { l.image.offer({{l.frame(), kHdr}, {l.table(), 32, kIndirect}}, 0); },
       {{kBadDescriptor, 1}}},
      {"indirect_not_negotiated",
       through_table(32, kIndirect),
       {{kBadDescriptor, 1}},
       0,
       1,
       RingError::none,
       false},
  };
}

uint32_t count_used(const Liar& liar) {
  uint32_t used = 0;
  for (uint32_t i = 0; i < kSize; ++i) used += liar.image.used(i) ? 1 : 0;
  return used;
}

class PackedSender : public testing::TestWithParam<Lie> {};

TEST_P(PackedSender, CostsItselfFrames) {
  const Lie& lie = GetParam();
  Liar liar;
  lie.tell(liar);
  test::LeakChecked pool;
  QueueCounters counters;
  virtio::NetDeviceRx<Ring> rx(liar.ring(lie.indirect), kFeatures);
  Burst burst(pool.cache());
  for (int turn = 0; turn < 3; ++turn) {
    rx.poll(burst, counters);
    (void)rx.complete();
  }
  EXPECT_EQ(burst.size(), lie.delivered);
  EXPECT_EQ(drops_of(counters), lie.drops);
  EXPECT_EQ(rx.ring().error(), lie.error);
  EXPECT_EQ(count_used(liar), lie.used);
  EXPECT_EQ(counters.packets.value(), lie.used);
  if (lie.error != RingError::none || lie.used == 0) return;
  liar.good(1);  // and the ring goes on
  rx.poll(burst, counters);
  EXPECT_EQ(burst.size(), lie.delivered + 1);
}

INSTANTIATE_TEST_SUITE_P(Hostile, PackedSender, testing::ValuesIn(sender_lies()),
                         [](const auto& lie) { return lie.param.name; });

TEST(PackedSenderAtWork, HeaderSplitAtEveryByte) {
  Liar liar;
  test::LeakChecked pool;
  QueueCounters counters;
  virtio::NetDeviceRx<Ring> rx(liar.ring(), kFeatures);
  const uint64_t at = liar.frame();
  for (uint32_t cut = 1; cut < kHdr + 60; ++cut) {
    liar.image.offer({{at, cut}, {at + cut, kHdr + 60 - cut}}, 0);
    Burst burst(pool.cache());
    rx.poll(burst, counters);
    ASSERT_EQ(burst.size(), 1u);
    ASSERT_EQ(test::bytes_of(burst[0]), pattern(60));
    (void)rx.complete();
  }
}

constexpr DropReason kBadBuffer = DropReason::receiver_bad_buffer;
constexpr DropReason kTooSmall = DropReason::receiver_too_small;

std::vector<Lie> receiver_lies() {
  std::vector<Lie> lies{
      {"id_is_the_size", [](Liar& l) { l.post(kSize); }, {}, 0, 0, RingError::id_range},
      {"wrap_counter_flipped", flags_of_first(kUsed | kWrite), {}, 0, 0},
      {"loops_over_the_whole_ring", loop_over_the_ring, {}, 0, 0, RingError::chain_length},
      {"readable", one(kFirst, 2000), {{kBadBuffer, 1}}},
      {"second_is_readable",
       [](Liar& l) { l.image.offer({{kFirst, 20, kWrite}, {kFirst, 2000}}, 0); },
       {{kBadBuffer, 1}}},
      {"nowhere", one(kNowhere, 2000, kWrite), {{kBadBuffer, 1}}},
      {"ends_with_a_region", one(kEnd - 72, 72, kWrite), {}, 1},
      {"ends_one_past_a_region", one(kEnd - 71, 72, kWrite), {{kBadBuffer, 1}}},
      {"spans_two_adjacent_regions", one(kSecond - 36, 72, kWrite), {}, 1},
      {"indirect_length_17", one(kFirst, 17, kIndirect), {{kBadBuffer, 1}}},
      {"indirect_to_readable", through_table(32, kIndirect), {{kBadBuffer, 1}}},
      {"indirect_nowhere", one(kNowhere, 16, kIndirect), {{kBadBuffer, 1}}},
  };
  const size_t both = lies.size();
  for (size_t i = 0; i < both; ++i) {
    Lie lie = lies[i];
    lie.name += "_without_mergeable";
    lie.mergeable = false;
    lies.push_back(lie);
  }
  lies.push_back({.name = "too_small_without_mergeable",
                  .tell = [](Liar& l) { l.post(0, 71); },
                  .drops = {{kTooSmall, 1}},
                  .used = 0,
                  .mergeable = false});
  lies.push_back({.name = "header_alone_without_mergeable",
                  .tell = [](Liar& l) { l.post(0, 12); },
                  .drops = {{kTooSmall, 1}},
                  .used = 0,
                  .mergeable = false});
  lies.push_back({.name = "smaller_than_the_header",
                  .tell =
                      [](Liar& l) {
                        for (uint16_t i = 0; i < 4; ++i) l.post(i, 5);
                        l.post(4, 200);
                      },
                  .drops = {},
                  .delivered = 1,
                  .used = 5});
  lies.push_back({.name = "chains_of_nothing",
                  .tell =
                      [](Liar& l) {
                        for (uint16_t i = 0; i < kSize; ++i) l.post(i, 0);
                      },
                  .drops = {{kTooSmall, 1}},
                  .used = 0});
  return lies;
}

class PackedReceiver : public testing::TestWithParam<Lie> {};

TEST_P(PackedReceiver, CostsItselfFrames) {
  const Lie& lie = GetParam();
  Liar liar;
  lie.tell(liar);
  test::LeakChecked pool;
  QueueCounters counters;
  const uint64_t mrg = lie.mergeable ? spec::VIRTIO_NET_F_MRG_RXBUF : 0;
  virtio::NetDeviceTx<Ring> tx(liar.ring(lie.indirect), kFeatures | mrg);
  Burst burst(pool.cache());
  burst.push(pool.packet_of(pattern(60)));
  tx.send(burst, counters);
  (void)tx.publish();
  EXPECT_EQ(counters.packets.value(), lie.delivered);
  EXPECT_EQ(drops_of(counters), lie.drops);
  EXPECT_EQ(tx.ring().error(), lie.error);
  EXPECT_EQ(count_used(liar), lie.used);
}

INSTANTIATE_TEST_SUITE_P(Hostile, PackedReceiver, testing::ValuesIn(receiver_lies()),
                         [](const auto& lie) { return lie.param.name; });

/// What a liar changes at the very moment between two accesses.
struct Race {
  const char* name;
  std::function<void(Liar&)> change;

  friend void PrintTo(const Race& race, std::ostream* os) { *os << race.name; }
};

std::vector<Race> races() {
  const auto all = [](size_t field, uint64_t value, size_t bytes) {
    return [=](Liar& l) {
      for (uint32_t i = 0; i < kSize; ++i) {
        std::byte* at = l.image.desc_memory().data() + 16 * i + field;
        for (size_t b = 0; b < bytes; ++b) at[b] = static_cast<std::byte>(value >> (8 * b));
      }
    };
  };
  return {
      {"length_longest", all(8, 0xffffffff, 4)},
      {"length_0", all(8, 0, 4)},
      {"length_1", all(8, 1, 4)},
      {"id_all_ones", all(12, 0xffff, 2)},
      {"flags_next", all(14, kAvail | kNext, 2)},
      {"flags_indirect", all(14, kAvail | kIndirect, 2)},
      {"flags_write", all(14, kAvail | kWrite, 2)},
      {"flags_of_the_other_lap", all(14, kUsed, 2)},
      {"flags_used", all(14, kAvail | kUsed, 2)},
      {"flags_all_ones", all(14, 0xffff, 2)},
      {"address_nowhere", all(0, kNowhere, 8)},
      {"address_at_the_end", all(0, kEnd - 1, 8)},
      {"all_of_its_memory_all_ones",
       [](Liar& l) { std::fill_n(l.guest.at(kFirst), 0x4000, std::byte{0xff}); }},
      {"all_of_its_memory_0",
       [](Liar& l) { std::fill_n(l.guest.at(kFirst), 0x4000, std::byte{}); }},
      {"everything_random",
       [seed = 0U](Liar& l) mutable {
         const Bytes noise = pattern(0x4000, ++seed);
         std::copy(noise.begin(), noise.end(), l.guest.at(kFirst));
         std::copy_n(noise.begin(), 16 * kSize, l.image.desc_memory().data());
         std::copy_n(noise.begin() + 100, 4, l.image.driver_memory().data());
       }},
  };
}

/// Calls `body(when)` with a change before access number `when`, until there are no more accesses.
template <typename Body>
void before_each_access(const Race& race, Body body) {
  for (uint64_t when = 1; when < 1000; ++when) {
    SCOPED_TRACE("before access " + std::to_string(when));
    Liar liar;
    uint64_t now = 0;
    liar.hook.before = [&] {
      if (++now == when) race.change(liar);
    };
    body(liar);
    if (now < when || testing::Test::HasFailure()) return;
  }
}

class PackedRace : public testing::TestWithParam<Race> {
 protected:
  template <typename R>
  static void receive(Liar& liar) {
    test::LeakChecked pool;
    QueueCounters counters;
    liar.good(3);
    const uint64_t at = liar.frame();
    liar.image.offer({{at, 5}, {at + 5, 40}, {at + 45, 27}}, 2);
    liar.image.offer(liar.table(), 32, kIndirect, 0);
    virtio::NetDeviceRx<R> rx(liar.ring<R>(), kFeatures);
    for (int turn = 0; turn < 3; ++turn) {
      Burst burst(pool.cache());
      rx.poll(burst, counters);
      (void)rx.complete();
    }
    // All that was taken is returned, and each packet has one fate.
    EXPECT_EQ(rx.ring().next_avail(), rx.ring().next_used());
    EXPECT_LE(test::all_drops(counters), counters.packets.value());
    EXPECT_LE(counters.packets.value(), 3 * kSize);
  }
};

TEST_P(PackedRace, WhileItSends) {
  before_each_access(GetParam(), [](Liar& liar) { receive<Ring>(liar); });
}

TEST_P(PackedRace, WhileItSendsInOrder) {
  before_each_access(GetParam(), [](Liar& liar) { receive<RingInOrder>(liar); });
}

TEST_P(PackedRace, WhileItReceives) {
  for (const uint64_t mrg : {uint64_t{0}, spec::VIRTIO_NET_F_MRG_RXBUF}) {
    before_each_access(GetParam(), [&](Liar& liar) {
      test::LeakChecked pool;
      QueueCounters counters;
      const uint64_t at = liar.guest.allocate(4000);
      liar.image.offer(at, 300, kWrite, 4);
      liar.image.offer({{at + 300, 20, kWrite}, {at + 320, 900, kWrite}}, 1);
      const uint64_t table = liar.guest.allocate(32);
      PackedImage::put_desc(liar.guest.at(table), 0, at + 1300, 5, 0, kWrite);
      PackedImage::put_desc(liar.guest.at(table), 1, at + 1305, 1500, 0, kWrite);
      liar.image.offer(table, 32, kIndirect, 3);
      liar.image.offer(at + 3000, 1000, kWrite, 2);
      virtio::NetDeviceTx<Ring> tx(liar.ring(), kFeatures | mrg);
      Burst burst(pool.cache());
      for (const size_t size : {200U, 1000U, 60U}) burst.push(pool.packet_of(pattern(size)));
      tx.send(burst, counters);
      (void)tx.publish();
      EXPECT_EQ(counters.packets.value() + test::all_drops(counters) + burst.size(), 3u);
      EXPECT_EQ(tx.ring().next_avail(), tx.ring().next_used());
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Hostile, PackedRace, testing::ValuesIn(races()),
                         [](const auto& race) { return std::string(race.param.name); });

}  // namespace
}  // namespace pollux
