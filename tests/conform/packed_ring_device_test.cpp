// SPDX-License-Identifier: Apache-2.0
// What a device reads from a packed virtqueue and writes into it, byte by byte. All images are
// worked out by hand from VIRTIO 1.3 (little-endian fields):
//   descriptor (2.8.13)  addr le64, len le32, id le16, flags le16 (NEXT 0x0001, WRITE 0x0002,
//                        INDIRECT 0x0004, AVAIL 0x0080, USED 0x8000)
//   available (2.8.1)    AVAIL is the driver's wrap counter, USED its inverse: 80 00 in the first
//                        lap, 00 80 in the second
//   used (2.8.1, 2.8.4)  both are the device's wrap counter: 80 80, then 00 00; WRITE if anything
//                        was written; addr is not touched
//   event (2.8.14)       desc le16 (bit 15: wrap counter), flags le16 (0 enable, 1 disable, 2 desc)
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux {
namespace {

using ring::PackedCursor;
using ring::PackedDeviceRing;
using ring::UsedEntries;
using test::Bytes;
using test::Guest;
using test::PackedImage;
using test::pattern;

using Rx = virtio::NetDeviceRx<PackedDeviceRing<>>;
using RxInOrder = virtio::NetDeviceRx<PackedDeviceRing<SharedAccess, UsedEntries::kOneForMany>>;
using Tx = virtio::NetDeviceTx<PackedDeviceRing<>>;

constexpr uint64_t kModern = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_RING_PACKED;
constexpr uint64_t kMergeable = kModern | spec::VIRTIO_NET_F_MRG_RXBUF;

Bytes hex(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

Bytes slice(const Bytes& bytes, size_t from, size_t size) {
  return {bytes.begin() + static_cast<ptrdiff_t>(from),
          bytes.begin() + static_cast<ptrdiff_t>(from + size)};
}

/// A queue of three entries in one run of bytes at guest address 0x4000: 48 bytes of descriptors,
/// the driver's event suppression at 48, the device's at 52.
class ThreeEntries : public testing::Test {
 protected:
  static constexpr uint64_t kBase = 0x4000;
  static constexpr size_t kDriver = 48;
  static constexpr size_t kDevice = 52;

  struct Options {
    PackedCursor next{};
    bool indirect = false;
    bool event_idx = false;
  };
  template <typename Ring = PackedDeviceRing<>>
  Ring make(const Options& options) {
    const ring::PackedLayout layout{3, reinterpret_cast<spec::pvirtq_desc*>(host(0)),
                                    reinterpret_cast<spec::pvirtq_event_suppress*>(host(kDriver)),
                                    reinterpret_cast<spec::pvirtq_event_suppress*>(host(kDevice))};
    return Ring({layout, options.next, options.indirect, options.event_idx}, guest_.view());
  }
  template <typename Ring = PackedDeviceRing<>>
  Ring make() {
    return make<Ring>(Options{});
  }
  std::byte* host(size_t offset) const { return guest_.at(kBase + offset); }
  void put(size_t offset, const Bytes& bytes) { guest_.write(kBase + offset, bytes); }
  Bytes at(size_t offset, size_t size) const { return guest_.read(kBase + offset, size); }
  void send(Tx& tx, const Bytes& frame) {
    Burst burst(pool_.cache());
    burst.push(pool_.packet_of(frame));
    tx.send(burst, counters_);
    EXPECT_TRUE(burst.empty());
  }

  Guest guest_{{{kBase, 4096}}};
  test::LeakChecked pool_;
  QueueCounters counters_;
};

TEST_F(ThreeEntries, TakesOneFrameAndReturnsIt) {
  // Entry 0: 72 bytes at 0x4080, id 2, readable. Its bytes: a header of 12 zeros, a frame of 60.
  const Bytes frame = pattern(60);
  put(128, Bytes(12) + frame);
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 2, 0, 0x80, 0}));
  Rx rx(make(), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  EXPECT_EQ(at(14, 2), hex({0x80, 0}));  // not shown before the end of the turn
  EXPECT_TRUE(rx.complete());            // flags 0: the driver wants to know
  EXPECT_EQ(at(0, 56),
            hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x80, 0x80}) + Bytes(40));
}

TEST_F(ThreeEntries, FillsOneBufferAndReturnsIt) {
  const Bytes frame = pattern(60);
  // Entry 0: 1526 bytes at 0x4100, id 1, writable. The driver wants no notification.
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xf6, 0x05, 0, 0, 1, 0, 0x82, 0}));
  put(kDriver, hex({0, 0, 1, 0}));
  Tx tx(make(), kMergeable);
  send(tx, frame);
  EXPECT_FALSE(tx.publish());
  EXPECT_EQ(at(0, 16), hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 1, 0, 0x82, 0x80}));
  EXPECT_EQ(at(256, 12), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));  // num_buffers 1
  EXPECT_EQ(at(268, 60), frame);
  EXPECT_EQ(at(328, 1400), Bytes(1400));  // and nothing behind it
}

TEST_F(ThreeEntries, SecondLapHasTheInverseFlags) {
  // Both counters at 0: available is 00 80, used 00 00. 80 00 and 80 80 are of the lap before.
  const Bytes frame = pattern(60);
  put(128, Bytes(12) + frame);
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 2, 0, 0x80, 0x80}));
  Rx rx(make({.next = {0, false}}), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  EXPECT_TRUE(burst.empty());
  put(14, hex({0x80, 0}));
  rx.poll(burst, counters_);
  EXPECT_TRUE(burst.empty());
  put(14, hex({0, 0x80}));
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_TRUE(rx.complete());
  EXPECT_EQ(at(8, 8), hex({0, 0, 0, 0, 2, 0, 0, 0}));
}

TEST_F(ThreeEntries, ChainAcrossTheEndOfTheRing) {
  // From entry 2, counters 1: a chain of three. Its second and third descriptors are of the next
  // lap (00 80). The id is that of the last one; the others' are left as they are.
  const Bytes frame = pattern(100);
  put(32, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 9, 9, 0x81, 0}));
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 9, 9, 0x01, 0x80}));
  put(16, hex({0x40, 0x41, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0x00, 0x80}));
  put(256, slice(frame, 0, 60));
  put(320, slice(frame, 60, 40));
  Rx rx(make({.next = {2, true}}), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  const Bytes rest = at(0, 32);
  (void)rx.complete();
  // 2.8.6: one used descriptor, in the place of the first one and of its lap.
  EXPECT_EQ(at(40, 8), hex({0, 0, 0, 0, 1, 0, 0x80, 0x80}));
  EXPECT_EQ(at(0, 32), rest);
  EXPECT_EQ(rx.ring().next_avail(), (PackedCursor{2, false}));
}

TEST_F(ThreeEntries, IndirectTable) {
  // 2.8.7: entry 0 refers to a table of 48 bytes at 0x4201, WRITE is to be ignored. The table is
  // used from start to end: flags but WRITE, and ids, mean nothing in it.
  const Bytes frame = pattern(100);
  put(0, hex({0x01, 0x42, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 1, 0, 0x86, 0}));
  put(513, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 7, 7, 0, 0}));
  put(529, hex({0x40, 0x41, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 7, 7, 1, 0}));
  put(545, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 7, 7, 0x85, 0x80}));
  put(320, slice(frame, 0, 60));
  put(256, slice(frame, 60, 40));
  Rx rx(make({.indirect = true}), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  (void)rx.complete();
  EXPECT_EQ(at(8, 8), hex({0, 0, 0, 0, 1, 0, 0x80, 0x80}));
}

TEST_F(ThreeEntries, FrameSpreadOverMergeableBuffers) {
  // 5.1.6.4: buffers of 32 bytes for 12 + 60 bytes: 32, 32, and 8; num_buffers 3. Ids 2, 0, 1.
  const Bytes frame = pattern(60);
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0x82, 0}) +
             hex({0x40, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0x82, 0}) +
             hex({0x80, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0x82, 0}));
  Tx tx(make(), kMergeable);
  send(tx, frame);
  (void)tx.publish();
  EXPECT_EQ(at(8, 8), hex({32, 0, 0, 0, 2, 0, 0x82, 0x80}));
  EXPECT_EQ(at(24, 8), hex({32, 0, 0, 0, 0, 0, 0x82, 0x80}));
  EXPECT_EQ(at(40, 8), hex({8, 0, 0, 0, 1, 0, 0x82, 0x80}));
  EXPECT_EQ(at(0x100, 32), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0}) + slice(frame, 0, 20));
  EXPECT_EQ(at(0x140, 32), slice(frame, 20, 32));
  EXPECT_EQ(at(0x180, 32), slice(frame, 52, 8) + Bytes(24));
}

TEST_F(ThreeEntries, FrameOverAChainWithoutMrgRxbuf) {
  const Bytes frame = pattern(60);
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0x83, 0}) +
             hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xea, 0x05, 0, 0, 1, 0, 0x82, 0}));
  Tx tx(make(), kModern);
  send(tx, frame);
  (void)tx.publish();
  EXPECT_EQ(at(8, 8), hex({72, 0, 0, 0, 1, 0, 0x82, 0x80}));
  EXPECT_EQ(at(24, 8), hex({0xea, 0x05, 0, 0, 1, 0, 0x82, 0}));  // not written
  EXPECT_EQ(at(128, 12), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(at(256, 60), frame);
}

TEST_F(ThreeEntries, InOrderBatchHasOneUsedDescriptor) {
  // 2.8.8: three frames, ids 0, 1, 2; one used descriptor in the place of the first, with id 2. The
  // device goes on after all three.
  const Bytes frame = pattern(60);
  put(128, Bytes(12) + frame);
  const Bytes entry = hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0});
  put(0,
      entry + hex({0, 0, 0x80, 0}) + entry + hex({1, 0, 0x80, 0}) + entry + hex({2, 0, 0x80, 0}));
  const Bytes others = at(16, 32);
  RxInOrder rx(make<PackedDeviceRing<SharedAccess, UsedEntries::kOneForMany>>(),
               kModern | spec::VIRTIO_F_IN_ORDER);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  EXPECT_EQ(burst.size(), 3u);
  (void)rx.complete();
  EXPECT_EQ(at(8, 8), hex({0, 0, 0, 0, 2, 0, 0x80, 0x80}));
  EXPECT_EQ(at(16, 32), others);
  EXPECT_EQ(rx.ring().next_avail(), (PackedCursor{0, false}));
}

TEST_F(ThreeEntries, EventAtADescriptor) {
  // 2.8.10: the driver asks for entry 1 of the second lap: desc 01 00, flags 2. We are at entry 2
  // of the first lap.
  const Bytes frame = pattern(60);
  put(128, Bytes(12) + frame);
  put(kDriver, hex({1, 0, 2, 0}));
  Rx rx(make({.next = {2, true}, .event_idx = true}), kModern);
  const auto one = [&](size_t entry, unsigned low, unsigned high) {
    put(16 * entry, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 0, 0, low, high}));
    Burst burst(pool_.cache());
    rx.poll(burst, counters_);
    EXPECT_EQ(burst.size(), 1u);
    return rx.complete();
  };
  EXPECT_FALSE(one(2, 0x80, 0));
  EXPECT_FALSE(one(0, 0, 0x80));
  EXPECT_TRUE(one(1, 0, 0x80));
  EXPECT_FALSE(one(2, 0, 0x80));
  put(kDriver, hex({0, 0x80, 2, 0}));  // entry 0, counter 1
  EXPECT_TRUE(one(0, 0x80, 0));
}

TEST_F(ThreeEntries, PollingDeviceDisablesNotifications) {
  for (const bool event_idx : {false, true}) {
    put(kDevice, hex({0xaa, 0xaa, 0, 0}));
    make({.event_idx = event_idx}).suppress_notifications();
    EXPECT_EQ(at(kDevice + 2, 2), hex({1, 0}));
    EXPECT_EQ(at(kDriver, 4), Bytes(4));  // the driver's alone
  }
}

/// Sizes that 2.8 allows, powers of two and not, over several laps, with chains of one to three.
class EveryPackedSize : public testing::TestWithParam<uint32_t> {};

TEST_P(EveryPackedSize, LapsAndChains) {
  const uint32_t size = GetParam();
  PackedImage image(size);
  Guest guest(4096);
  PackedDeviceRing<> ring({image.layout(), {}, false, false}, guest.view());
  uint32_t serial = 0;
  for (uint32_t moved = 0; moved < 3 * size + 5;) {
    const uint32_t length = std::min(1 + serial % 3, size);
    const auto id = static_cast<uint16_t>(serial * 7 % size);
    const uint32_t place = image.next;
    const bool wrap = image.wrap;
    image.offer(std::vector<PackedImage::Element>(length, {Guest::kBase, 1}), id);
    ASSERT_EQ(ring.available(2), 1u);
    uint16_t head = 0;
    ASSERT_TRUE(ring.head(0, head));
    ring.take(1);
    ring.put_used(head, ++serial);
    (void)ring.publish();
    ASSERT_TRUE(image.used(place, wrap));
    ASSERT_EQ(image.id(place), id);
    ASSERT_EQ(image.len(place), serial);
    moved += length;
  }
  EXPECT_EQ(ring.next_avail(), (PackedCursor{static_cast<uint16_t>(image.next), image.wrap}));
  EXPECT_EQ(ring.error(), ring::RingError::none);
}

INSTANTIATE_TEST_SUITE_P(PackedDevice, EveryPackedSize,
                         testing::Values(1, 2, 3, 4, 5, 7, 100, 255, 256, 257, 1000, 4096, 32767,
                                         32768),
                         [](const auto& size) { return "size_" + std::to_string(size.param); });

}  // namespace
}  // namespace pollux
