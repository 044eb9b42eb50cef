// SPDX-License-Identifier: Apache-2.0
// What a driver writes into a split virtqueue, and reads from it, byte by byte. All expected bytes
// are worked out by hand from VIRTIO 1.3, section 2.7 (little-endian fields):
//   descriptor (2.7.5)     addr le64, len le32, flags le16 (NEXT 1, WRITE 2, INDIRECT 4), next le16
//   available ring (2.7.6) flags le16, idx le16, ring[size] le16, used_event le16
//   used ring (2.7.8)      flags le16, idx le16, ring[size] {id le32, len le32}, avail_event le16
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "pollux/ring/split_driver_ring.hpp"

namespace pollux::ring {
namespace {

using Bytes = std::vector<uint8_t>;

// A queue of four entries at offsets that follow from the sizes alone: 64 bytes of descriptors,
// 14 of available ring, padded to 80, 38 of used ring.
class SplitDriverBytes : public testing::Test {
 protected:
  static constexpr size_t kAvail = 64;
  static constexpr size_t kUsed = 80;
  static constexpr size_t kTable = 128;  // two indirect tables of three descriptors, 48 bytes each

  SplitDriverBytes() { memory_.fill(0xee); }

  SplitDriverRing<> make(DriverRingOptions options = {}) {
    return SplitDriverRing<>(layout(), options);
  }
  SplitLayout layout() {
    return {4, reinterpret_cast<spec::virtq_desc*>(memory_.data()),
            reinterpret_cast<spec::virtq_avail*>(memory_.data() + kAvail),
            reinterpret_cast<spec::virtq_used*>(memory_.data() + kUsed)};
  }
  DriverRingOptions with_tables() {
    return {.indirect = {.memory = reinterpret_cast<spec::virtq_desc*>(memory_.data() + kTable),
                         .addr = 0x5000,
                         .count = 2,
                         .entries = 3}};
  }
  Bytes at(size_t offset, size_t size) const {
    return {memory_.begin() + offset, memory_.begin() + offset + size};
  }
  void put(size_t offset, const Bytes& bytes) {
    std::memcpy(memory_.data() + offset, bytes.data(), bytes.size());
  }

  alignas(64) std::array<uint8_t, 256> memory_;
};

TEST_F(SplitDriverBytes, LayoutMatchesTheSizesOfSection27) {
  EXPECT_EQ(reinterpret_cast<uint8_t*>(layout().used_event()) - memory_.data(), 64 + 4 + 2 * 4);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(layout().avail_event()) - memory_.data(), 80 + 4 + 8 * 4);
}

TEST_F(SplitDriverBytes, FreshQueueSuppressesInterruptsAndClearsTheDevicesFields) {
  auto ring = make();
  EXPECT_EQ(at(kAvail, 4), (Bytes{1, 0, 0, 0}));  // flags NO_INTERRUPT, idx 0
  EXPECT_EQ(at(kUsed, 4), (Bytes{0, 0, 0, 0}));   // 2.7.10.1: flags 0
  EXPECT_EQ(at(kUsed + 36, 2), (Bytes{0, 0}));    // avail_event
}

TEST_F(SplitDriverBytes, FreshQueueWithEventIndexKeepsFlagsZero) {
  auto ring = make({.event_idx = true});
  EXPECT_EQ(at(kAvail, 4), (Bytes{0, 0, 0, 0}));       // 2.7.7.1: flags must be 0
  EXPECT_EQ(at(kAvail + 12, 2), (Bytes{0xff, 0xff}));  // used_event: the index before the first
}

TEST_F(SplitDriverBytes, OneReadableBuffer) {
  auto ring = make();
  const DriverBuffer buffer{0x1122334455667788, 0x4c};
  EXPECT_EQ(ring.add({&buffer, 1}, {}), 0);
  EXPECT_EQ(at(0, 16), (Bytes{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // addr
                              0x4c, 0, 0, 0, 0, 0, 0, 0}));                    // len, flags, next
  EXPECT_EQ(at(kAvail + 2, 2), (Bytes{0, 0}));                                 // not shown yet
  EXPECT_EQ(at(kAvail + 4, 2), (Bytes{0, 0}));                                 // ring[0] = head 0
  EXPECT_TRUE(ring.publish());
  EXPECT_EQ(at(kAvail + 2, 2), (Bytes{1, 0}));
}

TEST_F(SplitDriverBytes, ChainOfReadableThenWritable) {
  auto ring = make();
  const std::array out{DriverBuffer{0x1000, 12}, DriverBuffer{0x2000, 1500}};
  const std::array in{DriverBuffer{0x3000, 2}};
  EXPECT_EQ(ring.add(out, in), 0);
  EXPECT_EQ(at(0, 48), (Bytes{0x00, 0x10, 0, 0, 0, 0, 0, 0, 12,   0,    0, 0, 1, 0, 1, 0,  //
                              0x00, 0x20, 0, 0, 0, 0, 0, 0, 0xdc, 0x05, 0, 0, 1, 0, 2, 0,  //
                              0x00, 0x30, 0, 0, 0, 0, 0, 0, 2,    0,    0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(ring.free_descriptors(), 1u);
}

TEST_F(SplitDriverBytes, WritableBuffersInOneCall) {
  auto ring = make();
  const size_t added = ring.add_writable(
      3, [](size_t i, uint16_t) { return DriverBuffer{0x10000 * (i + 1), 0x60c}; });
  EXPECT_EQ(added, 3u);
  EXPECT_EQ(at(32, 16), (Bytes{0, 0, 3, 0, 0, 0, 0, 0, 0x0c, 0x06, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(at(kAvail + 4, 6), (Bytes{0, 0, 1, 0, 2, 0}));
  EXPECT_EQ(at(kAvail + 2, 2), (Bytes{0, 0}));
  (void)ring.publish();
  EXPECT_EQ(at(kAvail + 2, 2), (Bytes{3, 0}));
}

TEST_F(SplitDriverBytes, IndirectTable) {
  auto ring = make(with_tables());
  const std::array out{DriverBuffer{0xa000, 12}, DriverBuffer{0xb000, 100}};
  const std::array in{DriverBuffer{0xc000, 1}};
  EXPECT_EQ(ring.add(out, in), 0);
  // 2.7.5.3: one descriptor with INDIRECT (4) and without NEXT; 3 entries of 16 bytes.
  EXPECT_EQ(at(0, 16), (Bytes{0x00, 0x50, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 4, 0, 0, 0}));
  EXPECT_EQ(at(kTable, 48), (Bytes{0x00, 0xa0, 0, 0, 0, 0, 0, 0, 12,  0, 0, 0, 1, 0, 1, 0,  //
                                   0x00, 0xb0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 1, 0, 2, 0,  //
                                   0x00, 0xc0, 0, 0, 0, 0, 0, 0, 1,   0, 0, 0, 2, 0, 0, 0}));
  // The second table lies 48 bytes on.
  EXPECT_EQ(ring.add(std::span(out).first(2), {}), 1);
  EXPECT_EQ(at(16, 16), (Bytes{0x30, 0x50, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 4, 0, 0, 0}));
  // Out of tables: the rest of the descriptors directly.
  EXPECT_EQ(ring.add(std::span(out).first(2), {}), 2);
  EXPECT_EQ(at(32, 32), (Bytes{0x00, 0xa0, 0, 0, 0, 0, 0, 0, 12,  0, 0, 0, 1, 0, 3, 0,  //
                               0x00, 0xb0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_F(SplitDriverBytes, SingleBufferNeverUsesATable) {
  auto ring = make(with_tables());
  const DriverBuffer buffer{0xa000, 12};
  EXPECT_EQ(ring.add({&buffer, 1}, {}), 0);
  EXPECT_EQ(at(12, 2), (Bytes{0, 0}));
}

TEST_F(SplitDriverBytes, UsedEntriesAreReadInTheDevicesOrder) {
  auto ring = make();
  ring.add_writable(4, [](size_t, uint16_t) { return DriverBuffer{0x1000, 0x1000}; });
  (void)ring.publish();
  // The device returns chain 2 with 0x123 bytes, then chain 0 with 64; idx becomes 2.
  put(kUsed + 4, {2, 0, 0, 0, 0x23, 0x01, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0});
  put(kUsed + 2, {2, 0});
  std::array<UsedChain, 4> used;
  ASSERT_EQ(ring.poll_used(used.data(), used.size()), 2u);
  EXPECT_EQ(used[0].id, 2);
  EXPECT_EQ(used[0].len, 0x123u);
  EXPECT_EQ(used[1].id, 0);
  EXPECT_EQ(used[1].len, 64u);
  EXPECT_EQ(ring.poll_used(used.data(), used.size()), 0u);
  // They are given out again in the order in which they came back: ring[0] and ring[1], after the
  // four entries of the first round, become 2 and 0.
  ring.add_writable(4, [](size_t, uint16_t) { return DriverBuffer{0x1000, 0x1000}; });
  (void)ring.publish();
  EXPECT_EQ(at(kAvail + 2, 10), (Bytes{6, 0, 2, 0, 0, 0, 2, 0, 3, 0}));
}

// 2.7.9: one used entry with the head of the last chain of a batch, at the place of the first; idx
// moves by the whole batch. What it leaves out was used completely.
TEST_F(SplitDriverBytes, InOrderBatch) {
  auto ring = make({.in_order = true});
  const std::array two{DriverBuffer{0x1000, 50}, DriverBuffer{0x2000, 60}};
  EXPECT_EQ(ring.add({}, two), 0);
  ring.add_writable(2, [](size_t i, uint16_t) { return DriverBuffer{0x3000, 70 + uint32_t(i)}; });
  (void)ring.publish();
  EXPECT_EQ(at(kAvail + 2, 8), (Bytes{3, 0, 0, 0, 2, 0, 3, 0}));
  put(kUsed + 4, {3, 0, 0, 0, 33, 0, 0, 0});
  put(kUsed + 2, {3, 0});
  std::array<UsedChain, 4> used;
  ASSERT_EQ(ring.poll_used(used.data(), 2), 2u) << "room for two of three";
  EXPECT_EQ(used[0].id, 0);
  EXPECT_EQ(used[0].len, 110u);
  EXPECT_EQ(used[1].id, 2);
  EXPECT_EQ(used[1].len, 70u);
  ASSERT_EQ(ring.poll_used(used.data(), 4), 1u);
  EXPECT_EQ(used[0].id, 3);
  EXPECT_EQ(used[0].len, 33u);
  EXPECT_EQ(ring.poll_used(used.data(), 4), 0u);
  // The next entry is number 3; it does not have to be a batch.
  EXPECT_EQ(ring.add({}, two), 0);
  (void)ring.publish();
  put(kUsed + 4 + 8 * 3, {0, 0, 0, 0, 5, 0, 0, 0});
  put(kUsed + 2, {4, 0});
  ASSERT_EQ(ring.poll_used(used.data(), 4), 1u);
  EXPECT_EQ(used[0].len, 5u);
}

// 2.7.5.2: with IN_ORDER descriptors are used in the order of the table, around its end.
TEST_F(SplitDriverBytes, InOrderChainsFollowTheTable) {
  auto ring = make({.in_order = true});
  const std::array three{DriverBuffer{0x1000, 1}, DriverBuffer{0x2000, 2}, DriverBuffer{0x3000, 3}};
  std::array<UsedChain, 4> used;
  for (uint8_t i = 0; i < 8; ++i) {
    const auto head = static_cast<uint8_t>(3 * i % 4);
    ASSERT_EQ(ring.add(three, {}), head);
    (void)ring.publish();
    EXPECT_EQ(at(16 * head + 12, 4), (Bytes{1, 0, static_cast<uint8_t>((head + 1) % 4), 0}));
    EXPECT_EQ(at(16 * ((head + 1) % 4) + 12, 4),
              (Bytes{1, 0, static_cast<uint8_t>((head + 2) % 4), 0}));
    put(kUsed + 4 + 8 * (i % 4), {head, 0, 0, 0, 0, 0, 0, 0});
    put(kUsed + 2, {static_cast<uint8_t>(i + 1), 0});
    ASSERT_EQ(ring.poll_used(used.data(), 4), 1u);
  }
}

TEST_F(SplitDriverBytes, IndexWrapsAt65536) {
  auto ring = make();
  std::array<UsedChain, 4> used;
  for (uint32_t i = 0; i < 0x10000 + 2; ++i) {
    ASSERT_EQ(ring.add_readable(1, [](size_t, uint16_t) { return DriverBuffer{0x1000, 1}; }), 1u);
    (void)ring.publish();
    const auto id = static_cast<uint8_t>(i % 4);
    put(kUsed + 4 + 8 * (i % 4), {id, 0, 0, 0, 0, 0, 0, 0});
    const auto idx = static_cast<uint16_t>(i + 1);
    put(kUsed + 2, {static_cast<uint8_t>(idx), static_cast<uint8_t>(idx >> 8)});
    ASSERT_EQ(ring.poll_used(used.data(), used.size()), 1u) << i;
  }
  EXPECT_EQ(at(kAvail + 2, 2), (Bytes{2, 0}));
}

TEST_F(SplitDriverBytes, KickFollowsTheDevicesFlag) {
  auto ring = make();
  const auto one = [](size_t, uint16_t) { return DriverBuffer{0x1000, 1}; };
  put(kUsed, {1, 0});  // NO_NOTIFY
  ring.add_readable(1, one);
  EXPECT_FALSE(ring.publish());
  put(kUsed, {0, 0});
  ring.add_readable(1, one);
  EXPECT_TRUE(ring.publish());
  EXPECT_FALSE(ring.publish()) << "nothing new";
  put(kUsed + 36, {0x34, 0x12});  // 2.7.10.1: avail_event is ignored without EVENT_IDX
  ring.add_readable(1, one);
  EXPECT_TRUE(ring.publish());
}

TEST_F(SplitDriverBytes, KickFollowsAvailEvent) {
  auto ring = make({.event_idx = true});
  const auto one = [](size_t, uint16_t) { return DriverBuffer{0x1000, 1}; };
  put(kUsed, {1, 0});  // 2.7.10.1: the flag's lower bit is ignored with EVENT_IDX
  ring.add_readable(1, one);
  EXPECT_TRUE(ring.publish()) << "entry 0 was written and avail_event is 0";
  ring.add_readable(1, one);
  EXPECT_FALSE(ring.publish()) << "entry 1 was written, avail_event still 0";
  put(kUsed + 36, {3, 0});
  ring.add_readable(1, one);
  EXPECT_FALSE(ring.publish()) << "entry 2 was written, avail_event 3";
  ring.add_readable(1, one);
  EXPECT_TRUE(ring.publish()) << "entry 3 was written, avail_event 3";
}

TEST_F(SplitDriverBytes, KickLooksAtTheWholeBatch) {
  auto ring = make({.event_idx = true});
  put(kUsed + 36, {1, 0});
  ring.add_readable(4, [](size_t, uint16_t) { return DriverBuffer{0x1000, 1}; });
  EXPECT_TRUE(ring.publish()) << "entries 0 to 3 were written at once, avail_event 1 among them";
}

TEST_F(SplitDriverBytes, ArmedInterruptIsForTheNextUsedEntry) {
  auto ring = make({.event_idx = true});
  ring.add_readable(2, [](size_t, uint16_t) { return DriverBuffer{0x1000, 1}; });
  (void)ring.publish();
  EXPECT_FALSE(ring.arm_interrupts());
  EXPECT_EQ(at(kAvail, 2), (Bytes{0, 0}));
  EXPECT_EQ(at(kAvail + 12, 2), (Bytes{0, 0}));
  put(kUsed + 4, {0, 0, 0, 0, 0, 0, 0, 0});
  put(kUsed + 2, {1, 0});
  EXPECT_TRUE(ring.arm_interrupts()) << "the device was faster: do not sleep";
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  ring.suppress_interrupts();
  EXPECT_EQ(at(kAvail, 2), (Bytes{0, 0}));
  EXPECT_EQ(at(kAvail + 12, 2), (Bytes{0, 0})) << "used_event just passed: next index is 1";
}

TEST_F(SplitDriverBytes, ArmedInterruptWithoutEventIndexClearsTheFlag) {
  auto ring = make();
  EXPECT_FALSE(ring.arm_interrupts());
  EXPECT_EQ(at(kAvail, 2), (Bytes{0, 0}));
  ring.suppress_interrupts();
  EXPECT_EQ(at(kAvail, 2), (Bytes{1, 0}));
}

}  // namespace
}  // namespace pollux::ring
