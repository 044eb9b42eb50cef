// SPDX-License-Identifier: Apache-2.0
// Learning, forwarding, dispatching and flooding of bursts.
#include "pollux/stage/forward.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "pollux/stage/flood.hpp"
#include "pollux/stage/parse.hpp"
#include "tests/support/packets.hpp"

namespace pollux::stage {
namespace {

using test::Bytes;
using test::from_hex;
using test::PacketMaker;
using testing::ElementsAre;

constexpr uint64_t kBroadcastKey = 0xffff'ffff'ffff;
constexpr Output kSamePort = drop_output(DropReason::same_port);
constexpr Output kMulticastSource = drop_output(DropReason::source_multicast);
constexpr Output kRunt = drop_output(DropReason::runt);

/// Unicast address number i.
uint64_t station(uint64_t i) { return i << 8 | 0x02; }

class ForwardTest : public testing::Test {
 protected:
  ForwardTest() : fdb_(std::move(*Fdb::create({.capacity = 1024}))) {}

  void add(uint64_t destination, uint64_t source, size_t size = 60) {
    Bytes frame(size);
    for (size_t i = 0; i < 6; ++i) frame[i] = static_cast<uint8_t>(destination >> 8 * i);
    for (size_t i = 0; i < 6; ++i) frame[6 + i] = static_cast<uint8_t>(source >> 8 * i);
    frame[12] = 0x88;
    frame[13] = 0xb5;
    if (size > 14) frame[14] = serial_++;
    burst_.push(maker_.make(frame));
  }

  void add_runt(size_t size) { burst_.push(maker_.make(Bytes(size, 0x02))); }

  std::vector<Output> decide(uint16_t in_port) {
    parse(burst_);
    addresses_.read(burst_, *fdb_, outputs_);
    fdb_->learn(addresses_.sources(), 0, in_port, 1);
    forward(addresses_, *fdb_, in_port, outputs_);
    return {outputs_.of.begin(), outputs_.of.begin() + burst_.size()};
  }

  /// What dispatch hands over: output and the serial numbers of its packets.
  std::vector<std::pair<Output, std::vector<int>>> dispatched() {
    std::vector<std::pair<Output, std::vector<int>>> calls;
    dispatch(burst_, outputs_, scratch_, [&](Output output, Burst& packets) {
      calls.push_back({output, {}});
      for (Packet* packet : packets.packets()) {
        calls.back().second.push_back(static_cast<int>(packet->head()[14]));
      }
    });
    EXPECT_TRUE(burst_.empty());
    EXPECT_TRUE(scratch_.empty());
    return calls;
  }

  PacketMaker maker_;
  std::unique_ptr<Fdb> fdb_;
  Burst burst_{maker_.cache()};
  Burst scratch_{maker_.cache()};
  Burst held_{maker_.cache()};
  Addresses addresses_;
  Outputs outputs_;
  uint8_t serial_ = 0;
};

TEST_F(ForwardTest, UnknownAndGroupAddressesAreFlooded) {
  add(station(2), station(1));
  add(kBroadcastKey, station(1));
  add(0x0100'005e'0001, station(1));
  EXPECT_THAT(decide(0), ElementsAre(kFlood, kFlood, kFlood));
  EXPECT_TRUE(outputs_.uniform);
  EXPECT_EQ(fdb_->lookup(station(1), 0), 0);
}

TEST_F(ForwardTest, KnownAddressesGoToTheirPort) {
  fdb_->learn(station(2), 0, 5, 0);
  fdb_->learn(station(3), 0, 6, 0);
  add(station(2), station(1));
  add(station(2), station(1));
  add(station(3), station(1));
  add(station(2), station(1));
  EXPECT_THAT(decide(0), ElementsAre(5, 5, 6, 5));
  EXPECT_FALSE(outputs_.uniform);
}

TEST_F(ForwardTest, BackToWhereItCameFromIsDropped) {
  fdb_->learn(station(2), 0, 7, 0);
  add(station(2), station(1));
  EXPECT_THAT(decide(7), ElementsAre(kSamePort));
  EXPECT_TRUE(is_drop(kSamePort));
  EXPECT_EQ(drop_reason(kSamePort), DropReason::same_port);
}

TEST_F(ForwardTest, AddressLearnedInTheSameBurst) {
  add(station(9), station(1));
  add(station(1), station(9));
  EXPECT_THAT(decide(3), ElementsAre(kSamePort, kSamePort));
}

TEST_F(ForwardTest, GroupSourcesAreDroppedAndNotLearned) {
  add(station(2), kBroadcastKey);
  add(station(2), kBroadcastKey);
  add(station(2), station(1));
  EXPECT_THAT(decide(0), ElementsAre(kMulticastSource, kMulticastSource, kFlood));
  EXPECT_EQ(fdb_->size(), 1u);
}

TEST_F(ForwardTest, RuntsAreDroppedAndNotRead) {
  add_runt(0);
  add_runt(1);
  add_runt(13);
  add(station(2), station(1), 14);
  EXPECT_THAT(decide(0), ElementsAre(kRunt, kRunt, kRunt, kFlood));
  EXPECT_EQ(fdb_->size(), 1u);
}

TEST_F(ForwardTest, RefusedPacketsLeaveTheRestOfTheirRunAsItIs) {
  fdb_->learn(station(2), 0, 5, 0);
  add(station(2), station(1));
  add_runt(13);
  add(station(2), station(1));
  add(station(2), kBroadcastKey);
  add(station(2), station(1));
  EXPECT_THAT(decide(0), ElementsAre(5, kRunt, 5, kMulticastSource, 5));
  EXPECT_FALSE(outputs_.uniform);
}

TEST_F(ForwardTest, OneRunIsUniform) {
  fdb_->learn(station(2), 0, 5, 0);
  for (size_t i = 0; i < Burst::kCapacity; ++i) add(station(2), station(1));
  EXPECT_THAT(decide(0), testing::AllOf(testing::SizeIs(Burst::kCapacity), testing::Each(5)));
  EXPECT_TRUE(outputs_.uniform);
}

TEST_F(ForwardTest, WithoutLearning) {
  add_runt(13);
  add(station(2), station(1));
  addresses_.read(burst_, *fdb_, outputs_);
  forward(addresses_, *fdb_, 0, outputs_);
  EXPECT_EQ(outputs_.of[0], kRunt);
  EXPECT_EQ(outputs_.of[1], kFlood);
  EXPECT_EQ(fdb_->size(), 0u);
}

TEST_F(ForwardTest, EmptyBurst) {
  EXPECT_THAT(decide(0), ElementsAre());
  EXPECT_THAT(dispatched(), ElementsAre());
}

TEST_F(ForwardTest, EveryDropReasonIsAnOutputOfItsOwn) {
  for (size_t i = 0; i < kDropReasonCount; ++i) {
    const auto reason = static_cast<DropReason>(i);
    EXPECT_TRUE(is_drop(drop_output(reason)));
    EXPECT_EQ(drop_reason(drop_output(reason)), reason);
  }
  EXPECT_FALSE(is_drop(kMaxPort));
  EXPECT_FALSE(is_drop(kFlood));
  EXPECT_FALSE(is_drop(kUndecided));
}

TEST_F(ForwardTest, DispatchKeepsOrderWithinAnOutput) {
  fdb_->learn(station(2), 0, 5, 0);
  fdb_->learn(station(3), 0, 6, 0);
  add(station(2), station(1));
  add(station(3), station(1));
  add(station(4), station(1));
  add(station(2), station(1));
  add(station(3), station(1));
  decide(0);
  using Call = std::pair<Output, std::vector<int>>;
  EXPECT_THAT(dispatched(), ElementsAre(Call{5, {0, 3}}, Call{6, {1, 4}}, Call{kFlood, {2}}));
}

TEST_F(ForwardTest, DispatchHandsOverAUniformBurstItself) {
  add(station(2), station(1));
  add(station(2), station(1));
  decide(0);
  const Burst* seen = nullptr;
  dispatch(burst_, outputs_, scratch_, [&](Output, Burst& packets) {
    seen = &packets;
    EXPECT_EQ(packets.size(), 2u);
  });
  EXPECT_EQ(seen, &burst_);
  EXPECT_TRUE(burst_.empty());
}

TEST_F(ForwardTest, DispatchLosesNothing) {
  std::mt19937 random(6);
  for (int round = 0; round < 200; ++round) {
    std::map<Output, std::vector<int>> expected;
    serial_ = 0;
    const size_t count = random() % (Burst::kCapacity + 1);
    const unsigned ports = 1 + random() % 64;
    outputs_.reset();
    for (size_t i = 0; i < count; ++i) {
      add(station(1), station(2));
      outputs_.of[i] = static_cast<Output>(random() % ports);
      expected[outputs_.of[i]].push_back(static_cast<int>(i));
    }
    outputs_.uniform = expected.size() <= 1;
    const auto calls = dispatched();
    EXPECT_EQ((std::map<Output, std::vector<int>>(calls.begin(), calls.end())), expected);
    EXPECT_EQ(calls.size(), expected.size());
  }
}

class FloodTest : public ForwardTest {
 protected:
  void run(const std::vector<uint16_t>& ports, uint16_t in_port) {
    flood(
        burst_, ports, in_port, scratch_, held_,
        [&](uint16_t port, Burst& packets) {
          for (Packet* packet : packets.packets()) got_[port].push_back(test::bytes_of(*packet));
        },
        [&](DropReason reason, size_t count) { dropped_[reason] += count; });
    EXPECT_TRUE(burst_.empty());
    EXPECT_TRUE(scratch_.empty());
  }

  std::map<uint16_t, std::vector<Bytes>> got_;
  std::map<DropReason, size_t> dropped_;
};

TEST_F(FloodTest, EveryPortButTheSenderGetsACopy) {
  add(kBroadcastKey, station(1), 60);
  add(kBroadcastKey, station(1), 1500);
  const std::vector<Bytes> sent{test::bytes_of(burst_[0]), test::bytes_of(burst_[1])};
  run({0, 1, 2, 3}, 1);
  EXPECT_EQ(got_.size(), 3u);
  for (const uint16_t port : {0, 2, 3}) EXPECT_EQ(got_[port], sent) << port;
  EXPECT_EQ(held_.size(), 2u) << "originals outlive their clones";
  EXPECT_TRUE(dropped_.empty());
}

TEST_F(FloodTest, OneReceiverGetsTheOriginals) {
  add(kBroadcastKey, station(1), 1500);
  Packet* original = &burst_[0];
  flood(
      burst_, std::vector<uint16_t>{4, 9}, 4, scratch_, held_,
      [&](uint16_t port, Burst& packets) {
        EXPECT_EQ(port, 9);
        EXPECT_EQ(&packets[0], original);
      },
      [](DropReason, size_t) { ADD_FAILURE(); });
  EXPECT_TRUE(held_.empty());
}

TEST_F(FloodTest, NobodyThere) {
  add(kBroadcastKey, station(1));
  add(kBroadcastKey, station(1));
  run({3}, 3);
  EXPECT_TRUE(got_.empty());
  EXPECT_EQ(dropped_[DropReason::no_destination], 2u);
}

TEST_F(FloodTest, EmptyPool) {
  PacketMaker small(3, 16);  // two originals and one clone
  Burst burst(small.cache());
  Burst scratch(small.cache());
  Burst held(small.cache());
  for (int i = 0; i < 2; ++i) burst.push(small.make(Bytes(60, 2)));
  std::map<uint16_t, size_t> got;
  size_t lost = 0;
  flood(
      burst, std::vector<uint16_t>{0, 1, 2}, 0, scratch, held,
      [&](uint16_t port, Burst& packets) { got[port] += packets.size(); },
      [&](DropReason reason, size_t count) {
        EXPECT_EQ(reason, DropReason::no_packets);
        lost += count;
      });
  EXPECT_EQ(got[1], 1u);
  EXPECT_EQ(got[2], 1u);
  EXPECT_EQ(lost, 2u);
}

TEST_F(ForwardTest, ParseLooksOnlyAtOffloads) {
  const Bytes udp = from_hex(
      "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 0a000001 0a000002"
      "1000 1f90 0008 0000");
  burst_.push(maker_.make(udp));
  burst_.push(maker_.make(udp));
  burst_[1].meta.needs_csum = true;
  parse(burst_);
  EXPECT_FALSE(burst_[0].meta.parsed);
  EXPECT_TRUE(burst_[1].meta.parsed);
  EXPECT_EQ(burst_[1].meta.l4_offset, 34);
  ensure_parsed(burst_[0]);
  EXPECT_EQ(burst_[0].meta.l3_offset, 14);
  EXPECT_EQ(burst_[0].meta.payload_offset, 42);
  EXPECT_EQ(burst_[0].meta.ip_proto, 17);
  EXPECT_EQ(burst_[0].meta.ether_type, 0x0800);
}

}  // namespace
}  // namespace pollux::stage
