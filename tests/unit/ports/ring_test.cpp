// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/ports/port_fixture.hpp"

namespace pollux {
namespace {

using testing::HasSubstr;

class RingPortTest : public PortTest {};

TEST_F(RingPortTest, CarriesBothWays) {
  auto a = make_started("ring:x");
  auto b = make_started("ring:x");
  EXPECT_TRUE(a->info().link_up);
  const std::vector<Frame> frames{make_frame(14, 1), make_frame(192, 2), make_frame(193, 3),
                                  make_frame(9000, 4), make_frame(65535, 5)};
  for (const Frame& frame : frames) {
    EXPECT_TRUE(send(a->tx_queues()[0], frame));
    EXPECT_TRUE(send(b->tx_queues()[0], frame));
  }
  EXPECT_EQ(receive(b->rx_queues()[0], 5), frames);
  EXPECT_EQ(receive(a->rx_queues()[0], 5), frames);
  EXPECT_EQ(a->tx_queues()[0].counters->packets.value(), 5u);
  EXPECT_EQ(b->rx_queues()[0].counters->packets.value(), 5u);
  EXPECT_EQ(b->rx_queues()[0].counters->bytes.value(), 14u + 192 + 193 + 9000 + 65535);
  expect_no_leak();
}

TEST_F(RingPortTest, MetadataTravelsAlong) {
  auto a = make_started("ring:x");
  auto b = make_started("ring:x");
  PacketMeta meta;
  meta.mark = 7;
  EXPECT_TRUE(send(a->tx_queues()[0], make_frame(60), meta));
  Burst burst(cache_);
  const RxQueue rx = b->rx_queues()[0];
  rx.poll(rx.self, burst);
  ASSERT_EQ(burst.size(), 1u);
  EXPECT_EQ(burst[0].meta.mark, 7u);
}

TEST_F(RingPortTest, BorrowedTailsAreCopiedBeforeTheyEnter) {
  auto a = make_started("ring:x");
  auto b = make_started("ring:x");
  Frame peer_memory = make_frame(500);
  const Frame expected = peer_memory;
  {
    Burst burst(cache_);
    Packet* packet = cache_.allocate();
    packet->set_head_size(128);
    std::memcpy(packet->head(), peer_memory.data(), 128);
    packet->append({peer_memory.data() + 128, 372, kBorrowed});
    burst.push(packet);
    const TxQueue tx = a->tx_queues()[0];
    (void)tx.send(tx.self, burst);
    EXPECT_TRUE(burst.empty());
  }
  std::ranges::fill(peer_memory, std::byte{0});
  EXPECT_EQ(receive(b->rx_queues()[0], 1), std::vector<Frame>{expected});
  expect_no_leak();
}

TEST_F(RingPortTest, AFullRingLeavesTheRest) {
  auto a = make_started("ring:x,size=64");
  auto b = make_started("ring:x");
  const TxQueue tx = a->tx_queues()[0];
  for (unsigned i = 0; i < 40; ++i) EXPECT_TRUE(send(tx, make_frame(60, i)));
  Burst burst(cache_);
  for (unsigned i = 0; i < 30; ++i) {
    Packet* packet = cache_.allocate();
    ASSERT_TRUE(fill(*packet, cache_, make_frame(300, 40 + i)));
    burst.push(packet);
  }
  EXPECT_EQ(tx.send(tx.self, burst), DropReason::receiver_ring_full);
  EXPECT_EQ(burst.size(), 6u);
  EXPECT_EQ(tx.counters->packets.value(), 64u);
  EXPECT_EQ(tx.send(tx.self, burst), DropReason::receiver_ring_full);
  EXPECT_EQ(burst.size(), 6u);
  const auto frames = receive(b->rx_queues()[0], 64);
  ASSERT_EQ(frames.size(), 64u);
  EXPECT_EQ(frames[63], make_frame(300, 63));
}

TEST_F(RingPortTest, WithoutAPeerNothingIsTaken) {
  auto a = make_started("ring:x");
  EXPECT_FALSE(a->info().link_up);
  const TxQueue tx = a->tx_queues()[0];
  EXPECT_FALSE(send(tx, make_frame(60)));
  auto b = make_started("ring:x");
  EXPECT_TRUE(send(tx, make_frame(60)));
  b.reset();
  EXPECT_FALSE(send(tx, make_frame(60)));
  expect_no_leak();
}

TEST_F(RingPortTest, WhatIsLeftReturnsToThePool) {
  {
    auto a = make_started("ring:x");
    auto b = make_started("ring:x");
    for (unsigned i = 0; i < 10; ++i) EXPECT_TRUE(send(a->tx_queues()[0], make_frame(4000, i)));
    a.reset();
  }
  expect_no_leak();
}

TEST_F(RingPortTest, ASeatIsFreeAgainWhenItsPortIsGone) {
  auto a = make_started("ring:x");
  auto b = make_started("ring:x");
  EXPECT_THAT(refusal("ring:x"), HasSubstr("has two ports already"));
  EXPECT_TRUE(send(a->tx_queues()[0], make_frame(60, 1)));
  b.reset();
  auto c = make_started("ring:x");
  EXPECT_TRUE(send(a->tx_queues()[0], make_frame(60, 2)));
  EXPECT_EQ(receive(c->rx_queues()[0], 1), std::vector<Frame>{make_frame(60, 2)});
  a.reset();
  c.reset();
  auto d = make_started("ring:x");
  EXPECT_FALSE(d->info().link_up);
}

TEST_F(RingPortTest, SendersOfSeveralThreads) {
  constexpr unsigned kEach = 5000;
  auto a = make_started("ring:x");
  auto b = make_started("ring:x");
  const TxQueue tx = a->tx_queues()[0];
  const auto sender = [&](unsigned seed) {
    PoolCache cache(*pool_);
    for (unsigned i = 0; i < kEach; ++i) {
      Burst burst(cache);
      Packet* packet = cache.allocate();
      ASSERT_NE(packet, nullptr);
      ASSERT_TRUE(fill(*packet, cache, make_frame(64, seed)));
      burst.push(packet);
      while (!burst.empty()) {
        (void)tx.send(tx.self, burst);
        if (!burst.empty()) std::this_thread::yield();
      }
    }
  };
  {
    std::jthread one(sender, 1);
    std::jthread two(sender, 2);
    const auto frames = receive(b->rx_queues()[0], 2 * kEach);
    EXPECT_EQ(std::ranges::count(frames, make_frame(64, 1)), kEach);
    EXPECT_EQ(std::ranges::count(frames, make_frame(64, 2)), kEach);
  }
  EXPECT_EQ(tx.counters->packets.value(), 2u * kEach);
  EXPECT_EQ(tx.counters->bytes.value(), 2u * kEach * 64);
  expect_no_leak();
}

TEST_F(RingPortTest, RefusesWrongSpecs) {
  EXPECT_THAT(refusal("ring:"), HasSubstr("needs the name of a ring"));
  EXPECT_THAT(refusal("ring:x,size=100"), HasSubstr("a power of two from 64 to 32768"));
}

}  // namespace
}  // namespace pollux
