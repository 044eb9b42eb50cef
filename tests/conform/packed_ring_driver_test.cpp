// SPDX-License-Identifier: Apache-2.0
// What a driver writes into a packed virtqueue, and reads from it, byte by byte. All expected bytes
// are worked out by hand from VIRTIO 1.3, section 2.8 (little-endian fields):
//   descriptor (2.8.13)         addr le64, len le32, id le16, flags le16
//   its flags                   NEXT 1, WRITE 2, INDIRECT 4, AVAIL 0x80, USED 0x8000
//   available, wrap counter 1   AVAIL set, USED clear: 0x0080; wrap counter 0: 0x8000 (2.8.1)
//   used, wrap counter 1        both set: 0x8080; wrap counter 0: both clear
//   event suppression (2.8.14)  desc le16 (offset, bit 15 the wrap counter), flags le16 (0 enable,
//                               1 disable, 2 at a descriptor)
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pollux/ring/packed_driver_ring.hpp"

namespace pollux::ring {
namespace {

using Bytes = std::vector<uint8_t>;

// A queue of five entries: 80 bytes of descriptors, then the two event structures.
class PackedDriverBytes : public testing::Test {
 protected:
  static constexpr size_t kDriver = 80;
  static constexpr size_t kDevice = 84;
  static constexpr size_t kTable = 128;  // two indirect tables of three descriptors, 48 bytes each

  PackedDriverBytes() { memory_.fill(0xee); }

  PackedDriverRing<> make(DriverRingOptions options = {}) {
    return PackedDriverRing<>(
        {5, reinterpret_cast<spec::pvirtq_desc*>(memory_.data()),
         reinterpret_cast<spec::pvirtq_event_suppress*>(memory_.data() + kDriver),
         reinterpret_cast<spec::pvirtq_event_suppress*>(memory_.data() + kDevice)},
        options);
  }
  DriverRingOptions with_tables() {
    return {
        .indirect = {.memory = memory_.data() + kTable, .addr = 0x5000, .count = 2, .entries = 3}};
  }
  Bytes at(size_t offset, size_t size) const {
    return {memory_.begin() + offset, memory_.begin() + offset + size};
  }
  /// Descriptor `index` of the ring.
  Bytes desc(size_t index) const { return at(16 * index, 16); }
  Bytes flags(size_t index) const { return at(16 * index + 14, 2); }
  void put(size_t offset, const Bytes& bytes) {
    std::memcpy(memory_.data() + offset, bytes.data(), bytes.size());
  }
  /// A used descriptor: len, id and flags; the address means nothing (2.8.4).
  void use(size_t index, uint8_t len, uint8_t id, const Bytes& flags) {
    put(16 * index, {0, 1, 2, 3, 4, 5, 6, 7, len, 0, 0, 0, id, 0});
    put(16 * index + 14, flags);
  }

  static constexpr auto kOne = [](size_t, uint16_t) { return DriverBuffer{0x1000, 1}; };
  static size_t take(PackedDriverRing<>& ring) {
    std::array<UsedChain, 8> used;
    return ring.poll_used(used.data(), used.size());
  }

  alignas(64) std::array<uint8_t, 256> memory_;
};

const Bytes kUsed1{0x80, 0x80};
const Bytes kUsed0{0x00, 0x00};

TEST_F(PackedDriverBytes, FreshQueueIsZeroAndSuppressesInterrupts) {
  for (const bool event_idx : {false, true}) {
    memory_.fill(0xee);
    auto ring = make({.event_idx = event_idx});
    EXPECT_EQ(at(0, 80), Bytes(80, 0));              // 2.8.13: zero-initialized
    EXPECT_EQ(at(kDriver, 4), (Bytes{0, 0, 1, 0}));  // DISABLE
    EXPECT_EQ(at(kDevice, 4), (Bytes{0, 0, 0, 0}));  // ENABLE
    EXPECT_EQ(at(88, 40), Bytes(40, 0xee));          // nothing else
  }
}

TEST_F(PackedDriverBytes, OneReadableBuffer) {
  auto ring = make();
  const DriverBuffer buffer{0x1122334455667788, 0x4c};
  EXPECT_EQ(ring.add({&buffer, 1}, {}), 0);
  EXPECT_EQ(flags(0), (Bytes{0, 0})) << "neither available nor used in the first lap";
  EXPECT_TRUE(ring.publish());
  EXPECT_EQ(desc(0), (Bytes{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // addr
                            0x4c, 0, 0, 0, 0, 0, 0x80, 0}));                 // len, id, flags
  EXPECT_EQ(desc(1), Bytes(16, 0));
}

TEST_F(PackedDriverBytes, ChainOfReadableThenWritable) {
  auto ring = make();
  const std::array out{DriverBuffer{0x1000, 12}, DriverBuffer{0x2000, 1500}};
  const std::array in{DriverBuffer{0x3000, 2}};
  EXPECT_EQ(ring.add(out, in), 0);
  // 2.8.6: the first is made available after the rest; the rest has its flags already.
  EXPECT_EQ(flags(0), (Bytes{0, 0}));
  EXPECT_EQ(flags(1), (Bytes{0x81, 0}));
  (void)ring.publish();
  EXPECT_EQ(at(0, 48), (Bytes{0x00, 0x10, 0, 0, 0, 0, 0, 0, 12,   0,    0, 0, 0, 0, 0x81, 0,  //
                              0x00, 0x20, 0, 0, 0, 0, 0, 0, 0xdc, 0x05, 0, 0, 0, 0, 0x81, 0,  //
                              0x00, 0x30, 0, 0, 0, 0, 0, 0, 2,    0,    0, 0, 0, 0, 0x82, 0}));
  EXPECT_EQ(ring.free_descriptors(), 2u);
}

TEST_F(PackedDriverBytes, OfABatchTheFirstIsShownLast) {
  auto ring = make();
  EXPECT_EQ(ring.add_writable(
                3, [](size_t i, uint16_t) { return DriverBuffer{0x10000 * (i + 1), 0x60c}; }),
            3u);
  EXPECT_EQ(flags(0), (Bytes{0, 0}));
  EXPECT_EQ(desc(1), (Bytes{0, 0, 2, 0, 0, 0, 0, 0, 0x0c, 0x06, 0, 0, 1, 0, 0x82, 0}));
  EXPECT_EQ(desc(2), (Bytes{0, 0, 3, 0, 0, 0, 0, 0, 0x0c, 0x06, 0, 0, 2, 0, 0x82, 0}));
  EXPECT_EQ(ring.add_readable(1, kOne), 1u);
  EXPECT_EQ(flags(0), (Bytes{0, 0}));
  (void)ring.publish();
  EXPECT_EQ(desc(0), (Bytes{0, 0, 1, 0, 0, 0, 0, 0, 0x0c, 0x06, 0, 0, 0, 0, 0x82, 0}));
  EXPECT_EQ(flags(3), (Bytes{0x80, 0}));
}

TEST_F(PackedDriverBytes, IndirectTable) {
  auto ring = make(with_tables());
  const std::array out{DriverBuffer{0xa000, 12}, DriverBuffer{0xb000, 100}};
  const std::array in{DriverBuffer{0xc000, 1}};
  EXPECT_EQ(ring.add(out, in), 0);
  // 2.8.7: in the table only WRITE is valid, and ids mean nothing.
  EXPECT_EQ(at(kTable, 48), (Bytes{0x00, 0xa0, 0, 0, 0, 0, 0, 0, 12,  0, 0, 0, 0, 0, 0, 0,  //
                                   0x00, 0xb0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0,  //
                                   0x00, 0xc0, 0, 0, 0, 0, 0, 0, 1,   0, 0, 0, 0, 0, 2, 0}));
  // The second table lies 48 bytes on.
  EXPECT_EQ(ring.add(std::span(out).first(2), {}), 1);
  // Out of tables: the rest of the descriptors directly.
  EXPECT_EQ(ring.add(std::span(out).first(2), {}), 2);
  (void)ring.publish();
  EXPECT_EQ(desc(0), (Bytes{0x00, 0x50, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 0, 0, 0x84, 0}));
  EXPECT_EQ(desc(1), (Bytes{0x30, 0x50, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0x84, 0}));
  EXPECT_EQ(at(32, 32), (Bytes{0x00, 0xa0, 0, 0, 0, 0, 0, 0, 12,  0, 0, 0, 2, 0, 0x81, 0,  //
                               0x00, 0xb0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 2, 0, 0x80, 0}));
}

TEST_F(PackedDriverBytes, SingleBufferNeverUsesATable) {
  auto ring = make(with_tables());
  const DriverBuffer buffer{0xa000, 12};
  EXPECT_EQ(ring.add({&buffer, 1}, {}), 0);
  (void)ring.publish();
  EXPECT_EQ(flags(0), (Bytes{0x80, 0}));
}

// 2.8.1: after the last descriptor the wrap counter changes, and with it what "available" means.
TEST_F(PackedDriverBytes, FlagsOfTheSecondLap) {
  auto ring = make();
  ring.add_readable(4, kOne);
  (void)ring.publish();
  for (uint8_t i = 0; i < 4; ++i) use(i, 0, i, kUsed1);
  EXPECT_EQ(take(ring), 4u);
  const std::array in{DriverBuffer{0x7000, 9}, DriverBuffer{0x8000, 9}, DriverBuffer{0x9000, 9}};
  const uint16_t id = ring.add({}, in);
  EXPECT_EQ(flags(4), (Bytes{0, 0})) << "hidden in the first lap: not available there";
  EXPECT_EQ(flags(0), (Bytes{0x03, 0x80}));
  EXPECT_EQ(flags(1), (Bytes{0x02, 0x80}));
  (void)ring.publish();
  EXPECT_EQ(flags(4), (Bytes{0x83, 0}));
  // Hidden in the second lap: as used in the first one.
  ring.add_readable(1, kOne);
  EXPECT_EQ(flags(2), (Bytes{0x80, 0x80}));
  (void)ring.publish();
  EXPECT_EQ(flags(2), (Bytes{0x00, 0x80}));
  // The chain of three lies in descriptors 4, 0 and 1: one used descriptor, where it began, still
  // in the device's first lap; the next one is descriptor 2 in the second.
  use(4, 27, static_cast<uint8_t>(id), kUsed1);
  std::array<UsedChain, 4> used;
  ASSERT_EQ(ring.poll_used(used.data(), 4), 1u);
  EXPECT_EQ(used[0].id, id);
  EXPECT_EQ(used[0].len, 27u);
  const uint8_t last = static_cast<uint8_t>(desc(2)[12]);
  use(2, 0, last, kUsed1);
  EXPECT_EQ(take(ring), 0u) << "the first lap's flags are old news";
  use(2, 0, last, kUsed0);
  EXPECT_EQ(take(ring), 1u);
  EXPECT_EQ(ring.free_descriptors(), 5u);
}

TEST_F(PackedDriverBytes, UsedDescriptorsAreReadInTheDevicesOrder) {
  auto ring = make();
  ring.add_writable(5, [](size_t, uint16_t) { return DriverBuffer{0x1000, 0x1000}; });
  (void)ring.publish();
  // The device returns chain 2 first: it writes where chain 0 began.
  put(8, {0x23, 0x01, 0, 0, 2, 0, 0x82, 0x80});
  put(16 + 8, {64, 0, 0, 0, 0, 0, 0x82, 0x80});
  std::array<UsedChain, 4> used;
  ASSERT_EQ(ring.poll_used(used.data(), used.size()), 2u);
  EXPECT_EQ(used[0].id, 2);
  EXPECT_EQ(used[0].len, 0x123u);
  EXPECT_EQ(used[1].id, 0);
  EXPECT_EQ(used[1].len, 64u);
  EXPECT_EQ(ring.free_descriptors(), 2u);
  // Descriptors 0 and 1 are free, and ids 2 and 0: 1, 3 and 4 are still out.
  ring.add_writable(2, [](size_t, uint16_t) { return DriverBuffer{0x1000, 0x1000}; });
  (void)ring.publish();
  EXPECT_EQ(desc(0)[12] + desc(1)[12], 2);
  EXPECT_EQ(desc(0)[12] * desc(1)[12], 0);
  EXPECT_EQ(flags(1), (Bytes{0x02, 0x80}));
}

// 2.8.8: one used descriptor with the id of the last chain of a batch, where the first one began.
// What it leaves out was used completely.
TEST_F(PackedDriverBytes, InOrderBatch) {
  auto ring = make({.in_order = true});
  const std::array two{DriverBuffer{0x1000, 50}, DriverBuffer{0x2000, 60}};
  const uint16_t first = ring.add({}, two);
  ring.add_writable(2, [](size_t i, uint16_t) { return DriverBuffer{0x3000, 70 + uint32_t(i)}; });
  (void)ring.publish();
  const uint8_t last = desc(3)[12];
  use(0, 33, last, kUsed1);
  std::array<UsedChain, 4> used;
  ASSERT_EQ(ring.poll_used(used.data(), 2), 2u) << "room for two of three";
  EXPECT_EQ(used[0].id, first);
  EXPECT_EQ(used[0].len, 110u);
  EXPECT_EQ(used[1].len, 70u);
  ASSERT_EQ(ring.poll_used(used.data(), 4), 1u);
  EXPECT_EQ(used[0].id, last);
  EXPECT_EQ(used[0].len, 33u);
  EXPECT_EQ(ring.free_descriptors(), 5u);
  // The next used descriptor is number 4, and then 0 in the second lap.
  ring.add_writable(2, [](size_t, uint16_t) { return DriverBuffer{0x3000, 70}; });
  (void)ring.publish();
  EXPECT_EQ(flags(4), (Bytes{0x82, 0}));
  EXPECT_EQ(flags(0), (Bytes{0x02, 0x80}));
  use(4, 70, desc(4)[12], kUsed1);
  use(0, 70, desc(0)[12], kUsed0);
  EXPECT_EQ(take(ring), 2u);
}

// vhost-user, "Vring state": bits 0 to 14 and 16 to 30 are places, 15 and 31 their wrap counters.
TEST_F(PackedDriverBytes, BaseForADeviceThatTakesOver) {
  auto ring = make({.in_order = true});
  EXPECT_EQ(ring.base(), 0x80008000u);
  ring.add_readable(4, kOne);
  (void)ring.publish();
  EXPECT_EQ(ring.base(), 0x80008000u);
  use(0, 0, 1, kUsed1);  // a batch of two, which nobody has looked at yet
  EXPECT_EQ(ring.base(), 0x80028002u);
  UsedChain used;
  ASSERT_EQ(ring.poll_used(&used, 1), 1u);
  EXPECT_EQ(ring.base(), 0x80028002u) << "in the middle of the batch";
  EXPECT_EQ(take(ring), 1u);
  use(2, 0, 3, kUsed1);
  EXPECT_EQ(take(ring), 2u);
  ring.add_readable(3, kOne);  // 4, and 0 and 1 of the next lap
  EXPECT_EQ(ring.base(), 0x80048004u);
  (void)ring.publish();
  use(4, 0, 0, kUsed1);
  EXPECT_EQ(ring.base(), 0x00010001u);
  use(1, 0, 4, kUsed0);  // a lie
  EXPECT_FALSE(ring.base());
}

// 2.8.8: a device may write the first descriptor of a burst last. One that dies before it has
// written over chains of which it has not said so.
TEST_F(PackedDriverBytes, NoBaseInTheMiddleOfABurst) {
  auto ring = make({.in_order = true});
  ring.add_writable(4, [](size_t, uint16_t) { return DriverBuffer{0x3000, 70}; });
  (void)ring.publish();
  use(1, 70, 1, kUsed1);
  EXPECT_FALSE(ring.base());
  use(0, 70, 0, kUsed1);
  EXPECT_EQ(ring.base(), 0x80028002u) << "it got that far";
  use(3, 70, 3, kUsed1);
  EXPECT_FALSE(ring.base());
}

TEST_F(PackedDriverBytes, NoBaseOnceChainsMayHaveBeenWrittenOver) {
  auto ring = make();
  ring.add_readable(4, kOne);
  (void)ring.publish();
  EXPECT_EQ(ring.base(), 0x80008000u);
  use(0, 0, 2, kUsed1);
  EXPECT_FALSE(ring.base());
  EXPECT_EQ(take(ring), 1u);
  EXPECT_FALSE(ring.base());
}

TEST_F(PackedDriverBytes, KickFollowsTheDevicesFlags) {
  auto ring = make();
  put(kDevice, {0, 0, 1, 0});  // DISABLE
  ring.add_readable(1, kOne);
  EXPECT_FALSE(ring.publish());
  put(kDevice, {0, 0, 0, 0});  // ENABLE
  ring.add_readable(1, kOne);
  EXPECT_TRUE(ring.publish());
  EXPECT_FALSE(ring.publish()) << "nothing new";
  put(kDevice, {0, 0x80, 2, 0});  // at a descriptor: not valid without EVENT_IDX
  ring.add_readable(1, kOne);
  EXPECT_TRUE(ring.publish());
  put(kDevice, {0, 0, 0xfd, 0xff});  // 2.8.14: the upper 14 bits are reserved
  ring.add_readable(1, kOne);
  EXPECT_FALSE(ring.publish());
}

TEST_F(PackedDriverBytes, KickAtADescriptor) {
  auto ring = make({.event_idx = true});
  put(kDevice, {1, 0x80, 2, 0});  // descriptor 1 in the first lap
  ring.add_readable(1, kOne);
  EXPECT_FALSE(ring.publish()) << "descriptor 0 was made available";
  ring.add_readable(1, kOne);
  EXPECT_TRUE(ring.publish()) << "descriptor 1 was";
  ring.add_readable(1, kOne);
  EXPECT_FALSE(ring.publish()) << "descriptor 2 was";
  for (uint8_t i = 0; i < 3; ++i) use(i, 0, i, kUsed1);
  ASSERT_EQ(take(ring), 3u);
  put(kDevice, {1, 0, 2, 0});  // descriptor 1 in the second lap
  ring.add_readable(3, kOne);
  EXPECT_FALSE(ring.publish()) << "descriptors 3, 4 and 0";
  ring.add_readable(1, kOne);
  EXPECT_TRUE(ring.publish()) << "descriptor 1, with a wrap counter of 0";
}

TEST_F(PackedDriverBytes, KickLooksAtTheWholeBatch) {
  for (uint8_t event = 0; event < 5; ++event) {
    auto ring = make({.event_idx = true});
    put(kDevice, {event, 0x80, 2, 0});
    ring.add_readable(4, kOne);
    EXPECT_EQ(ring.publish(), event < 4) << int{event};
    for (uint8_t i = 0; i < 4; ++i) use(i, 0, i, kUsed1);
    ASSERT_EQ(take(ring), 4u);
    // Descriptors 4 (first lap) and 0, 1 (second lap) at once.
    ring.add_readable(3, kOne);
    EXPECT_EQ(ring.publish(), event == 4) << int{event};
  }
}

TEST_F(PackedDriverBytes, ArmedInterruptIsForTheNextUsedDescriptor) {
  auto ring = make({.event_idx = true});
  EXPECT_FALSE(ring.arm_interrupts());
  EXPECT_EQ(at(kDriver, 4), (Bytes{0, 0x80, 2, 0}));
  ring.add_readable(5, kOne);
  (void)ring.publish();
  use(0, 0, 0, kUsed1);
  EXPECT_TRUE(ring.arm_interrupts()) << "the device was faster: do not sleep";
  EXPECT_EQ(take(ring), 1u);
  EXPECT_FALSE(ring.arm_interrupts());
  EXPECT_EQ(at(kDriver, 4), (Bytes{1, 0x80, 2, 0}));
  for (uint8_t i = 1; i < 5; ++i) use(i, 0, i, kUsed1);
  EXPECT_EQ(take(ring), 4u);
  EXPECT_FALSE(ring.arm_interrupts());
  EXPECT_EQ(at(kDriver, 4), (Bytes{0, 0, 2, 0})) << "descriptor 0, wrap counter 0";
  ring.suppress_interrupts();
  EXPECT_EQ(at(kDriver + 2, 2), (Bytes{1, 0}));
}

TEST_F(PackedDriverBytes, ArmedInterruptWithoutEventIndex) {
  auto ring = make();
  EXPECT_FALSE(ring.arm_interrupts());
  EXPECT_EQ(at(kDriver + 2, 2), (Bytes{0, 0}));
  ring.suppress_interrupts();
  EXPECT_EQ(at(kDriver + 2, 2), (Bytes{1, 0}));
}

}  // namespace
}  // namespace pollux::ring
