// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/turn.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/tcp_frame.hpp"
#include "tests/unit/engine/fake_port.hpp"

namespace pollux {
namespace {

using test::Bytes;
using test::FakePort;
using test::Journal;
using Frame = FakePort::Frame;

/// A worker's turns over fake ports, without a worker.
class TurnTest : public testing::Test {
 protected:
  static constexpr size_t kPorts = 4;

  TurnTest() {
    for (size_t i = 0; i < kPorts; ++i)
      configs_[i].name = std::string(1, static_cast<char>('a' + i));
  }

  /// Makes the ports as configs_ say.
  void start() {
    topology_.sources.resize(1);
    topology_.outputs.resize(kPorts);
    for (uint16_t i = 0; i < kPorts; ++i) {
      ports_.push_back(std::make_unique<FakePort>(configs_[i], [this, i](unsigned, size_t room) {
        std::vector<Frame> frames;
        while (!waiting_[i].empty() && frames.size() < room) {
          frames.push_back(std::move(waiting_[i].front()));
          waiting_[i].pop_front();
        }
        return frames;
      }));
      (void)ports_[i]->start();
      topology_.sources[0].push_back({ports_[i]->rx_queues()[0], i});
      topology_.outputs[i] = {true, {ports_[i]->tx_queues()[0]}};
      topology_.flood_ports.push_back(i);
    }
  }

  void send(size_t port, Frame frame) { waiting_[port].push_back(std::move(frame)); }
  bool run(size_t port) { return turn_.run(topology_, topology_.sources[0][port], 0); }
  /// Teaches the switch that address 10 + i is behind port i.
  void learn_all() {
    for (uint8_t i = 0; i < kPorts; ++i) {
      send(i, {test::broadcast(static_cast<uint8_t>(10 + i))});
      run(i);
    }
  }

  uint64_t fates() const {
    uint64_t sum = 0;
    for (const auto& port : ports_) {
      sum +=
          port->out().packets.value() + test::all_drops(port->out()) + test::all_drops(port->in());
    }
    return sum;
  }
  uint64_t accepted() const {
    uint64_t sum = 0;
    for (const auto& port : ports_) sum += port->in().packets.value();
    return sum;
  }
  void expect_accounts_to_hold() const { EXPECT_EQ(accepted() + turn_.stats().made(), fates()); }

  test::LeakChecked pool_{1024, 512};
  std::unique_ptr<stage::Fdb> fdb_ =
      std::move(stage::Fdb::create({.capacity = 1024, .max_age_s = 300, .seed = 1}).value());
  Turn turn_{0, pool_.cache(), *fdb_};
  std::array<FakePort::Config, kPorts> configs_;
  std::array<std::deque<Frame>, kPorts> waiting_;
  std::vector<std::unique_ptr<FakePort>> ports_;
  Topology topology_;
};

TEST_F(TurnTest, NothingCameInNothingHappens) {
  Journal journal;
  for (auto& config : configs_) config.journal = &journal;
  start();
  EXPECT_FALSE(run(0));
  EXPECT_TRUE(journal.empty());
  EXPECT_EQ(turn_.stats().empty_turns, 1u);
}

TEST_F(TurnTest, IdleQueueGetsNoTurn) {
  Journal journal;
  configs_[0].journal = &journal;
  start();
  bool (*&idle)(void*) noexcept = topology_.sources[0][0].queue.idle;
  idle = [](void*) noexcept { return true; };
  send(0, {test::broadcast(10)});
  EXPECT_FALSE(run(0));
  EXPECT_TRUE(journal.empty());
  EXPECT_EQ(turn_.stats().empty_turns, 1u);
  idle = [](void*) noexcept { return false; };
  EXPECT_TRUE(run(0));
  EXPECT_EQ(turn_.stats().turns, 1u);
}

TEST_F(TurnTest, SendersAreCompletedBeforeReceiversAreFlushed) {
  Journal journal;
  for (auto& config : configs_) config.journal = &journal;
  start();
  learn_all();
  journal.clear();
  send(0, {test::ethernet(11, 10)});
  send(0, {test::ethernet(12, 10)});
  EXPECT_TRUE(run(0));
  EXPECT_EQ(journal, (Journal{"a.poll", "b.send", "c.send", "a.complete", "b.flush", "c.flush"}));
}

TEST_F(TurnTest, NobodyIsNotifiedBeforeAllIsShown) {
  Journal journal;
  for (auto& config : configs_) config.journal = &journal;
  for (const size_t port : {0, 2}) configs_[port].in_steps = true;
  start();
  learn_all();
  journal.clear();
  send(0, {test::ethernet(11, 10)});
  send(0, {test::ethernet(12, 10)});
  EXPECT_TRUE(run(0));
  EXPECT_EQ(journal, (Journal{"a.poll", "b.send", "c.send", "a.show", "b.flush", "c.show",
                              "a.notify", "c.notify"}));
}

TEST_F(TurnTest, ManyBurstsToOneReceiverAreOneFlush) {
  Journal journal;
  configs_[1].journal = &journal;
  start();
  learn_all();
  journal.clear();
  for (int i = 0; i < 8; ++i) {
    send(0, {test::ethernet(11, 10)});
    send(0, {test::broadcast(10)});
  }
  run(0);
  EXPECT_EQ(std::count(journal.begin(), journal.end(), "b.flush"), 1);
}

TEST_F(TurnTest, UnicastReachesItsPortOnlyAndUnchanged) {
  std::vector<Bytes> seen;
  configs_[2].sees = [&](const Packet& packet) { seen.push_back(test::bytes_of(packet)); };
  start();
  learn_all();
  seen.clear();
  std::vector<Bytes> frames;
  for (unsigned i = 0; i < 40; ++i) {
    frames.push_back(test::ethernet(12, 10, 60 + 50 * i, i));
    send(0, {frames.back()});
  }
  run(0);
  EXPECT_EQ(seen, frames);
  EXPECT_EQ(ports_[1]->out().packets.value(), 3u);  // only the broadcasts of learning
  EXPECT_EQ(ports_[3]->out().packets.value(), 3u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, FloodsReachAllOthersUnchanged) {
  std::array<std::vector<Bytes>, kPorts> seen;
  for (size_t i = 0; i < kPorts; ++i) {
    configs_[i].sees = [&seen, i](const Packet& packet) {
      seen[i].push_back(test::bytes_of(packet));
    };
  }
  start();
  std::vector<Bytes> frames;
  for (unsigned i = 0; i < 64; ++i) {
    frames.push_back(test::broadcast(10, 60 + 20 * i, i));
    send(1, {frames.back()});
  }
  run(1);
  EXPECT_TRUE(seen[1].empty());
  for (const size_t i : {0U, 2U, 3U}) EXPECT_EQ(seen[i], frames);
  EXPECT_EQ(turn_.stats().floods, 64u);
  EXPECT_EQ(turn_.stats().flood_copies, 192u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, PlaceHoldersGetTheirReasons) {
  start();
  learn_all();
  send(0, {test::ethernet(10, 10)});  // to itself
  Bytes multicast = test::broadcast(10);
  multicast[6] = std::byte{1};
  send(0, {multicast});
  send(0, {Bytes(13)});
  run(0);
  EXPECT_EQ(ports_[0]->in().drops.value(DropReason::same_port), 1u);
  EXPECT_EQ(ports_[0]->in().drops.value(DropReason::source_multicast), 1u);
  EXPECT_EQ(ports_[0]->in().drops.value(DropReason::runt), 1u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, PortThatWentAwayIsDown) {
  start();
  learn_all();
  topology_.outputs[1] = {};
  topology_.flood_ports = {0, 2, 3};
  send(0, {test::ethernet(11, 10)});
  run(0);
  EXPECT_EQ(ports_[0]->in().drops.value(DropReason::receiver_down), 1u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, AloneThereIsNobodyToFloodTo) {
  start();
  topology_.flood_ports = {0};
  send(0, {test::broadcast(10)});
  run(0);
  EXPECT_EQ(ports_[0]->in().drops.value(DropReason::no_destination), 1u);
  EXPECT_EQ(turn_.stats().floods, 0u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, SlowReceiverCostsItsOwnPacketsOnly) {
  unsigned asked = 0;
  configs_[1].takes = [&](size_t) {
    ++asked;
    return size_t{0};
  };
  configs_[2].takes = [](size_t) { return size_t{5}; };
  start();
  for (int i = 0; i < 20; ++i) send(0, {test::broadcast(10)});
  run(0);
  EXPECT_EQ(asked, 1u);  // a stuck one is not asked again
  EXPECT_EQ(ports_[1]->out().drops.value(DropReason::receiver_ring_full), 20u);
  EXPECT_EQ(ports_[2]->out().packets.value(), 20u);  // four times five
  EXPECT_EQ(ports_[3]->out().packets.value(), 20u);
  for (int i = 0; i < 30; ++i) send(0, {test::broadcast(10)});
  run(0);
  EXPECT_EQ(ports_[2]->out().drops.value(DropReason::receiver_ring_full), 10u);
  expect_accounts_to_hold();
}

PacketMeta gso(uint16_t size) {
  PacketMeta meta;
  meta.needs_csum = true;
  meta.csum_start = 34;
  meta.csum_offset = 16;
  meta.gso = GsoType::kTcp4;
  meta.gso_size = size;
  return meta;
}

TEST_F(TurnTest, LargePacketsAreCutOnlyForWhomTheyMust) {
  configs_[1].offloads = kTxChecksum | kTxTso4;
  configs_[2].offloads = kTxChecksum;
  start();
  Bytes frame = test::tcp_frame(5000);
  std::fill_n(frame.begin(), 6, std::byte{0xff});
  send(0, {frame, gso(1000)});
  run(0);
  EXPECT_EQ(ports_[1]->out().packets.value(), 1u);
  EXPECT_EQ(ports_[2]->out().packets.value(), 5u);
  EXPECT_EQ(ports_[3]->out().packets.value(), 5u);
  EXPECT_EQ(turn_.stats().gso_packets, 2u);
  EXPECT_EQ(turn_.stats().gso_segments, 10u);
  expect_accounts_to_hold();
}

constexpr uint32_t kJoin = kTxChecksum | kTxTso4 | kTxTso6 | kTxJoin;

/// Segment number `index` of 1000 bytes, whose checksum is left to the receiver.
Frame segment6(uint32_t index, uint8_t to, uint8_t from) {
  PacketMeta meta;
  meta.needs_csum = true;
  meta.csum_start = 54;
  meta.csum_offset = 16;
  Bytes frame = test::tcp_frame(1000, true, to, from);
  test::put_be16(&frame[60], index * 1000);  // the sequence number's lower half
  test::put_be16(&frame[70], 6 + 1020);      // of the pseudo header, whose addresses are 0
  return {frame, meta};
}

TEST_F(TurnTest, SegmentsAreJoinedForWhomItPays) {
  configs_[1].offloads = kJoin;
  configs_[2].offloads = kJoin & ~kTxJoin;
  configs_[3].offloads = kJoin & ~kTxTso6;
  std::vector<Bytes> seen;
  configs_[1].sees = [&](const Packet& packet) { seen.push_back(test::bytes_of(packet)); };
  start();
  learn_all();
  seen.clear();
  for (uint8_t to = 11; to <= 13; ++to) {
    for (uint32_t i = 0; i < 20; ++i) send(0, segment6(i, to, 10));
  }
  run(0);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].size(), 74u + 20 * 1000);
  for (uint32_t i = 0; i < 20; ++i) {
    const auto at = seen[0].begin() + 74 + 1000 * i;
    ASSERT_EQ(Bytes(at, at + 1000), test::pattern(1000)) << i;
  }
  EXPECT_EQ(turn_.stats().gro_segments, 20u);
  EXPECT_EQ(turn_.stats().gro_packets, 1u);
  EXPECT_EQ(ports_[2]->out().packets.value(), 20u + 3);
  EXPECT_EQ(ports_[3]->out().packets.value(), 20u + 3);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, FloodedSegmentsAreJoinedForOneAndNotForAnother) {
  configs_[1].offloads = kJoin;
  configs_[2].offloads = kTxChecksum;
  start();
  for (uint32_t i = 0; i < 64; ++i) send(0, segment6(i, 99, 10));
  run(0);
  EXPECT_EQ(ports_[1]->out().packets.value(), 1u);
  EXPECT_EQ(ports_[2]->out().packets.value(), 64u);
  EXPECT_EQ(ports_[3]->out().packets.value(), 64u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, AJoinedPacketThatIsNotTakenIsOneDrop) {
  configs_[1].offloads = kJoin;
  configs_[1].takes = [](size_t) { return size_t{0}; };
  start();
  for (uint32_t i = 0; i < 10; ++i) send(0, segment6(i, 99, 10));
  run(0);
  EXPECT_EQ(test::all_drops(ports_[1]->out()), 1u);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, ASenderOfLargePacketsIsNotLookedAt) {
  configs_[0].large = kTxTso4 | kTxTso6;
  configs_[1].offloads = kJoin;
  start();
  learn_all();
  for (uint32_t i = 0; i < 10; ++i) send(0, segment6(i, 11, 10));
  run(0);
  EXPECT_EQ(turn_.stats().gro_segments, 0u);
  EXPECT_EQ(ports_[1]->out().packets.value(), 10u + 3);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, SegmentsBeyondTheReceiversRoomAreItsDrops) {
  configs_[1].takes = [room = size_t{70}](size_t offered) mutable {
    const size_t taken = std::min(offered, room);
    room -= taken;
    return taken;
  };
  start();
  learn_all();
  send(0, {test::tcp_frame(64000, false, 11, 10), gso(100)});  // 640 segments
  run(0);
  EXPECT_EQ(ports_[1]->out().packets.value(), 70u);
  EXPECT_EQ(test::all_drops(ports_[1]->out()), 640u + 3 - 70);
  expect_accounts_to_hold();
}

TEST_F(TurnTest, EmptyPoolIsCounted) {
  start();
  for (int i = 0; i < 10; ++i) send(0, {test::broadcast(10, 300)});
  pool_.leave_packets(24);  // ten packets, and clones for fourteen of thirty
  run(0);
  uint64_t missing = 0;
  for (const auto& port : ports_) {
    missing += port->in().drops.value(DropReason::no_packets) +
               port->out().drops.value(DropReason::no_packets);
  }
  EXPECT_EQ(accepted(), 10u);
  EXPECT_EQ(turn_.stats().flood_copies, 30u);
  // Each port's clones are back before the next port's are made.
  EXPECT_EQ(missing, 0u);
  for (int i = 0; i < 10; ++i) send(0, {test::broadcast(10, 300)});
  pool_.leave_packets(14);
  run(0);
  for (const auto& port : ports_) missing += port->in().drops.value(DropReason::no_packets);
  EXPECT_EQ(missing, 18u);
  expect_accounts_to_hold();
}

/// Everything at once: random traffic, random receivers, random offloads, and the equation must
/// hold to the packet.
class RandomTurns : public TurnTest, public testing::WithParamInterface<unsigned> {};

TEST_P(RandomTurns, TheAccountsHold) {
  std::mt19937 random(GetParam());
  const auto pick = [&](size_t below) { return random() % below; };
  for (auto& config : configs_) {
    constexpr std::array<uint32_t, 5> kOffloads{0, kTxChecksum, kTxChecksum | kTxTso4,
                                                kTxChecksum | kTxTso4 | kTxTso6 | kTxTsoEcn, kJoin};
    config.offloads = kOffloads[pick(5)];
    config.takes = [&, mood = pick(4)](size_t offered) {
      if (mood == 0) return offered;
      if (mood == 1) return size_t{0};
      return pick(offered + 1);
    };
  }
  start();
  for (int round = 0; round < 200; ++round) {
    const size_t port = pick(kPorts);
    for (size_t n = pick(65); n != 0; --n) {
      const auto to = static_cast<uint8_t>(10 + pick(6));
      const auto from = static_cast<uint8_t>(10 + port);
      switch (pick(9)) {
        case 8: {
          const auto first = static_cast<uint32_t>(pick(60));
          for (uint32_t i = 0; i < 3; ++i) send(port, segment6(first + i, to, from));
          break;
        }
        case 0:
          send(port, {test::broadcast(from, 14 + pick(2000))});
          break;
        case 1:
          send(port, {test::tcp_frame(pick(9000), false, to, from),
                      gso(static_cast<uint16_t>(8 + pick(1500)))});
          break;
        case 2: {
          PacketMeta wild = gso(static_cast<uint16_t>(pick(3000)));
          wild.gso = static_cast<GsoType>(pick(5));
          wild.csum_start = static_cast<uint16_t>(pick(100));
          wild.csum_offset = static_cast<uint16_t>(pick(100));
          send(port, {test::tcp_frame(pick(1000), pick(2) != 0, to, from), wild});
          break;
        }
        case 3:
          send(port, {test::pattern(pick(100), random())});
          break;
        default:
          send(port, {test::ethernet(to, from, 14 + pick(1500))});
      }
    }
    if (pick(20) == 0) pool_.leave_packets(64 + pick(64));
    run(port);
    run(pick(kPorts));
  }
  EXPECT_GT(turn_.stats().gso_segments, 0u);
  EXPECT_GT(turn_.stats().flood_copies, 0u);
  expect_accounts_to_hold();
}

INSTANTIATE_TEST_SUITE_P(Turns, RandomTurns, testing::Range(0U, 20U));

}  // namespace
}  // namespace pollux
