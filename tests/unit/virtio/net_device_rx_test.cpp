// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_device_rx.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "pollux/ring/split_device_ring.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/tcp_frame.hpp"

namespace pollux::virtio {
namespace {

using ring::SplitDeviceRing;
using test::Bytes;
using test::DriverImage;
using test::Guest;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::pattern;

constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1;
constexpr size_t kHdr = 12;

/// A guest that sends, and the switch's end of its transmitq.
class DeviceRx : public testing::Test {
 protected:
  explicit DeviceRx(uint32_t queue = 64)
      : image_(queue),
        rx_(SplitDeviceRing<>({image_.layout(), 0, true, false}, guest_.view()), kFeatures) {}

  static Bytes with_header(const Bytes& frame, const test::NetHeader& hdr = {}) {
    Bytes all = hdr.bytes();
    all.insert(all.end(), frame.begin(), frame.end());
    return all;
  }

  /// Offers header and frame as one descriptor, the next of the table.
  void send(const Bytes& frame, const test::NetHeader& hdr = {}) {
    const Bytes all = with_header(frame, hdr);
    image_.desc(next_desc_, guest_.place(all), static_cast<uint32_t>(all.size()));
    image_.offer(next_desc_++);
  }

  /// Offers it over pieces of these lengths, as a chain of descriptors or an indirect table.
  void send_chain(const Bytes& all, const std::vector<uint32_t>& lengths, bool indirect = false) {
    const auto count = static_cast<uint32_t>(lengths.size());
    const uint64_t table = indirect ? guest_.allocate(16 * count) : 0;
    const uint16_t first = next_desc_;
    size_t done = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const uint64_t addr = guest_.allocate(lengths[i]);
      guest_.write(addr, Bytes(all.begin() + static_cast<ptrdiff_t>(done),
                               all.begin() + static_cast<ptrdiff_t>(done + lengths[i])));
      done += lengths[i];
      const uint16_t flags = i + 1 == count ? 0 : kNext;
      if (indirect) {
        DriverImage::put_desc(guest_.at(table), i, addr, lengths[i], flags,
                              static_cast<uint16_t>(i + 1));
      } else {
        image_.desc(next_desc_, addr, lengths[i], flags, static_cast<uint16_t>(next_desc_ + 1));
        ++next_desc_;
      }
    }
    ASSERT_EQ(done, all.size());
    if (indirect) image_.desc(next_desc_++, table, 16 * count, kIndirect);
    image_.offer(first);
  }

  /// One poll; the burst's frames. Ends the turn.
  std::vector<Bytes> receive() {
    Burst burst(pool_.cache());
    rx_.poll(burst, counters_);
    std::vector<Bytes> frames;
    for (const Packet* packet : burst.packets()) frames.push_back(test::bytes_of(*packet));
    burst.clear();
    (void)rx_.complete();
    return frames;
  }

  uint64_t drops(DropReason reason) const { return counters_.drops.value(reason); }

  test::LeakChecked pool_;
  Guest guest_{8 << 20};
  DriverImage image_;
  NetDeviceRx<SplitDeviceRing<>> rx_;
  QueueCounters counters_;
  uint16_t next_desc_ = 0;
};

TEST_F(DeviceRx, NothingThereIsNothingTaken) {
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  EXPECT_TRUE(burst.empty());
  EXPECT_FALSE(rx_.complete());
  EXPECT_EQ(image_.used_idx(), 0);
}

TEST_F(DeviceRx, IdleIsNoFrameAndNothingToReturn) {
  EXPECT_TRUE(rx_.idle());
  send(pattern(60));
  EXPECT_FALSE(rx_.idle());
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  EXPECT_EQ(burst.size(), 1u);
  EXPECT_FALSE(rx_.idle()) << "the frame is to be returned";
  burst.clear();
  (void)rx_.complete();
  EXPECT_TRUE(rx_.idle());
}

TEST_F(DeviceRx, BrokenRingIsNotIdle) {
  image_.avail_idx(65);
  EXPECT_FALSE(rx_.idle()) << "a poll is to find out";
  EXPECT_TRUE(receive().empty());
  EXPECT_FALSE(rx_.idle());
}

TEST_F(DeviceRx, HeadIsPrivateAndTailIsBorrowed) {
  const Bytes small = pattern(Packet::kHeadCapacity, 1);
  const Bytes large = pattern(Packet::kHeadCapacity + 1, 2);
  send(small);
  send(large);
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 2u);
  EXPECT_EQ(burst[0].head_size(), Packet::kHeadCapacity);
  EXPECT_TRUE(burst[0].tail().empty());
  EXPECT_EQ(burst[1].head_size(), Packet::kHeadCopy);
  EXPECT_TRUE(burst[1].tail_borrowed());
  // What the guest changes now it changes behind the head, not in it.
  std::fill_n(guest_.at(Guest::kBase), 2 * kHdr + small.size() + large.size(), std::byte{0xee});
  EXPECT_EQ(test::bytes_of(burst[0]), small);
  EXPECT_TRUE(std::equal(large.begin(), large.begin() + Packet::kHeadCopy, burst[1].head()));
  burst.clear();
  (void)rx_.complete();
}

TEST_F(DeviceRx, ChainsDirectAndIndirect) {
  const std::vector<std::vector<uint32_t>> cuts{
      {12, 1000},    {10, 1002}, {1, 11, 1000},    {12, 128, 872}, {140, 872},
      {139, 1, 872}, {141, 871}, {6, 6, 500, 500}, {1011, 1},      {13, 127, 1, 871}};
  const Bytes frame = pattern(1000);
  for (const auto& lengths : cuts) {
    for (const bool indirect : {false, true}) {
      send_chain(with_header(frame), lengths, indirect);
      EXPECT_EQ(receive(), std::vector<Bytes>{frame});
      next_desc_ = 0;
    }
  }
  EXPECT_EQ(test::all_drops(counters_), 0u);
  EXPECT_EQ(counters_.packets.value(), 2 * cuts.size());
  EXPECT_EQ(counters_.bytes.value(), 2 * cuts.size() * 1000);
}

TEST_F(DeviceRx, ExactlyAsManyPiecesAsSegments) {
  // Header alone, head alone, then 34, 36 and 37 pieces of tail.
  for (const size_t pieces : {34U, 36U, 37U, 200U}) {
    const Bytes frame = pattern(Packet::kHeadCopy + pieces * 10);
    std::vector<uint32_t> lengths{12, Packet::kHeadCopy};
    lengths.insert(lengths.end(), pieces, 10);
    send_chain(with_header(frame), lengths, true);
    Burst burst(pool_.cache());
    rx_.poll(burst, counters_);
    ASSERT_EQ(burst.size(), 1u) << pieces;
    EXPECT_EQ(test::bytes_of(burst[0]), frame) << pieces;
    EXPECT_EQ(burst[0].tail_owned(), pieces + 2 > Packet::kMaxSegments) << pieces;
    burst.clear();
    (void)rx_.complete();
  }
}

TEST_F(DeviceRx, LargestFrameInManyPieces) {
  const Bytes frame = pattern(Packet::kMaxLength);
  std::vector<uint32_t> lengths(1000, 65);
  lengths.push_back(static_cast<uint32_t>(frame.size() + kHdr - 65000));
  send_chain(with_header(frame), lengths, true);
  EXPECT_EQ(receive(), std::vector<Bytes>{frame});
  send(pattern(Packet::kMaxLength + 1));
  EXPECT_TRUE(receive().empty());
  EXPECT_EQ(drops(DropReason::too_long), 1u);
}

TEST_F(DeviceRx, PiecesCrossRegionBorders) {
  Guest guest({{0x10000, 0x1000}, {0x11000, 0x1000}, {0x12000, 0x1000}, {0x20000, 0x1000}});
  NetDeviceRx<SplitDeviceRing<>> rx(
      SplitDeviceRing<>({image_.layout(), 0, true, false}, guest.view()), kFeatures);
  const Bytes frame = pattern(0x2000 + 100);
  const Bytes all = with_header(frame);
  // Begins at every place around the border, so that header, head and tail lie across it.
  uint16_t desc = 0;
  for (const uint64_t start : {0x10ff0ULL, 0x10ff4ULL, 0x10ffcULL, 0x10fffULL, 0x10f80ULL}) {
    guest.write(start, Bytes(all.begin(), all.begin() + 0x2000));
    image_.desc(desc, start, 0x2000, kNext, static_cast<uint16_t>(desc + 1));
    guest.write(0x20000, Bytes(all.begin() + 0x2000, all.end()));
    image_.desc(desc + 1U, 0x20000, static_cast<uint32_t>(all.size() - 0x2000));
    image_.offer(desc);
    desc = static_cast<uint16_t>(desc + 2);
    Burst burst(pool_.cache());
    rx.poll(burst, counters_);
    ASSERT_EQ(burst.size(), 1u);
    EXPECT_EQ(test::bytes_of(burst[0]), frame);
    burst.clear();
    (void)rx.complete();
  }
}

TEST_F(DeviceRx, AtMostThirtyTwoATurnAndNoMoreThanTheBurstHolds) {
  for (int i = 0; i < 50; ++i) send(pattern(60));
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  EXPECT_EQ(burst.size(), 32u);
  rx_.poll(burst, counters_);
  EXPECT_EQ(burst.size(), 50u);
  for (int i = 0; i < 10; ++i) burst.push(pool_.packet_of(pattern(60)));
  for (int i = 0; i < 10; ++i) send(pattern(60));
  rx_.poll(burst, counters_);
  EXPECT_EQ(burst.room(), 0u);
  rx_.poll(burst, counters_);
  EXPECT_EQ(counters_.packets.value(), 54u);
  EXPECT_TRUE(rx_.complete());
  EXPECT_EQ(image_.used_idx(), 54);
}

TEST_F(DeviceRx, WithoutPacketsFramesStayInTheRing) {
  for (int i = 0; i < 5; ++i) send(pattern(60 + i));
  pool_.leave_packets(3);
  {
    Burst burst(pool_.cache());
    rx_.poll(burst, counters_);
    EXPECT_EQ(burst.size(), 3u);
    rx_.poll(burst, counters_);
    EXPECT_EQ(burst.size(), 3u);
    EXPECT_EQ(counters_.packets.value(), 3u);
    (void)rx_.complete();
    EXPECT_EQ(image_.used_idx(), 3);
  }
  EXPECT_EQ(receive(), (std::vector<Bytes>{pattern(63), pattern(64)}));
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

TEST_F(DeviceRx, WithoutBuffersOnlyFramesOfTooManyPiecesAreDropped) {
  pool_.leave_buffers(0);
  const Bytes frame = pattern(500);
  send_chain(with_header(frame), std::vector<uint32_t>(128, 4), true);
  send(frame);
  EXPECT_EQ(receive(), std::vector<Bytes>{frame});
  EXPECT_EQ(drops(DropReason::no_buffers), 1u);
  EXPECT_EQ(counters_.packets.value(), 2u);
  EXPECT_EQ(image_.used_idx(), 2);
}

TEST_F(DeviceRx, EveryChainIsReturnedInOrderWithLengthZero) {
  send(pattern(60));
  image_.desc(next_desc_, 0xdead0000, 100);  // nowhere
  image_.offer(next_desc_++);
  send(pattern(13));  // runt
  send(pattern(60));
  EXPECT_EQ(receive().size(), 2u);
  ASSERT_EQ(image_.used_idx(), 4);
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(image_.used_id(i), i);
    EXPECT_EQ(image_.used_len(i), 0u);
  }
  EXPECT_EQ(drops(DropReason::bad_address), 1u);
  EXPECT_EQ(drops(DropReason::runt), 1u);
  EXPECT_EQ(counters_.packets.value(), 4u);
}

TEST_F(DeviceRx, GoodChainsBeforeABadHeadAreTaken) {
  for (int i = 0; i < 3; ++i) send(pattern(60));
  image_.avail_entry(3, 64);
  image_.avail_idx(5);
  EXPECT_EQ(receive().size(), 3u);
  EXPECT_EQ(rx_.ring().error(), ring::RingError::head_range);
  EXPECT_EQ(image_.used_idx(), 3);
  EXPECT_TRUE(receive().empty());
  EXPECT_EQ(image_.used_idx(), 3);
}

TEST_F(DeviceRx, OffloadsComeFromTheHeaders) {
  const Bytes frame = test::tcp_frame(3000);
  send(frame, test::tso4(1448));
  // Same frame, header in pieces.
  send_chain(with_header(frame, test::tso4(1448)), {3, 9, 3054});
  send(pattern(60), {.flags = 2});  // DATA_VALID: not the driver's to say
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  ASSERT_EQ(burst.size(), 3u);
  for (const size_t i : {0U, 1U}) {
    const PacketMeta& meta = burst[i].meta;
    EXPECT_TRUE(meta.needs_csum);
    EXPECT_EQ(meta.gso, GsoType::kTcp4);
    EXPECT_EQ(meta.gso_size, 1448);
    EXPECT_EQ(meta.csum_start, 34);
    EXPECT_EQ(meta.csum_offset, 16);
    EXPECT_EQ(meta.payload_offset, 54);
  }
  EXPECT_FALSE(burst[2].meta.csum_valid);
  EXPECT_FALSE(burst[2].meta.needs_csum);
  burst.clear();
  (void)rx_.complete();
}

TEST_F(DeviceRx, PacketsThatWereUsedBeforeStartAnew) {
  send(test::tcp_frame(3000), test::tso4(1448));
  EXPECT_EQ(receive().size(), 1u);
  for (int i = 0; i < 32; ++i) send(pattern(60));
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  for (const Packet* packet : burst.packets()) {
    EXPECT_FALSE(packet->meta.needs_csum);
    EXPECT_EQ(packet->meta.gso, GsoType::kNone);
    EXPECT_EQ(packet->size(), 60u);
  }
  burst.clear();
  (void)rx_.complete();
}

TEST_F(DeviceRx, NotifiesOnlyWhenTheDriverAsks) {
  send(pattern(60));
  Burst burst(pool_.cache());
  rx_.poll(burst, counters_);
  EXPECT_TRUE(rx_.complete());
  EXPECT_FALSE(rx_.complete());  // nothing new
  image_.avail_flags(1);
  send(pattern(60));
  rx_.poll(burst, counters_);
  EXPECT_FALSE(rx_.complete());
  EXPECT_EQ(image_.used_idx(), 2);
}

}  // namespace
}  // namespace pollux::virtio
