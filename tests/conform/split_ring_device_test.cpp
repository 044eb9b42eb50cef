// SPDX-License-Identifier: Apache-2.0
// What a device reads from a split virtqueue and writes into it, byte by byte. All images are
// worked out by hand from VIRTIO 1.3 (little-endian fields):
//   descriptor (2.7.5)     addr le64, len le32, flags le16 (NEXT 1, WRITE 2, INDIRECT 4), next le16
//   available ring (2.7.6) flags le16, idx le16, ring[size] le16, used_event le16
//   used ring (2.7.8)      flags le16, idx le16, ring[size] {id le32, len le32}, avail_event le16
//   net header (5.1.6)     flags, gso_type, hdr_len le16, gso_size le16, csum_start le16,
//                          csum_offset le16, num_buffers le16 (absent in the legacy layout)
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"

namespace pollux {
namespace {

using ring::ChainStatus;
using ring::SplitDeviceRing;
using test::Bytes;
using test::DriverImage;
using test::Guest;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::pattern;

using Rx = virtio::NetDeviceRx<SplitDeviceRing<>>;
using Tx = virtio::NetDeviceTx<SplitDeviceRing<>>;

constexpr uint64_t kModern = spec::VIRTIO_F_VERSION_1;
constexpr uint64_t kMergeable = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF;
constexpr uint64_t kLegacy = 0;

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

/// A queue of four entries in one run of bytes at guest address 0x4000, as 2.7 sizes it: 64 bytes
/// of descriptors, 14 of available ring, 2 of padding, 38 of used ring.
class FourEntries : public testing::Test {
 protected:
  static constexpr uint64_t kBase = 0x4000;
  static constexpr size_t kAvail = 64;
  static constexpr size_t kUsed = 80;
  static constexpr size_t kData = 128;

  struct Options {
    bool indirect = false;
    bool event_idx = false;
    uint16_t next_avail = 0;
  };
  SplitDeviceRing<> make() { return make(Options{}); }
  SplitDeviceRing<> make(const Options& options) {
    const ring::SplitLayout layout{4, reinterpret_cast<spec::virtq_desc*>(host(0)),
                                   reinterpret_cast<spec::virtq_avail*>(host(kAvail)),
                                   reinterpret_cast<spec::virtq_used*>(host(kUsed))};
    return SplitDeviceRing<>({layout, options.next_avail, options.indirect, options.event_idx},
                             guest_.view());
  }
  std::byte* host(size_t offset) const { return guest_.at(kBase + offset); }
  void put(size_t offset, const Bytes& bytes) { guest_.write(kBase + offset, bytes); }
  Bytes at(size_t offset, size_t size) const { return guest_.read(kBase + offset, size); }

  Guest guest_{{{kBase, 4096}}};
  test::LeakChecked pool_;
  QueueCounters counters_;
};

TEST_F(FourEntries, TakesOneFrameAndReturnsIt) {
  // Descriptor 2: 72 bytes at 0x4080, readable. Its bytes: a header of 12 zeros, a frame of 60.
  const Bytes frame = pattern(60);
  put(32, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 0, 0, 0, 0}));
  put(kData, hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) + frame);
  put(kAvail, hex({0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0}));  // flags 0, idx 1, ring[0] = 2
  const Bytes before = at(0, kUsed);

  Rx rx(make(), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  EXPECT_EQ(at(kUsed + 2, 2), hex({0, 0}));  // not shown before the end of the turn
  EXPECT_TRUE(rx.complete());                // flags 0: the driver wants to know

  // 2.7.8: id 2; len 0, as the device wrote nothing into the chain.
  EXPECT_EQ(at(kUsed, 12), hex({0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(at(0, kUsed), before);  // 2.7.5.2, 2.7.6: those parts are the driver's alone
  EXPECT_EQ(at(kUsed + 12, 26), Bytes(26));
}

TEST_F(FourEntries, FillsOneBufferAndReturnsIt) {
  const Bytes frame = pattern(60);
  // Descriptor 3: 1526 bytes at 0x4100, writable.
  put(48, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xf6, 0x05, 0, 0, 2, 0, 0, 0}));
  put(kAvail, hex({1, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0}));  // NO_INTERRUPT

  Tx tx(make(), kMergeable);
  Burst burst(pool_.cache());
  burst.push(pool_.packet_of(frame));
  tx.send(burst, counters_);
  EXPECT_TRUE(burst.empty());
  EXPECT_FALSE(tx.publish());

  EXPECT_EQ(at(kUsed, 12), hex({0, 0, 1, 0, 3, 0, 0, 0, 72, 0, 0, 0}));
  EXPECT_EQ(at(256, 12), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));  // num_buffers 1
  EXPECT_EQ(at(268, 60), frame);
  EXPECT_EQ(at(328, 1400), Bytes(1400));  // and nothing behind it
}

TEST_F(FourEntries, LegacyHeaderOfTenBytes) {
  const Bytes frame = pattern(60);
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xf4, 0x05, 0, 0, 2, 0, 0, 0}));
  put(kAvail, hex({0, 0, 1, 0, 0, 0}));
  Tx tx(make(), kLegacy);
  Burst burst(pool_.cache());
  burst.push(pool_.packet_of(frame));
  tx.send(burst, counters_);
  (void)tx.publish();
  EXPECT_EQ(at(kUsed, 12), hex({0, 0, 1, 0, 0, 0, 0, 0, 70, 0, 0, 0}));
  EXPECT_EQ(at(256, 70), Bytes(10) + frame);

  // 5.1.6.1: legacy with MRG_RXBUF has num_buffers all the same.
  EXPECT_EQ(spec::net_hdr_size(spec::VIRTIO_NET_F_MRG_RXBUF), 12u);
  EXPECT_EQ(spec::net_hdr_size(spec::VIRTIO_F_VERSION_1), 12u);
  EXPECT_EQ(spec::net_hdr_size(0), 10u);
}

TEST_F(FourEntries, ModernWithoutMrgRxbufSaysOneBuffer) {
  // 5.1.6.4.1: without MRG_RXBUF num_buffers is 1.
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xf6, 0x05, 0, 0, 2, 0, 0, 0}));
  put(kAvail, hex({0, 0, 1, 0, 0, 0}));
  Tx tx(make(), kModern);
  Burst burst(pool_.cache());
  burst.push(pool_.packet_of(pattern(60)));
  tx.send(burst, counters_);
  (void)tx.publish();
  EXPECT_EQ(at(256, 12), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));
}

struct HeaderCase {
  const char* name;
  PacketMeta meta;
  Bytes header;
};

PacketMeta meta_of(GsoType gso, bool ecn, uint16_t gso_size, uint16_t payload_offset,
                   uint16_t csum_start, uint16_t csum_offset) {
  PacketMeta meta;
  meta.needs_csum = true;
  meta.gso = gso;
  meta.gso_ecn = ecn;
  meta.gso_size = gso_size;
  meta.payload_offset = payload_offset;
  meta.csum_start = csum_start;
  meta.csum_offset = csum_offset;
  return meta;
}

TEST_F(FourEntries, HeadersOfOffloads) {
  PacketMeta valid;
  valid.csum_valid = true;
  const std::vector<HeaderCase> cases{
      {"none", {}, hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0})},
      {"data_valid", valid, hex({2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0})},
      // TCP over IPv4: sum from 34, stored 16 further (5.1.6.2's own example).
      {"checksum", meta_of(GsoType::kNone, false, 0, 54, 34, 16),
       hex({1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0})},
      {"tso4", meta_of(GsoType::kTcp4, false, 1448, 66, 34, 16),
       hex({1, 1, 66, 0, 0xa8, 0x05, 34, 0, 16, 0, 1, 0})},
      {"tso4_ecn", meta_of(GsoType::kTcp4, true, 1448, 66, 34, 16),
       hex({1, 0x81, 66, 0, 0xa8, 0x05, 34, 0, 16, 0, 1, 0})},
      {"tso6", meta_of(GsoType::kTcp6, false, 0x0201, 0x0104, 54, 16),
       hex({1, 4, 4, 1, 1, 2, 54, 0, 16, 0, 1, 0})},
      {"uso4", meta_of(GsoType::kUdp4, false, 1472, 42, 34, 6),
       hex({1, 5, 42, 0, 0xc0, 0x05, 34, 0, 6, 0, 1, 0})},
  };
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xf6, 0x05, 0, 0, 2, 0, 0, 0}));
  Tx tx(make(), kMergeable | spec::VIRTIO_NET_F_GUEST_CSUM);
  uint16_t idx = 0;
  for (const HeaderCase& c : cases) {
    SCOPED_TRACE(c.name);
    put(kAvail, hex({0, 0}) + hex({static_cast<unsigned>(++idx), 0}));  // ring[] stays head 0
    Burst burst(pool_.cache());
    burst.push(pool_.packet_of(pattern(60)));
    burst[0].meta = c.meta;
    tx.send(burst, counters_);
    (void)tx.publish();
    EXPECT_EQ(at(256, 12), c.header);
  }
}

TEST_F(FourEntries, FlagsAreZeroWithoutGuestCsum) {
  // 5.1.6.4.1, also when a host interface vouched for the checksum.
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xf6, 0x05, 0, 0, 2, 0, 0, 0}));
  put(kAvail, hex({0, 0, 1, 0, 0, 0}));
  Tx tx(make(), kMergeable);
  Burst burst(pool_.cache());
  burst.push(pool_.packet_of(pattern(60)));
  burst[0].meta.csum_valid = true;
  tx.send(burst, counters_);
  EXPECT_EQ(at(256, 12), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));
}

TEST_F(FourEntries, HeaderFromADriverBecomesAnOffload) {
  // TCP/IPv4: Ethernet 14, IPv4 20 (total length 41 = 20 + 20 + 1), TCP 20, one byte of payload.
  Bytes frame = hex({2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0});
  frame = frame + hex({0x45, 0, 0, 41, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2});
  frame = frame + hex({0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0, 'x'});
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 67, 0, 0, 0, 0, 0, 0, 0}));  // 12 + 55
  put(kData, hex({1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0}) + frame);
  put(kAvail, hex({0, 0, 1, 0, 0, 0}));
  Rx rx(make(), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_TRUE(burst[0].meta.needs_csum);
  EXPECT_EQ(burst[0].meta.csum_start, 34);
  EXPECT_EQ(burst[0].meta.csum_offset, 16);
  EXPECT_EQ(burst[0].meta.gso, GsoType::kNone);
  (void)rx.complete();
}

TEST_F(FourEntries, UsedEventLiesBehindTheAvailableRing) {
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 0, 0, 0, 0}));
  auto ring = make({.event_idx = true});
  // 2.7.7.2: notify when the index of the entry written equals used_event; flags are ignored.
  put(kAvail, hex({1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* used_event */ 1, 0}));
  ASSERT_EQ(ring.available(4), 3u);
  ring.take(1);
  ring.put_used(0, 0);  // entry 0
  EXPECT_FALSE(ring.publish());
  ring.take(1);
  ring.put_used(0, 0);  // entry 1
  EXPECT_TRUE(ring.publish());
  ring.take(1);
  ring.put_used(0, 0);  // entry 2
  EXPECT_FALSE(ring.publish());
}

TEST_F(FourEntries, OneBatchThatPassesUsedEventNotifies) {
  auto ring = make({.event_idx = true});
  put(kAvail, hex({0, 0, 4, 0, 0, 0, 1, 0, 2, 0, 3, 0, /* used_event */ 2, 0}));
  ASSERT_EQ(ring.available(4), 4u);
  ring.take(4);
  for (uint16_t i = 0; i < 4; ++i) ring.put_used(i, 0);
  EXPECT_TRUE(ring.publish());
}

TEST_F(FourEntries, FlagsDecideWithoutEventIdx) {
  auto ring = make();
  // used_event would forbid it, but is not looked at without the feature (2.7.7.2).
  put(kAvail, hex({0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, /* used_event */ 9, 0}));
  ASSERT_EQ(ring.available(2), 2u);
  ring.take(1);
  ring.put_used(0, 0);
  EXPECT_TRUE(ring.publish());
  put(kAvail, hex({1, 0}));
  ring.take(1);
  ring.put_used(1, 0);
  EXPECT_FALSE(ring.publish());
}

TEST_F(FourEntries, PollingDeviceAsksForNoNotification) {
  auto plain = make();
  plain.suppress_notifications();
  EXPECT_EQ(at(kUsed, 2), hex({1, 0}));  // 2.7.10: NO_NOTIFY
  EXPECT_EQ(at(kUsed + 36, 2), hex({0, 0}));

  // 2.7.10.2: with EVENT_IDX flags must be 0, also when a device before us left them 1; the event
  // lies behind the used ring: half of all numbers away.
  auto event = make({.event_idx = true, .next_avail = 0x1234});
  event.suppress_notifications();
  EXPECT_EQ(at(kUsed, 2), hex({0, 0}));
  EXPECT_EQ(at(kUsed + 36, 2), hex({0x34, 0x92}));
}

TEST_F(FourEntries, ChainThroughNext) {
  // 1 -> 3 -> 0: header in three pieces, frame in the last two.
  const Bytes frame = pattern(70);
  put(16, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 3, 0}));
  put(48, hex({0x90, 0x40, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0}));
  put(0, hex({0xa0, 0x40, 0, 0, 0, 0, 0, 0, 69, 0, 0, 0, 0, 0, 0, 0}));
  put(144, Bytes(7) + slice(frame, 0, 1));
  put(160, slice(frame, 1, 69));
  put(kAvail, hex({0, 0, 1, 0, 1, 0}));
  Rx rx(make(), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  (void)rx.complete();
  EXPECT_EQ(at(kUsed + 2, 10), hex({1, 0, 1, 0, 0, 0, 0, 0, 0, 0}));  // the head's index
}

TEST_F(FourEntries, IndirectTable) {
  // Descriptor 1: a table of 48 bytes at 0x4201 (its address need not be aligned), WRITE set, which
  // is to be ignored (2.7.5.3.2). In it 0 -> 2 -> 1.
  const Bytes frame = pattern(100);
  put(16, hex({0x01, 0x42, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 6, 0, 0, 0}));
  put(513, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 2, 0}));
  put(529, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0}));
  put(545, hex({0x40, 0x41, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 1, 0, 1, 0}));
  put(320, slice(frame, 0, 60));
  put(256, slice(frame, 60, 40));
  put(kAvail, hex({0, 0, 1, 0, 1, 0}));
  Rx rx(make({.indirect = true}), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  (void)rx.complete();
}

TEST_F(FourEntries, DirectDescriptorsBeforeAnIndirectTable) {
  // 2.7.5.3.2: zero or more normal descriptors followed by one that refers to a table.
  const Bytes frame = pattern(64);
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 2, 0}));
  put(32, hex({0x00, 0x42, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 4, 0, 0, 0}));
  put(512, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0}));
  put(256, frame);
  put(kAvail, hex({0, 0, 1, 0, 0, 0}));
  Rx rx(make({.indirect = true}), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  (void)rx.complete();
}

TEST_F(FourEntries, FrameSpreadOverMergeableBuffers) {
  // 5.1.6.4: buffers of 32 bytes for 12 + 60 bytes: 32, 32, and 8; num_buffers 3. All but the last
  // are used to their full length, and only the first begins with a header.
  const Bytes frame = pattern(60);
  put(0, hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0}) +
             hex({0x40, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0}) +
             hex({0x80, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0}) +
             hex({0xc0, 0x41, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0}));
  put(kAvail, hex({0, 0, 4, 0, 3, 0, 1, 0, 0, 0, 2, 0}));
  Tx tx(make(), kMergeable);
  Burst burst(pool_.cache());
  burst.push(pool_.packet_of(frame));
  tx.send(burst, counters_);
  (void)tx.publish();
  EXPECT_EQ(at(kUsed, 28), hex({0, 0, 3,  0, 3, 0, 0, 0, 32, 0, 0, 0, 1, 0,
                                0, 0, 32, 0, 0, 0, 0, 0, 0,  0, 8, 0, 0, 0}));
  EXPECT_EQ(at(0x1c0, 32), hex({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0}) + slice(frame, 0, 20));
  EXPECT_EQ(at(0x140, 32), slice(frame, 20, 32));
  EXPECT_EQ(at(0x100, 32), slice(frame, 52, 8) + Bytes(24));
  EXPECT_EQ(at(0x180, 32), Bytes(32));  // the fourth is still the driver's
}

TEST_F(FourEntries, FrameOverAChainWithoutMrgRxbuf) {
  // The classic legacy layout: a descriptor for the header, one for the frame.
  const Bytes frame = pattern(60);
  put(0, hex({0x80, 0x40, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 3, 0, 1, 0}) +
             hex({0x00, 0x41, 0, 0, 0, 0, 0, 0, 0xea, 0x05, 0, 0, 2, 0, 0, 0}));
  put(kAvail, hex({0, 0, 1, 0, 0, 0}));
  Tx tx(make(), kLegacy);
  Burst burst(pool_.cache());
  burst.push(pool_.packet_of(frame));
  tx.send(burst, counters_);
  (void)tx.publish();
  EXPECT_EQ(at(kUsed, 12), hex({0, 0, 1, 0, 0, 0, 0, 0, 70, 0, 0, 0}));
  EXPECT_EQ(at(128, 10), Bytes(10));
  EXPECT_EQ(at(256, 60), frame);
}

/// Every size of a split queue that 2.7 allows, with indices that wrap at 65536 on the way.
class EverySize : public testing::TestWithParam<uint32_t> {};

TEST_P(EverySize, PartsLieWhereTheSizesSay) {
  const uint32_t size = GetParam();
  DriverImage image(size);
  const ring::SplitLayout layout = image.layout();
  const auto offset = [](const void* part, const void* of) {
    return static_cast<const std::byte*>(part) - static_cast<const std::byte*>(of);
  };
  EXPECT_EQ(offset(&layout.desc[size], layout.desc), ptrdiff_t{16} * size);
  EXPECT_EQ(offset(layout.used_event(), layout.avail), 4 + ptrdiff_t{2} * size);
  EXPECT_EQ(offset(layout.avail_event(), layout.used), 4 + ptrdiff_t{8} * size);
  EXPECT_EQ(spec::desc_bytes(size), size_t{16} * size);
  EXPECT_EQ(spec::avail_bytes(size), 6 + size_t{2} * size);
  EXPECT_EQ(spec::used_bytes(size), 6 + size_t{8} * size);
}

TEST_P(EverySize, FullRingsGoRoundTheEndAndTheIndexPast65536) {
  const uint32_t size = GetParam();
  DriverImage image(size);
  Guest guest(4096);
  // Half a ring (at least one entry) before the index wraps, and in the middle of the ring if it
  // has one.
  const auto start = static_cast<uint16_t>(65536 - (size + 1) / 2);
  image.start_at(start);
  ring::SplitDeviceConfig config{.layout = image.layout(), .next_avail = start, .event_idx = true};
  SplitDeviceRing<> ring(config, guest.view());
  uint32_t serial = 0;
  for (unsigned round = 0; round < 3; ++round) {
    image.used_event(static_cast<uint16_t>(image.avail_idx() + size - 1));  // the round's last
    for (uint32_t i = 0; i < size; ++i) image.offer(static_cast<uint16_t>((i * 7 + round) % size));
    ASSERT_EQ(ring.available(size), size);
    for (uint32_t i = 0; i < size; ++i) {
      uint16_t head = 0xffff;
      ASSERT_TRUE(ring.head(0, head));
      ASSERT_EQ(head, (i * 7 + round) % size);
      ring.take(1);
      ring.put_used(head, ++serial);
      if (i + 1 == size) break;
      ASSERT_EQ(ring.available(1), size - i - 1);
      if (i % 5 == 0) {
        ASSERT_FALSE(ring.publish());
        ASSERT_EQ(image.used_idx(), static_cast<uint16_t>(start + serial));
      }
    }
    EXPECT_TRUE(ring.publish());
    EXPECT_EQ(image.used_idx(), static_cast<uint16_t>(start + (round + 1) * size));
    for (uint32_t i = 0; i < size; ++i) {
      const auto index = static_cast<uint16_t>(start + round * size + i);
      ASSERT_EQ(image.used_id(index % size), (i * 7 + round) % size);
      ASSERT_EQ(image.used_len(index % size), round * size + i + 1);
    }
    EXPECT_EQ(ring.available(1), 0u);
  }
  EXPECT_EQ(ring.next_avail(), static_cast<uint16_t>(start + 3 * size));
  EXPECT_EQ(ring.error(), ring::RingError::none);
}

TEST_P(EverySize, FramesAcrossTheWrap) {
  const uint32_t size = GetParam();
  const auto start = static_cast<uint16_t>(65535);
  test::LeakChecked pool;
  DriverImage to_device(size);
  DriverImage from_device(size);
  Guest guest(64 << 10);
  to_device.start_at(start);
  from_device.start_at(start);
  Rx rx(SplitDeviceRing<>({.layout = to_device.layout(), .next_avail = start}, guest.view()),
        kModern);
  Tx tx(SplitDeviceRing<>({.layout = from_device.layout(), .next_avail = start}, guest.view()),
        kModern);
  QueueCounters in;
  QueueCounters out;
  const uint64_t source = guest.allocate(2000);
  const uint64_t target = guest.allocate(2000);
  for (uint32_t i = 0; i < 5; ++i) {
    const auto head = static_cast<uint16_t>((i * 3) % size);
    const Bytes frame = pattern(60 + i, i);
    guest.write(source, Bytes(12) + frame);
    to_device.desc(head, source, static_cast<uint32_t>(12 + frame.size()));
    to_device.offer(head);
    from_device.desc(head, target, 2000, kWrite);
    from_device.offer(head);
    Burst burst(pool.cache());
    rx.poll(burst, in);
    ASSERT_EQ(burst.size(), 1u);
    tx.send(burst, out);
    ASSERT_TRUE(burst.empty());
    (void)rx.complete();
    (void)tx.publish();
    const auto slot = static_cast<uint16_t>(start + i) % size;
    EXPECT_EQ(to_device.used_id(slot), head);
    EXPECT_EQ(from_device.used_id(slot), head);
    EXPECT_EQ(from_device.used_len(slot), 12 + frame.size());
    EXPECT_EQ(guest.read(target + 12, frame.size()), frame);
  }
}

INSTANTIATE_TEST_SUITE_P(SplitDevice, EverySize,
                         testing::Values(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                         8192, 16384, 32768),
                         [](const auto& size) { return "size_" + std::to_string(size.param); });

/// 2.7.4: no assumption about framing. Whatever the driver splits where, the frame is the same.
class Framing : public testing::Test {
 protected:
  /// One chain over pieces of these lengths, from descriptor 0 on; returns the guest address of
  /// each piece.
  std::vector<uint64_t> chain(DriverImage& image, const std::vector<uint32_t>& lengths,
                              uint16_t flags) {
    std::vector<uint64_t> places;
    for (size_t i = 0; i < lengths.size(); ++i) {
      places.push_back(guest_.allocate(lengths[i] + 1));  // apart, and at odd addresses too
      const bool last = i + 1 == lengths.size();
      image.desc(static_cast<uint32_t>(i), places[i], lengths[i],
                 static_cast<uint16_t>(flags | (last ? 0 : kNext)), static_cast<uint16_t>(i + 1));
    }
    return places;
  }

  Guest guest_{1 << 20};
  test::LeakChecked pool_;
  QueueCounters counters_;
};

TEST_F(Framing, SenderSplitsAtEveryByte) {
  for (const uint64_t features : {kModern, kLegacy}) {
    const size_t hdr = spec::net_hdr_size(features);
    for (const size_t size : {60U, 192U, 193U, 300U}) {
      const Bytes all = Bytes(hdr) + pattern(size);
      DriverImage image(4);
      Rx rx(SplitDeviceRing<>({.layout = image.layout()}, guest_.view()), features);
      for (size_t cut = 1; cut < all.size(); ++cut) {
        const auto places =
            chain(image, {static_cast<uint32_t>(cut), static_cast<uint32_t>(all.size() - cut)}, 0);
        guest_.write(places[0], slice(all, 0, cut));
        guest_.write(places[1], slice(all, cut, all.size() - cut));
        image.offer(0);
        Burst burst(pool_.cache());
        rx.poll(burst, counters_);
        ASSERT_EQ(burst.size(), 1u) << "header of " << hdr << ", cut at " << cut;
        ASSERT_EQ(test::bytes_of(burst[0]), pattern(size)) << "header " << hdr << ", cut " << cut;
        (void)rx.complete();
      }
    }
  }
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

TEST_F(Framing, SenderSplitsIntoSingleBytes) {
  const Bytes frame = pattern(300);
  const Bytes all = Bytes(12) + frame;
  DriverImage image(512);
  const auto places = chain(image, std::vector<uint32_t>(all.size(), 1), 0);
  for (size_t i = 0; i < all.size(); ++i) *guest_.at(places[i]) = all[i];
  image.offer(0);
  Rx rx(SplitDeviceRing<>({.layout = image.layout()}, guest_.view()), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  EXPECT_TRUE(burst[0].tail_owned());  // more pieces than a packet has segments
  (void)rx.complete();
}

TEST_F(Framing, EmptyDescriptorsCountForNothing) {
  const Bytes frame = pattern(250);
  DriverImage image(8);
  const auto places = chain(image, {0, 12, 0, 250, 0}, 0);
  guest_.write(places[3], frame);
  image.offer(0);
  Rx rx(SplitDeviceRing<>({.layout = image.layout()}, guest_.view()), kModern);
  Burst burst(pool_.cache());
  rx.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(test::bytes_of(burst[0]), frame);
  (void)rx.complete();
}

TEST_F(Framing, ReceiverSplitsAtEveryByte) {
  for (const uint64_t features : {kMergeable, kModern, kLegacy}) {
    const size_t hdr = spec::net_hdr_size(features);
    const Bytes frame = pattern(256);
    Bytes all = Bytes(hdr) + frame;
    if (hdr == 12) all[10] = std::byte{1};
    DriverImage image(4);
    Tx tx(SplitDeviceRing<>({.layout = image.layout()}, guest_.view()), features);
    for (size_t cut = 1; cut < all.size(); ++cut) {
      const auto places = chain(
          image, {static_cast<uint32_t>(cut), static_cast<uint32_t>(all.size() - cut + 5)}, kWrite);
      image.offer(0);
      Burst burst(pool_.cache());
      burst.push(pool_.packet_of(frame));
      tx.send(burst, counters_);
      ASSERT_TRUE(burst.empty());
      (void)tx.publish();
      ASSERT_EQ(guest_.read(places[0], cut) + guest_.read(places[1], all.size() - cut), all)
          << "header " << hdr << ", cut " << cut;
      ASSERT_EQ(image.used_len((image.used_idx() - 1U) % 4), all.size());
    }
  }
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

/// A guest that posts buffers of one size and puts frames together again as 5.1.6.4 says.
class Receiver {
 public:
  Receiver(Guest& guest, uint32_t queue, uint32_t buffer) : guest_(guest), image_(queue) {
    for (uint32_t i = 0; i < queue; ++i) {
      places_.push_back(guest.allocate(buffer));
      image_.desc(i, places_.back(), buffer, kWrite);
    }
    refill();
  }

  DriverImage& image() { return image_; }

  /// The next frame; empty when there is none.
  Bytes receive() {
    if (seen_ == image_.used_idx()) return {};
    Bytes all = next();
    const auto buffers = test::get_le<uint16_t>(all.data() + 10);
    for (uint16_t i = 1; i < buffers; ++i) all = all + next();
    refill();
    return slice(all, 12, all.size() - 12);
  }

 private:
  Bytes next() {
    const uint32_t slot = seen_ % image_.size();
    ++seen_;
    return guest_.read(places_[image_.used_id(slot)], image_.used_len(slot));
  }
  void refill() {
    while (static_cast<uint16_t>(image_.avail_idx() - seen_) < image_.size()) {
      image_.offer(image_.avail_idx() % image_.size());
    }
  }

  Guest& guest_;
  DriverImage image_;
  std::vector<uint64_t> places_;
  uint16_t seen_ = 0;
};

std::vector<size_t> frame_sizes() {
  std::vector<size_t> sizes;
  for (size_t size = 60; size < 700; ++size) sizes.push_back(size);
  for (size_t size = 1400; size < 1560; ++size) sizes.push_back(size);
  for (size_t size = 700; size < 65535; size += 397) sizes.push_back(size);
  for (size_t size = 1024; size <= 65536; size *= 2) {
    for (size_t near = size - 14; near < size + 2; ++near) sizes.push_back(near);
  }
  sizes.push_back(65535);
  sizes.push_back(65589);  // the longest of all, 5.1.6.3
  return sizes;
}

TEST_F(Framing, EverySizeFromOneGuestToTheOther) {
  DriverImage from(4);
  Rx rx(SplitDeviceRing<>({.layout = from.layout()}, guest_.view()), kMergeable);
  Guest receiver_memory(2 << 20);
  Receiver receiver(receiver_memory, 1024, 1526);
  Tx tx(SplitDeviceRing<>({.layout = receiver.image().layout()}, receiver_memory.view()),
        kMergeable);
  QueueCounters out;
  const uint64_t source = guest_.allocate(70000);
  size_t sent = 0;
  for (const size_t size : frame_sizes()) {
    const Bytes frame = pattern(size, static_cast<unsigned>(size));
    std::memcpy(guest_.at(source + 12), frame.data(), size);
    from.desc(0, source, static_cast<uint32_t>(12 + size));
    from.offer(0);
    Burst burst(pool_.cache());
    rx.poll(burst, counters_);
    ASSERT_EQ(burst.size(), 1u) << size;
    ASSERT_EQ(burst[0].size(), size);
    tx.send(burst, out);
    ASSERT_TRUE(burst.empty()) << size;
    (void)rx.complete();
    (void)tx.publish();
    ASSERT_EQ(receiver.receive(), frame) << size;
    ++sent;
  }
  EXPECT_EQ(out.packets.value(), sent);
  EXPECT_EQ(counters_.packets.value(), sent);
  EXPECT_EQ(out.bytes.value(), counters_.bytes.value());
}

}  // namespace
}  // namespace pollux
