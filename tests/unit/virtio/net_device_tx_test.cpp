// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_device_tx.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "pollux/ring/split_device_ring.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"

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

constexpr uint64_t kModern = spec::VIRTIO_F_VERSION_1;
constexpr uint64_t kMergeable = kModern | spec::VIRTIO_NET_F_MRG_RXBUF;
constexpr size_t kHdr = 12;

/// A guest that receives, and the switch's end of its receiveq.
class DeviceTx : public testing::Test {
 protected:
  static constexpr uint32_t kQueue = 64;
  using Tx = NetDeviceTx<SplitDeviceRing<>>;

  Tx make(uint64_t features, bool event_idx = false) {
    return Tx(SplitDeviceRing<>({image_.layout(), 0, true, event_idx}, guest_.view()), features);
  }

  /// Posts a chain of writable pieces, direct or through an indirect table; returns its pieces.
  std::vector<uint64_t> post(const std::vector<uint32_t>& lengths, bool indirect = false) {
    std::vector<uint64_t> places;
    const auto count = static_cast<uint32_t>(lengths.size());
    const uint64_t table = indirect ? guest_.allocate(16 * count) : 0;
    const uint16_t first = next_desc_;
    for (uint32_t i = 0; i < count; ++i) {
      places.push_back(guest_.allocate(lengths[i]));
      const auto flags = static_cast<uint16_t>(kWrite | (i + 1 == count ? 0 : kNext));
      if (indirect) {
        DriverImage::put_desc(guest_.at(table), i, places[i], lengths[i], flags,
                              static_cast<uint16_t>(i + 1));
      } else {
        image_.desc(next_desc_, places[i], lengths[i], flags,
                    static_cast<uint16_t>(next_desc_ + 1));
        ++next_desc_;
      }
    }
    if (indirect) image_.desc(next_desc_++, table, 16 * count, kIndirect);
    image_.offer(first);
    return places;
  }

  void push(Burst& burst, const Bytes& frame) { burst.push(pool_.packet_of(frame)); }

  /// Sends one frame; true when it was taken or dropped, false when it stayed.
  template <typename AnyTx>
  bool send(AnyTx& tx, const Bytes& frame) {
    Burst burst(pool_.cache());
    push(burst, frame);
    tx.send(burst, counters_);
    return burst.empty();
  }

  Bytes collect(const std::vector<uint64_t>& places, const std::vector<uint32_t>& lengths,
                size_t size) const {
    Bytes all;
    for (size_t i = 0; i < places.size() && all.size() < size; ++i) {
      const Bytes piece = guest_.read(places[i], std::min<size_t>(lengths[i], size - all.size()));
      all.insert(all.end(), piece.begin(), piece.end());
    }
    return all;
  }

  uint64_t drops(DropReason reason) const { return counters_.drops.value(reason); }

  test::LeakChecked pool_{512, 512};
  Guest guest_{8 << 20};
  DriverImage image_{kQueue};
  QueueCounters counters_;
  uint16_t next_desc_ = 0;
};

TEST_F(DeviceTx, TakesWhatFitsAndLeavesTheRest) {
  Tx tx = make(kMergeable);
  for (int i = 0; i < 3; ++i) post({2048});
  Burst burst(pool_.cache());
  for (unsigned i = 0; i < 5; ++i) push(burst, pattern(60, i));
  tx.send(burst, counters_);
  ASSERT_EQ(burst.size(), 2u);
  EXPECT_EQ(test::bytes_of(burst[0]), pattern(60, 3));
  EXPECT_EQ(counters_.packets.value(), 3u);
  EXPECT_EQ(counters_.bytes.value(), 180u);
  EXPECT_EQ(image_.used_idx(), 0);  // not shown yet
  EXPECT_TRUE(tx.publish());
  EXPECT_EQ(image_.used_idx(), 3);
  EXPECT_FALSE(tx.publish());
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

TEST_F(DeviceTx, BuffersAreLookedAtABurstAheadAndOnce) {
  Tx tx = make(kMergeable);
  const uint64_t first = post({2048})[0];
  const uint64_t second = post({2048})[0];
  ASSERT_TRUE(send(tx, pattern(60, 1)));
  image_.desc(1, ~uint64_t{0}, 0xffffffff, 0xffff);  // looked at already
  ASSERT_TRUE(send(tx, pattern(60, 2)));
  EXPECT_EQ(guest_.read(first + kHdr, 60), pattern(60, 1));
  EXPECT_EQ(guest_.read(second + kHdr, 60), pattern(60, 2));
  EXPECT_FALSE(send(tx, pattern(60, 3)));
}

/// Bursts of any length into buffers of any sizes, posted a few at a time: what is known ahead,
/// what a frame is spread over and what has to be looked for meet in all ways.
TEST_F(DeviceTx, BurstsOfAllLengthsIntoBuffersOfAllSizes) {
  Tx tx = make(kMergeable);
  std::mt19937 random(1);
  const auto upto = [&](unsigned n) { return static_cast<unsigned>(random() % (n + 1)); };
  struct Chain {
    uint64_t place;
    uint32_t size;
  };
  std::vector<Chain> chains(kQueue);
  std::vector<uint16_t> free;
  for (uint16_t i = 0; i < kQueue; ++i) {
    chains[i] = {guest_.allocate(2048), 0};
    free.push_back(i);
  }
  uint16_t seen = 0;  // used entries
  unsigned sent = 0;
  unsigned next_frame = 0;
  unsigned next_seen = 0;
  const auto frame = [&](unsigned n) { return pattern(60 + n * 37 % 1400, n); };
  for (int round = 0; round < 2000; ++round) {
    for (unsigned i = upto(static_cast<unsigned>(free.size())); i != 0; --i) {
      const size_t which = upto(static_cast<unsigned>(free.size() - 1));
      const uint16_t head = free[which];
      free.erase(free.begin() + static_cast<ptrdiff_t>(which));
      chains[head].size = std::array{100u, 700u, 2048u}[upto(2)];
      image_.desc(head, chains[head].place, chains[head].size, kWrite);
      image_.offer(head);
    }
    Burst burst(pool_.cache());
    for (unsigned i = upto(Burst::kCapacity); i != 0; --i) push(burst, frame(next_frame++));
    const size_t offered = burst.size();
    tx.send(burst, counters_);
    sent += static_cast<unsigned>(offered - burst.size());
    next_frame -= static_cast<unsigned>(burst.size());
    (void)tx.publish();
    while (seen != image_.used_idx()) {
      Bytes all;
      uint16_t buffers = 1;
      for (uint16_t i = 0; i < buffers; ++i) {
        const auto elem = image_.layout().used->ring[seen++ % kQueue];
        const Bytes piece = guest_.read(chains[elem.id].place, elem.len);
        if (i == 0) std::memcpy(&buffers, piece.data() + 10, 2);
        all.insert(all.end(), piece.begin() + (i == 0 ? kHdr : 0), piece.end());
        free.push_back(static_cast<uint16_t>(elem.id));
      }
      ASSERT_EQ(all, frame(next_seen)) << next_seen;
      ++next_seen;
    }
  }
  EXPECT_EQ(next_seen, sent);
  EXPECT_GT(sent, 10'000u);
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

TEST_F(DeviceTx, NoBuffersAtAll) {
  Tx tx = make(kMergeable);
  EXPECT_FALSE(send(tx, pattern(60)));
  EXPECT_FALSE(send(tx, pattern(6000)));
  EXPECT_FALSE(tx.publish());
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

TEST_F(DeviceTx, OwnedAndBorrowedTails) {
  Tx tx = make(kMergeable);
  const auto first = post({4000});
  const auto second = post({4000});
  const Bytes frame = pattern(3000);
  Burst burst(pool_.cache());
  push(burst, frame);
  Packet* borrowing = pool_.cache().clone_borrowing(burst[0]);
  burst.push(borrowing);
  tx.send(burst, counters_);
  EXPECT_TRUE(burst.empty());
  EXPECT_EQ(guest_.read(first[0] + kHdr, 3000), frame);
  EXPECT_EQ(guest_.read(second[0] + kHdr, 3000), frame);
}

TEST_F(DeviceTx, BufferThatFitsExactlyAndOneThatIsAByteShort) {
  Tx tx = make(kModern);
  post({kHdr + 100});
  EXPECT_TRUE(send(tx, pattern(100)));
  EXPECT_EQ(drops(DropReason::receiver_too_small), 0u);
  const auto places = post({kHdr + 99});
  EXPECT_TRUE(send(tx, pattern(100)));
  EXPECT_EQ(drops(DropReason::receiver_too_small), 1u);
  EXPECT_TRUE(send(tx, pattern(99)));  // the buffer is still there for a smaller frame
  (void)tx.publish();
  ASSERT_EQ(image_.used_idx(), 2);
  EXPECT_EQ(image_.used_len(1), kHdr + 99);
  EXPECT_EQ(guest_.read(places[0] + kHdr, 99), pattern(99));
}

TEST_F(DeviceTx, ChainsDirectAndIndirect) {
  const std::vector<std::vector<uint32_t>> cuts{{12, 1500},     {1, 11, 1500},   {6, 6, 700, 800},
                                                {100, 1, 1500}, {12, 128, 1400}, {1011, 1},
                                                {1012, 5}};
  const Bytes frame = pattern(1000);
  for (const uint64_t features : {kModern, kMergeable}) {
    Tx tx = make(features);
    image_.start_at(0);
    for (const auto& lengths : cuts) {
      for (const bool indirect : {false, true}) {
        next_desc_ = 0;
        const auto places = post(lengths, indirect);
        ASSERT_TRUE(send(tx, frame));
        (void)tx.publish();
        EXPECT_EQ(image_.used_len((image_.used_idx() - 1U) % kQueue), 1012u);
        const Bytes all = collect(places, lengths, 1012);
        EXPECT_EQ(Bytes(all.begin() + kHdr, all.end()), frame);
        EXPECT_EQ(all[10], std::byte{1});
      }
    }
  }
  EXPECT_EQ(test::all_drops(counters_), 0u);
}

TEST_F(DeviceTx, BuffersCrossRegionBorders) {
  Guest guest({{0x10000, 0x1000}, {0x11000, 0x1000}, {0x12000, 0x1000}});
  for (const uint64_t features : {kModern, kMergeable}) {
    image_.start_at(0);
    Tx tx(SplitDeviceRing<>({image_.layout(), 0, false, false}, guest.view()), features);
    for (const uint64_t start : {0x10ff0ULL, 0x10ff4ULL, 0x10ffcULL, 0x10fffULL, 0x10f80ULL}) {
      const Bytes frame = pattern(0x1800, static_cast<unsigned>(start));
      image_.desc(0, start, 0x1900, kWrite);
      image_.offer(0);
      ASSERT_TRUE(send(tx, frame));
      EXPECT_EQ(guest.read(start + kHdr, frame.size()), frame);
    }
  }
}

TEST_F(DeviceTx, SpreadsOverBuffersOfDifferentShapes) {
  Tx tx = make(kMergeable);
  const std::vector<std::vector<uint32_t>> shapes{{100}, {1, 50, 2}, {300}, {0, 5}, {400, 400}};
  std::vector<std::vector<uint64_t>> places;
  for (size_t i = 0; i < shapes.size(); ++i) places.push_back(post(shapes[i], i % 2 == 1));
  const Bytes frame = pattern(1000);  // 1012 bytes: 100, 53, 300, 5 and 554 of 800
  ASSERT_TRUE(send(tx, frame));
  (void)tx.publish();
  ASSERT_EQ(image_.used_idx(), 5);
  Bytes all;
  const std::vector<uint32_t> expected{100, 53, 300, 5, 554};
  for (uint32_t i = 0; i < 5; ++i) {
    EXPECT_EQ(image_.used_len(i), expected[i]);
    const Bytes part = collect(places[i], shapes[i], expected[i]);
    all.insert(all.end(), part.begin(), part.end());
  }
  EXPECT_EQ(Bytes(all.begin() + kHdr, all.end()), frame);
  EXPECT_EQ(all[10], std::byte{5});
}

TEST_F(DeviceTx, SpreadNeedsAllItsBuffersAtOnce) {
  Tx tx = make(kMergeable);
  post({100});
  post({100});
  EXPECT_FALSE(send(tx, pattern(289)));  // 301 bytes
  EXPECT_FALSE(tx.publish());
  EXPECT_EQ(image_.used_idx(), 0);
  post({100});
  EXPECT_FALSE(send(tx, pattern(289)));
  EXPECT_TRUE(send(tx, pattern(288)));
  EXPECT_TRUE(tx.publish());
  EXPECT_EQ(image_.used_idx(), 3);
}

TEST_F(DeviceTx, MoreFramesThanAreLookedAtAtOnceWithSpreadsAmongThem) {
  Tx tx = make(kMergeable);
  std::vector<uint64_t> places;
  for (uint32_t i = 0; i < kQueue; ++i) places.push_back(post({200})[0]);
  Burst burst(pool_.cache());
  std::vector<Bytes> frames;
  for (unsigned i = 0; i < 50; ++i) {
    frames.push_back(pattern(i % 7 == 3 ? 600 : 100, i));  // 612 bytes: 4 buffers
    push(burst, frames.back());
  }
  tx.send(burst, counters_);
  (void)tx.publish();
  // Every seven frames take ten buffers: 42 frames 60, three more 63, and the next needs four.
  EXPECT_EQ(image_.used_idx(), 63);
  const size_t sent = counters_.packets.value();
  EXPECT_EQ(sent + burst.size(), 50u);
  uint32_t slot = 0;
  for (size_t i = 0; i < sent; ++i) {
    Bytes all;
    const uint32_t count = i % 7 == 3 ? 4 : 1;
    for (uint32_t k = 0; k < count; ++k, ++slot) {
      const Bytes part = guest_.read(places[image_.used_id(slot)], image_.used_len(slot));
      all.insert(all.end(), part.begin(), part.end());
    }
    ASSERT_EQ(all[10], std::byte{static_cast<uint8_t>(count)}) << i;
    ASSERT_EQ(Bytes(all.begin() + kHdr, all.end()), frames[i]) << i;
  }
  EXPECT_EQ(slot, 63u);
  EXPECT_EQ(sent, 45u);
}

TEST_F(DeviceTx, FrameThatWouldNeedTheWholeRingAndMore) {
  Tx tx = make(kMergeable);
  for (uint32_t i = 0; i < kQueue; ++i) post({20});
  EXPECT_TRUE(send(tx, pattern(20 * kQueue - kHdr + 1)));
  EXPECT_EQ(drops(DropReason::receiver_too_small), 1u);
  EXPECT_EQ(image_.used_idx(), 0);
  EXPECT_TRUE(send(tx, pattern(20 * kQueue - kHdr)));
  (void)tx.publish();
  EXPECT_EQ(image_.used_idx(), kQueue);
}

TEST_F(DeviceTx, BuffersTooSmallForWhatWasJoined) {
  for (const uint64_t features : {kModern, kMergeable}) {
    image_.start_at(0);
    next_desc_ = 0;
    Tx tx = make(features);
    std::atomic<uint32_t> offloads{kTxJoin | kTxTso4};
    tx.set_offloads(&offloads);
    for (uint32_t i = 0; i < kQueue; ++i) post({30});
    EXPECT_TRUE(send(tx, pattern(30 * kQueue)));
    EXPECT_EQ(offloads, kTxJoin | kTxTso4) << "nothing was joined";
    Burst burst(pool_.cache());
    push(burst, pattern(30 * kQueue));
    burst[0].meta.gso = GsoType::kTcp4;
    tx.send(burst, counters_);
    EXPECT_TRUE(burst.empty());
    EXPECT_EQ(offloads, kTxTso4);
  }
  EXPECT_EQ(drops(DropReason::receiver_too_small), 4u);
}

TEST_F(DeviceTx, BadBufferIsReturnedUnusedAndCostsOneFrame) {
  for (const uint64_t features : {kModern, kMergeable}) {
    image_.start_at(0);
    next_desc_ = 0;
    QueueCounters counters;
    Tx tx = make(features);
    image_.desc(next_desc_, 0xdead0000, 2000, kWrite);
    image_.offer(next_desc_++);
    image_.desc(next_desc_, guest_.allocate(2000), 2000, 0);  // readable
    image_.offer(next_desc_++);
    post({2000});
    Burst burst(pool_.cache());
    for (unsigned i = 0; i < 3; ++i) push(burst, pattern(60, i));
    tx.send(burst, counters);
    EXPECT_TRUE(burst.empty());
    (void)tx.publish();
    EXPECT_EQ(counters.drops.value(DropReason::receiver_bad_buffer), 2u);
    EXPECT_EQ(counters.packets.value(), 1u);
    ASSERT_EQ(image_.used_idx(), 3);
    EXPECT_EQ(image_.used_len(0), 0u);
    EXPECT_EQ(image_.used_len(1), 0u);
    EXPECT_EQ(image_.used_len(2), 72u);
  }
}

TEST_F(DeviceTx, BadBufferWithinASpread) {
  Tx tx = make(kMergeable);
  post({100});
  image_.desc(next_desc_, 0xdead0000, 100, kWrite);
  image_.offer(next_desc_++);
  const auto good = post({400});
  EXPECT_TRUE(send(tx, pattern(300, 1)));
  EXPECT_TRUE(send(tx, pattern(300, 2)));
  (void)tx.publish();
  EXPECT_EQ(drops(DropReason::receiver_bad_buffer), 1u);
  ASSERT_EQ(image_.used_idx(), 3);
  EXPECT_EQ(image_.used_len(0), 0u);
  EXPECT_EQ(image_.used_len(1), 0u);
  EXPECT_EQ(image_.used_len(2), 312u);
  EXPECT_EQ(guest_.read(good[0] + kHdr, 300), pattern(300, 2));
}

TEST_F(DeviceTx, BrokenRingTakesNothingMore) {
  Tx tx = make(kMergeable);
  post({2000});
  image_.avail_entry(1, kQueue);
  image_.avail_idx(2);
  Burst burst(pool_.cache());
  for (unsigned i = 0; i < 3; ++i) push(burst, pattern(60, i));
  tx.send(burst, counters_);
  EXPECT_EQ(burst.size(), 2u);
  EXPECT_EQ(tx.ring().error(), ring::RingError::head_range);
  tx.send(burst, counters_);
  EXPECT_EQ(burst.size(), 2u);
  (void)tx.publish();
  EXPECT_EQ(image_.used_idx(), 1);
}

TEST_F(DeviceTx, BadHeadWithinASpread) {
  Tx tx = make(kMergeable);
  for (uint32_t i = 0; i < 40; ++i) post({20});
  image_.avail_entry(33, 0x4000);
  EXPECT_FALSE(send(tx, pattern(700)));  // 712 bytes: 36 buffers
  EXPECT_EQ(tx.ring().error(), ring::RingError::head_range);
  EXPECT_FALSE(tx.publish());  // nothing was taken
  EXPECT_EQ(image_.used_idx(), 0);
}

TEST_F(DeviceTx, WorkForOneFrameIsBounded) {
  // Chains of a thousand empty descriptors and one byte: a frame would need hundreds of them.
  test::HookedAccess::Hook hook;
  NetDeviceTx<SplitDeviceRing<test::HookedAccess>> tx(
      SplitDeviceRing<test::HookedAccess>({image_.layout(), 0, true, false}, guest_.view(),
                                          test::HookedAccess(hook)),
      kMergeable);
  std::vector<uint32_t> lengths(1000, 0);
  lengths.push_back(1);
  for (uint32_t i = 0; i < kQueue; ++i) post(lengths, true);
  Burst burst(pool_.cache());
  for (unsigned i = 0; i < 10; ++i) push(burst, pattern(1000, i));
  tx.send(burst, counters_);
  EXPECT_TRUE(burst.empty());
  EXPECT_EQ(drops(DropReason::receiver_bad_buffer), 10u);
  EXPECT_LE(hook.reads, 10 * 4000u);
  (void)tx.publish();
  EXPECT_GE(image_.used_idx(), 10);  // and the driver gets them back
}

TEST_F(DeviceTx, NotificationsWithAndWithoutEventIdx) {
  Tx plain = make(kMergeable);
  post({2000});
  EXPECT_TRUE(send(plain, pattern(60)));
  EXPECT_TRUE(plain.publish());
  image_.avail_flags(1);
  post({2000});
  EXPECT_TRUE(send(plain, pattern(60)));
  EXPECT_FALSE(plain.publish());

  image_.start_at(0);
  next_desc_ = 0;
  Tx event = make(kMergeable, true);
  image_.used_event(2);
  for (int i = 0; i < 4; ++i) post({2000});
  EXPECT_TRUE(send(event, pattern(60)));
  EXPECT_TRUE(send(event, pattern(60)));
  EXPECT_FALSE(event.publish());  // entries 0 and 1
  EXPECT_TRUE(send(event, pattern(60)));
  EXPECT_TRUE(event.publish());  // entry 2
  EXPECT_TRUE(send(event, pattern(60)));
  EXPECT_FALSE(event.publish());
}

TEST_F(DeviceTx, LongestFrame) {
  Tx tx = make(kModern);
  const auto place = post({70000});
  const Bytes frame = pattern(Packet::kMaxLength);
  EXPECT_TRUE(send(tx, frame));
  EXPECT_EQ(guest_.read(place[0] + kHdr, frame.size()), frame);
}

}  // namespace
}  // namespace pollux::virtio
