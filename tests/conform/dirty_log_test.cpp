// SPDX-License-Identifier: Apache-2.0
// Which bits a device sets in the log of dirty pages, worked out by hand from the vhost-user text,
// "Migration": page = address / 0x1000, log[page / 8] |= 1 << page % 8; the used ring counts as if
// its first byte lay at log_guest_addr.
#include "pollux/mem/dirty_log.hpp"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"

namespace pollux {
namespace {

using ring::SplitDeviceRing;
using test::Bytes;
using test::Guest;
using test::kNext;
using test::kWrite;
using test::pattern;
using test::put_le;

/// Bytes of the log that are not 0, by their place.
using Marks = std::vector<std::pair<size_t, unsigned>>;

TEST(DirtyLogBits, OneForEachPageThatIsTouched) {
  std::vector<std::byte> bits(4);
  DirtyLog log{bits};
  const auto marks = [&] {
    Marks found;
    for (size_t i = 0; i < bits.size(); ++i) {
      if (bits[i] != std::byte{}) found.emplace_back(i, std::to_integer<unsigned>(bits[i]));
      bits[i] = {};
    }
    return found;
  };
  log.mark(0, 1);
  EXPECT_EQ(marks(), (Marks{{0, 0x01}}));
  log.mark(0xfff, 1);
  EXPECT_EQ(marks(), (Marks{{0, 0x01}}));
  log.mark(0xfff, 2);
  EXPECT_EQ(marks(), (Marks{{0, 0x03}}));
  log.mark(0x1000, 0x1000);
  EXPECT_EQ(marks(), (Marks{{0, 0x02}}));
  log.mark(0x7800, 0x3000);  // pages 7 to 10
  EXPECT_EQ(marks(), (Marks{{0, 0x80}, {1, 0x07}}));
  log.mark(0x1ffff, 1);  // page 31, the last that 4 bytes can speak of
  EXPECT_EQ(marks(), (Marks{{3, 0x80}}));
  log.mark(0x5000, 0);
  EXPECT_EQ(marks(), Marks{});
  EXPECT_FALSE(log.incomplete());
}

/// Two regions, at pages 16 to 31 and 64 to 71. A queue of four entries begins at 0x10000: 64 bytes
/// of descriptors, 14 of available ring, 2 of padding, 38 of used ring at 0x10050.
class LoggedQueue : public testing::Test {
 protected:
  static constexpr uint64_t kRing = 0x10000;
  static constexpr uint64_t kAvail = kRing + 64;
  static constexpr uint64_t kUsed = kRing + 80;
  static constexpr uint64_t kLogBytes = 32;  // pages 0 to 255

  void log_ring_at(uint64_t addr, bool logged = true) {
    write_log_.emplace(guest_.memory(), log_,
                       WriteLog::RingArea{guest_.at(kUsed), 38, GuestAddr{addr}, logged});
  }
  SplitDeviceRing<> make(bool event_idx = false) {
    PeerView view = guest_.view();
    view.set_log(write_log_ ? &*write_log_ : nullptr);
    const ring::SplitLayout layout{4, reinterpret_cast<spec::virtq_desc*>(guest_.at(kRing)),
                                   reinterpret_cast<spec::virtq_avail*>(guest_.at(kAvail)),
                                   reinterpret_cast<spec::virtq_used*>(guest_.at(kUsed))};
    return SplitDeviceRing<>({layout, next_, false, event_idx}, view);
  }
  void desc(uint32_t index, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next = 0) {
    test::DriverImage::put_desc(guest_.at(kRing), index, addr, len, flags, next);
  }
  void offer(std::initializer_list<uint16_t> heads) {
    uint16_t idx = next_;
    for (const uint16_t head : heads) put_le(guest_.at(kAvail + 4 + 2 * (idx++ % 4)), head);
    put_le(guest_.at(kAvail + 2), idx);
  }
  void send(SplitDeviceRing<> ring, std::initializer_list<uint32_t> sizes, bool mergeable) {
    virtio::NetDeviceTx<SplitDeviceRing<>> tx(
        std::move(ring),
        spec::VIRTIO_F_VERSION_1 | (mergeable ? spec::VIRTIO_NET_F_MRG_RXBUF : uint64_t{0}));
    Burst burst(pool_.cache());
    for (const uint32_t size : sizes) burst.push(pool_.packet_of(pattern(size)));
    QueueCounters counters;
    tx.send(burst, counters);
    ASSERT_EQ(counters.packets.value(), sizes.size());
    (void)tx.publish();
  }
  Marks marks() {
    Marks found;
    for (size_t i = 0; i < bits_.size(); ++i) {
      if (bits_[i] != std::byte{}) found.emplace_back(i, std::to_integer<unsigned>(bits_[i]));
      bits_[i] = {};
    }
    return found;
  }

  Guest guest_{{{0x10000, 0x10000}, {0x40000, 0x8000}}};
  std::vector<std::byte> bits_ = std::vector<std::byte>(kLogBytes);
  std::shared_ptr<DirtyLog> log_ = std::make_shared<DirtyLog>(std::span(bits_));
  std::optional<WriteLog> write_log_;
  uint16_t next_ = 0;
  test::LeakChecked pool_;
};

TEST_F(LoggedQueue, HeaderAndFrameOverTheEndOfAPage) {
  log_ring_at(0x10050);
  desc(0, 0x12ff0, 2048, kWrite);  // 12 + 60 bytes go to 0x12ff0 to 0x13037: pages 18 and 19
  offer({0});
  send(make(), {60}, false);
  // Page 16 holds the used ring: byte 2 bit 0. Byte 2: 16, 18, 19.
  EXPECT_EQ(marks(), (Marks{{2, 0x0d}}));
}

TEST_F(LoggedQueue, WhatIsNotWrittenIsNotMarked) {
  log_ring_at(0x10050);
  // A buffer of five pages, of which the frame fills the first 972 bytes and no more.
  desc(1, 0x40000, 0x5000, kWrite);  // page 64: byte 8 bit 0
  offer({1});
  send(make(), {960}, false);
  EXPECT_EQ(marks(), (Marks{{2, 0x01}, {8, 0x01}}));
}

TEST_F(LoggedQueue, TheRingCountsAtItsOwnAddress) {
  // flags at 0x60ff8, idx at 0x60ffa, ring[0] at 0x60ffc to 0x61003: pages 96 and 97.
  log_ring_at(0x60ff8);
  desc(0, 0x14000, 2048, kWrite);  // page 20
  offer({0});
  send(make(), {60}, false);
  EXPECT_EQ(marks(), (Marks{{2, 0x10}, {12, 0x03}}));
}

TEST_F(LoggedQueue, EntriesAroundTheEndOfTheRing) {
  // ring[3] is at 28 to 35, ring[0] at 4 to 11. From 0x60fe4 on: ring[0] 0x60fe8 (page 96),
  // ring[3] 0x61000 (page 97).
  next_ = 3;
  log_ring_at(0x60fe4);
  desc(0, 0x14000, 128, kWrite);
  desc(1, 0x15000, 128, kWrite);
  offer({0});
  send(make(), {60}, false);
  EXPECT_EQ(marks(), (Marks{{2, 0x10}, {12, 0x03}})) << "ring[3], and idx on the page before";
  offer({0, 1});
  send(make(), {60, 60}, false);
  EXPECT_EQ(marks(), (Marks{{2, 0x30}, {12, 0x03}}));
}

TEST_F(LoggedQueue, ReturningWhatWasOnlyReadMarksTheRingAlone) {
  log_ring_at(0x60000);
  guest_.write(0x13000, Bytes(12));
  desc(2, 0x13000, 72, 0);
  offer({2});
  virtio::NetDeviceRx<SplitDeviceRing<>> rx(make(), spec::VIRTIO_F_VERSION_1);
  QueueCounters counters;
  Burst burst(pool_.cache());
  rx.poll(burst, counters);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(marks(), Marks{}) << "nothing is shown yet";
  (void)rx.complete();
  EXPECT_EQ(marks(), (Marks{{12, 0x01}}));
}

TEST_F(LoggedQueue, WithoutVringFLogTheRingIsNotMarked) {
  log_ring_at(0x60000, false);
  desc(0, 0x14000, 128, kWrite);
  offer({0});
  send(make(), {60}, false);
  EXPECT_EQ(marks(), (Marks{{2, 0x10}}));
}

TEST_F(LoggedQueue, SuppressionFieldsAreWrites) {
  log_ring_at(0x60fff);  // flags at 0x60fff and 0x61000
  make().suppress_notifications();
  EXPECT_EQ(marks(), (Marks{{12, 0x03}}));
  log_ring_at(0x60fdc);  // avail_event, 36 bytes behind the start, at 0x61000; flags at 0x60fdc
  make(true).suppress_notifications();
  EXPECT_EQ(marks(), (Marks{{12, 0x03}}));
}

TEST_F(LoggedQueue, AFrameOverSeveralMergedBuffers) {
  log_ring_at(0x10050);
  // 12 + 3000 bytes: 1024 on page 17, 1024 on page 24, the last 964 on page 66.
  desc(0, 0x11000, 1024, kWrite);
  desc(1, 0x18000, 1024, kWrite);
  desc(2, 0x42c00, 1024, kWrite);
  offer({0, 1, 2});
  send(make(), {3000}, true);
  EXPECT_EQ(marks(), (Marks{{2, 0x03}, {3, 0x01}, {8, 0x04}}));
}

TEST_F(LoggedQueue, AFrameOverAChain) {
  log_ring_at(0x10050);
  desc(0, 0x11ff8, 16, kWrite | kNext, 3);  // header and 4 bytes: pages 17 and 18
  desc(3, 0x47ffc, 4, kWrite | kNext, 1);   // the last bytes of page 71
  desc(1, 0x1f000, 2048, kWrite);           // page 31
  offer({0});
  send(make(), {60}, false);
  EXPECT_EQ(marks(), (Marks{{2, 0x07}, {3, 0x80}, {8, 0x80}}));
}

TEST_F(LoggedQueue, WithoutALogNothingIsMarked) {
  desc(0, 0x14000, 128, kWrite);
  offer({0});
  send(make(), {60}, false);
  EXPECT_EQ(marks(), Marks{});
}

/// The same guest with a packed queue of four descriptors: 64 bytes {addr le64, len le32, id le16,
/// flags le16}, of which the first ends page 16, then the driver's event structure at 0x11030 and
/// the device's at 0x11034. Only that one is the area that log_guest_addr speaks of; descriptors
/// are marked where they lie.
class LoggedPackedQueue : public LoggedQueue {
 protected:
  static constexpr uint64_t kDesc = 0x10ff0;
  static constexpr uint64_t kDevice = 0x11034;
  using Ring = ring::PackedDeviceRing<>;

  void log_device_area_at(uint64_t addr, bool logged = true) {
    write_log_.emplace(guest_.memory(), log_,
                       WriteLog::RingArea{guest_.at(kDevice), 4, GuestAddr{addr}, logged});
  }
  Ring make_packed() {
    PeerView view = guest_.view();
    view.set_log(&*write_log_);
    const ring::PackedLayout layout{
        4, reinterpret_cast<spec::pvirtq_desc*>(guest_.at(kDesc)),
        reinterpret_cast<spec::pvirtq_event_suppress*>(guest_.at(kDevice - 4)),
        reinterpret_cast<spec::pvirtq_event_suppress*>(guest_.at(kDevice))};
    return Ring({.layout = layout, .next = {}}, view);
  }
  /// Available in the first lap: AVAIL (bit 7) set, USED (bit 15) clear.
  void offer(uint32_t index, uint64_t addr, uint32_t len) {
    std::byte* at = guest_.at(kDesc + 16 * index);
    put_le(at, addr);
    put_le(at + 8, len);
    put_le(at + 12, static_cast<uint16_t>(index));
    put_le(at + 14, static_cast<uint16_t>(0x80 | kWrite));
  }
  void send(unsigned frames) {
    virtio::NetDeviceTx<Ring> tx(make_packed(), spec::VIRTIO_F_VERSION_1);
    Burst burst(pool_.cache());
    for (unsigned i = 0; i < frames; ++i) burst.push(pool_.packet_of(pattern(60)));
    QueueCounters counters;
    tx.send(burst, counters);
    ASSERT_EQ(counters.packets.value(), frames);
    EXPECT_EQ(marks_of_ring(), 0u) << "nothing is shown yet";
    (void)tx.publish();
  }
  unsigned marks_of_ring() const { return std::to_integer<unsigned>(bits_[2]) & 3; }
};

TEST_F(LoggedPackedQueue, ADescriptorIsMarkedWhereItLies) {
  log_device_area_at(0x60000);
  offer(0, 0x14000, 2048);  // page 20
  send(1);
  EXPECT_EQ(marks(), (Marks{{2, 0x11}}));  // pages 16 and 20
}

TEST_F(LoggedPackedQueue, DescriptorsOnBothSidesOfAPagesEnd) {
  log_device_area_at(0x60000);
  offer(0, 0x14000, 2048);
  offer(1, 0x14800, 2048);
  send(2);
  EXPECT_EQ(marks(), (Marks{{2, 0x13}}));  // pages 16, 17 and 20
}

TEST_F(LoggedPackedQueue, TheDeviceAreaCountsAtItsOwnAddress) {
  log_device_area_at(0x60ffd);  // its flags, two bytes on, at 0x60fff and 0x61000
  make_packed().suppress_notifications();
  EXPECT_EQ(marks(), (Marks{{12, 0x03}}));
}

TEST_F(LoggedPackedQueue, WithoutVringFLogTheRingIsNotMarked) {
  log_device_area_at(0x60000, false);
  offer(0, 0x14000, 2048);
  send(1);
  make_packed().suppress_notifications();
  EXPECT_EQ(marks(), (Marks{{2, 0x10}}));
}

}  // namespace
}  // namespace pollux
