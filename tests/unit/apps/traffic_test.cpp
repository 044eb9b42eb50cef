// SPDX-License-Identifier: Apache-2.0
// What `pollux gen` makes and `pollux sink` checks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "apps/traffic/checker.hpp"
#include "apps/traffic/flow.hpp"
#include "apps/traffic/histogram.hpp"
#include "apps/traffic/pattern.hpp"
#include "apps/traffic/source.hpp"
#include "pollux/packet/fill.hpp"

namespace pollux::apps {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TrafficTest : public testing::Test {
 protected:
  std::vector<uint8_t> frame_of(const Pattern& pattern, uint64_t sequence, uint64_t time = 0) {
    Packet* packet = cache_.allocate();
    EXPECT_TRUE(pattern.make(*packet, cache_, sequence, time));
    std::vector<uint8_t> frame(packet->size());
    packet->copy_to(frame.data(), 0, frame.size());
    cache_.release(packet);
    return frame;
  }
  void give(Checker& checker, const std::vector<uint8_t>& frame, uint64_t now = 0) {
    Packet* packet = cache_.allocate();
    ASSERT_TRUE(fill(*packet, cache_, std::as_bytes(std::span(frame))));
    checker.take(*packet, now);
    cache_.release(packet);
  }

  std::unique_ptr<Pool> pool_ = std::move(
      Pool::create({.name = "test", .packets = 64, .buffers = 256, .pages = HugePages::kNever})
          .value());
  PoolCache cache_{*pool_};
};

/// The Internet checksum as RFC 1071 writes it down; 0 over data that holds its own.
uint16_t checksum(const uint8_t* data, size_t size, uint32_t sum = 0) {
  for (size_t i = 0; i + 1 < size; i += 2) sum += data[i] << 8 | data[i + 1];
  if (size % 2 != 0) sum += data[size - 1] << 8;
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

TEST_F(TrafficTest, FramesAreValidUdpOverIpv4) {
  PatternConfig config;
  config.mix = SizeMix::parse("60,61,64,191,192,193,1514,1518,9018,65535").value();
  config.flows = 7;
  const Pattern pattern(config);
  for (uint64_t sequence = 0; sequence < 500; ++sequence) {
    const auto frame = frame_of(pattern, sequence, 12345);
    ASSERT_EQ(frame.size(), pattern.size_of(sequence));
    EXPECT_EQ(frame[12] << 8 | frame[13], 0x0800);
    EXPECT_EQ(frame[16] << 8 | frame[17], static_cast<int>(frame.size()) - 14);
    EXPECT_EQ(checksum(frame.data() + 14, 20), 0) << sequence;
    const auto udp_len = static_cast<uint32_t>(frame.size() - 34);
    EXPECT_EQ(frame[38] << 8 | frame[39], static_cast<int>(udp_len));
    uint32_t pseudo = 17 + udp_len;
    for (size_t i = 26; i < 34; i += 2) pseudo += frame[i] << 8 | frame[i + 1];
    EXPECT_EQ(checksum(frame.data() + 34, udp_len, pseudo), 0) << sequence;
    EXPECT_NE(frame[40] << 8 | frame[41], 0);
  }
}

TEST_F(TrafficTest, FlowsDifferAndRepeat) {
  PatternConfig config;
  config.flows = 300;
  const Pattern pattern(config);
  const auto first = frame_of(pattern, 0);
  const auto other = frame_of(pattern, 299);
  EXPECT_THAT(std::vector(other.begin() + 6, other.begin() + 12),
              ElementsAre(0x02, 0, 0x0a, 0, 0x01, 0x2c));  // 1 + 299
  EXPECT_NE(std::vector(first.begin() + 26, first.begin() + 36),
            std::vector(other.begin() + 26, other.begin() + 36));
  const auto again = frame_of(pattern, 300);
  EXPECT_EQ(std::vector(first.begin(), first.begin() + 38),
            std::vector(again.begin(), again.begin() + 38));
}

TEST(PatternConfig, KnowsWhenAFlowIsTheDestination) {
  PatternConfig config;
  config.flows = 1 << 20;
  EXPECT_FALSE(config.sends_to_itself());
  config.src = {2, 0, 0, 0, 0, 0xa0};
  config.dst = {2, 0, 0, 0, 0, 0xb0};
  config.flows = 16;
  EXPECT_FALSE(config.sends_to_itself());
  config.flows = 17;
  EXPECT_TRUE(config.sends_to_itself());
}

TEST_F(TrafficTest, SizesComeInProportion) {
  PatternConfig config;
  config.mix = SizeMix::parse("64:7,570:4,1518:1").value();
  const Pattern pattern(config);
  int small = 0;
  int large = 0;
  for (uint64_t i = 0; i < 1200; ++i) {
    small += pattern.size_of(i) == 64 ? 1 : 0;
    large += pattern.size_of(i) == 1518 ? 1 : 0;
  }
  EXPECT_EQ(small, 700);
  EXPECT_EQ(large, 100);
}

TEST_F(TrafficTest, SizesThatAreRefused) {
  for (const char* wrong : {"", "59", "65536", "64:0", "64:", "64,,65", "a", "64:1001"}) {
    auto mix = SizeMix::parse(wrong);
    ASSERT_FALSE(mix) << wrong;
    EXPECT_THAT(mix.error().what, HasSubstr("sizes from 60"));
  }
}

TEST_F(TrafficTest, TheCheckerTakesWhatThePatternMakes) {
  PatternConfig config;
  config.mix = SizeMix::parse("60,61,193,1514,9018").value();
  config.seed = 99;
  const Pattern pattern(config);
  Checker checker(99);
  for (uint64_t i = 0; i < 100; ++i) give(checker, frame_of(pattern, i, 1000), 1500);
  EXPECT_EQ(checker.results().frames, 100u);
  EXPECT_EQ(checker.results().unique, 100u);
  EXPECT_EQ(checker.results().corrupt, 0u);
  EXPECT_EQ(checker.missing(), 0u);
  EXPECT_EQ(checker.latency().max(), 500u);
  Checker stranger(98);
  give(stranger, frame_of(pattern, 2, 0));  // longer than the stamp
  give(stranger, frame_of(pattern, 3, 0));
  EXPECT_GE(stranger.results().corrupt, 1u);
}

// Whatever byte behind the MAC addresses is changed, the frame does not count as good.
TEST_F(TrafficTest, TheCheckerSeesEveryChangedByte) {
  PatternConfig config;
  config.mix = SizeMix::parse("301").value();
  const Pattern pattern(config);
  const auto good = frame_of(pattern, 5);
  for (size_t at = 12; at < good.size(); ++at) {
    auto frame = good;
    frame[at] ^= 0x10;
    Checker checker(config.seed);
    give(checker, frame);
    EXPECT_EQ(checker.results().unique, 0u) << "byte " << at;
    EXPECT_EQ(checker.results().corrupt + checker.results().foreign, 1u) << "byte " << at;
  }
  auto shorter = good;
  shorter.pop_back();
  auto longer = good;
  longer.push_back(0);
  Checker checker(config.seed);
  give(checker, shorter);
  give(checker, longer);
  EXPECT_EQ(checker.results().corrupt, 2u);
}

TEST_F(TrafficTest, FramesOfOthersAreForeign) {
  Checker checker(1);
  give(checker, std::vector<uint8_t>(60));
  give(checker, std::vector<uint8_t>(14));
  EXPECT_EQ(checker.results().foreign, 2u);
  EXPECT_EQ(checker.results().frames, 0u);
}

TEST(SequenceTracker, LossReorderAndDuplicates) {
  using Verdict = SequenceTracker::Verdict;
  SequenceTracker tracker;
  EXPECT_EQ(tracker.take(10), Verdict::kInOrder);
  EXPECT_EQ(tracker.take(11), Verdict::kInOrder);
  EXPECT_EQ(tracker.take(14), Verdict::kInOrder);
  EXPECT_EQ(tracker.missing(), 2u);
  EXPECT_EQ(tracker.take(12), Verdict::kLate);
  EXPECT_EQ(tracker.missing(), 1u);
  EXPECT_EQ(tracker.take(12), Verdict::kDuplicate);
  EXPECT_EQ(tracker.take(14), Verdict::kDuplicate);
  EXPECT_EQ(tracker.missing(), 1u);
  EXPECT_EQ(tracker.unique(), 4u);
}

TEST(SequenceTracker, LongGaps) {
  SequenceTracker tracker;
  EXPECT_EQ(tracker.take(0), SequenceTracker::Verdict::kInOrder);
  EXPECT_EQ(tracker.take(1'000'000), SequenceTracker::Verdict::kInOrder);
  EXPECT_EQ(tracker.missing(), 999'999u);
  EXPECT_EQ(tracker.take(999'999), SequenceTracker::Verdict::kLate);
  EXPECT_EQ(tracker.take(999'999), SequenceTracker::Verdict::kDuplicate);
  EXPECT_EQ(tracker.missing(), 999'998u);
}

TEST(Histogram, PercentilesWithinThreePercent) {
  Histogram histogram;
  EXPECT_EQ(histogram.percentile(0.5), 0u);
  for (uint64_t i = 1; i <= 100'000; ++i) histogram.add(i);
  for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const double exact = share * 100'000;
    EXPECT_NEAR(static_cast<double>(histogram.percentile(share)), exact, exact * 0.032);
  }
  EXPECT_EQ(histogram.percentile(1), 100'000u);
  EXPECT_EQ(histogram.max(), 100'000u);
  EXPECT_EQ(histogram.min(), 1u);
  EXPECT_EQ(histogram.mean(), 50'000u);
}

TEST(Histogram, TwoAddUpToOne) {
  Histogram both;
  Histogram low;
  Histogram high;
  for (uint64_t i = 1; i <= 1000; ++i) {
    both.add(i * i);
    (i <= 400 ? low : high).add(i * i);
  }
  low.add(high);
  for (const double share : {0.1, 0.4, 0.5, 0.99, 1.0}) {
    EXPECT_EQ(low.percentile(share), both.percentile(share));
  }
  EXPECT_EQ(low.total(), 1000u);
  EXPECT_EQ(low.mean(), both.mean());
  EXPECT_EQ(low.min(), 1u);
  EXPECT_EQ(low.max(), 1'000'000u);
}

TEST(Histogram, SmallAndHugeValues) {
  Histogram histogram;
  histogram.add(0);
  histogram.add(31);
  histogram.add(32);
  histogram.add(~uint64_t{0});
  EXPECT_EQ(histogram.percentile(0.25), 0u);
  EXPECT_EQ(histogram.percentile(0.5), 31u);
  EXPECT_EQ(histogram.percentile(0.75), 32u);
  EXPECT_EQ(histogram.percentile(1), ~uint64_t{0});
}

/// A queue that has room for so many packets, and keeps nothing.
struct NarrowQueue {
  size_t room = 0;
  uint64_t taken = 0;
  static DropReason send(void* self, Burst& burst) noexcept {
    auto& queue = *static_cast<NarrowQueue*>(self);
    const size_t n = std::min(queue.room, burst.size());
    queue.room -= n;
    queue.taken += n;
    burst.release_front(n);
    return DropReason::receiver_ring_full;
  }
};

TEST_F(TrafficTest, TheSenderKeepsWhatDoesNotFit) {
  NarrowQueue queue{.room = 10};
  const PatternSource source({});
  Sender sender(cache_, {&queue, NarrowQueue::send, nullptr, nullptr, nullptr}, source,
                {.count = 40});
  EXPECT_EQ(sender.turn(1, 64), 10u);
  EXPECT_EQ(sender.sent(), 10u);
  queue.room = 100;
  EXPECT_EQ(sender.turn(2, 64), 30u);  // 22 that were left, and 8 more
  EXPECT_EQ(sender.sent(), 40u);
  EXPECT_TRUE(sender.done());
}

TEST_F(TrafficTest, TheSenderKeepsTheRate) {
  NarrowQueue queue{.room = 1'000'000};
  const PatternSource source({});
  Sender sender(cache_, {&queue, NarrowQueue::send, nullptr, nullptr, nullptr}, source,
                {.count = {}, .rate = 1000});
  uint64_t now = 1'000'000'000;
  for (int i = 0; i < 10'000; ++i, now += 100'000) (void)sender.turn(now, 64);  // 1 s
  EXPECT_NEAR(static_cast<double>(sender.sent()), 1000, 2);
  now += 60'000'000'000;  // a pause is not made up for
  for (int i = 0; i < 100; ++i) (void)sender.turn(now, 64);
  EXPECT_LT(sender.sent(), 1100u);
}

}  // namespace
}  // namespace pollux::apps
