// SPDX-License-Identifier: Apache-2.0
#include "pollux/packet/pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "pollux/packet/burst.hpp"

namespace pollux {
namespace {

constexpr uint32_t kPackets = 600;
constexpr uint32_t kBuffers = 40;

class PoolTest : public testing::Test {
 protected:
  PoolTest() {
    auto made = Pool::create({.name = "pool-test",
                              .packets = kPackets,
                              .buffers = kBuffers,
                              .buffer_size = 256,
                              .pages = HugePages::kNever});
    EXPECT_TRUE(made) << made.error().what;
    pool_ = std::move(*made);
    cache_ = std::make_unique<PoolCache>(*pool_);
  }

  void TearDown() override {
    cache_.reset();
    EXPECT_EQ(pool_->free_packets(), kPackets) << "packets were lost";
    EXPECT_EQ(pool_->free_buffers(), kBuffers) << "buffers were lost";
  }

  Packet* packet_with_head(const std::string& text) {
    Packet* packet = cache_->allocate();
    packet->set_head_size(static_cast<uint32_t>(text.size()));
    std::memcpy(packet->head(), text.data(), text.size());
    return packet;
  }

  static std::string text_of(const Packet& packet) {
    std::string out(packet.size(), '?');
    EXPECT_EQ(packet.copy_to(out.data(), 0, out.size()), out.size());
    return out;
  }

  static void borrow(Packet& packet, std::string& bytes) {
    packet.append({reinterpret_cast<std::byte*>(bytes.data()), static_cast<uint32_t>(bytes.size()),
                   kBorrowed});
  }

  /// Takes every buffer but `left` out of the pool until the returned packets are released.
  std::vector<Packet*> exhaust_buffers(uint32_t left) {
    std::vector<Packet*> holders;
    for (uint32_t taken = 0; taken < kBuffers - left;) {
      const uint32_t n = std::min<uint32_t>(kBuffers - left - taken, 30);
      holders.push_back(cache_->allocate());
      EXPECT_TRUE(cache_->append_room(*holders.back(), n * pool_->buffer_size()));
      taken += n;
    }
    return holders;
  }

  void release(const std::vector<Packet*>& packets) {
    for (Packet* packet : packets) cache_->release(packet);
  }

  std::unique_ptr<Pool> pool_;
  std::unique_ptr<PoolCache> cache_;
};

TEST(PoolConfig, RefusesWhatCanNotWork) {
  for (const PoolConfig& config :
       {PoolConfig{.packets = 0}, PoolConfig{.buffers = 0}, PoolConfig{.buffer_size = 63},
        PoolConfig{.buffer_size = 65537}}) {
    const auto made = Pool::create(config);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST_F(PoolTest, BuffersLieApartInTheSharedRegion) {
  const auto region = pool_->region().bytes();
  const std::byte* end = region.data();
  for (BufferIndex i = 0; i < kBuffers; ++i) {
    const std::byte* first = pool_->buffer_data(i) - Pool::kBufferHeadRoom;
    EXPECT_GE(first, end) << "buffer " << i << " overlaps the one before";
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    end = pool_->buffer_data(i) + pool_->buffer_size();
  }
  EXPECT_LE(end, region.data() + region.size());
}

TEST_F(PoolTest, HandsOutEveryPacketOnceAndThenNone) {
  std::set<Packet*> seen;
  std::vector<Packet*> held;
  while (Packet* packet = cache_->allocate()) {
    EXPECT_TRUE(seen.insert(packet).second);
    held.push_back(packet);
  }
  EXPECT_EQ(held.size(), kPackets);
  release(held);
  Packet* again = cache_->allocate();
  EXPECT_NE(again, nullptr);
  cache_->release(again);
}

TEST_F(PoolTest, ReusedPacketsAreEmpty) {
  std::string tail = "tail";
  Packet* packet = packet_with_head("head");
  borrow(*packet, tail);
  packet->meta.mark = 5;
  cache_->release(packet);
  Packet* again = cache_->allocate();
  EXPECT_EQ(again, packet);
  EXPECT_EQ(again->size(), 0u);
  EXPECT_EQ(again->meta.mark, 0u);
  cache_->release(again);
}

TEST_F(PoolTest, RoomIsInAsManyBuffersAsItTakes) {
  Packet* packet = packet_with_head("head");
  ASSERT_TRUE(cache_->append_room(*packet, 600));
  ASSERT_EQ(packet->tail().size(), 3u);
  EXPECT_EQ(packet->tail()[0].len, 256u);
  EXPECT_EQ(packet->tail()[1].len, 256u);
  EXPECT_EQ(packet->tail()[2].len, 88u);
  EXPECT_EQ(packet->size(), 604u);
  EXPECT_TRUE(packet->tail_owned());
  for (const Segment& segment : packet->tail()) {
    EXPECT_EQ(segment.data, pool_->buffer_data(segment.buffer));
    std::memset(segment.data, 'x', segment.len);
  }
  EXPECT_EQ(text_of(*packet), "head" + std::string(600, 'x'));
  cache_->release(packet);
}

TEST_F(PoolTest, RoomThatIsNotThereLeavesThePacketAsItWas) {
  const auto holders = exhaust_buffers(2);
  Packet* packet = packet_with_head("head");
  EXPECT_FALSE(cache_->append_room(*packet, 3 * 256));
  EXPECT_EQ(text_of(*packet), "head");
  EXPECT_TRUE(cache_->append_room(*packet, 2 * 256)) << "the two buffers went back";
  cache_->release(packet);
  release(holders);
}

TEST_F(PoolTest, RoomNeverExceedsThePacketsSegments) {
  Packet* packet = cache_->allocate();
  EXPECT_FALSE(cache_->append_room(*packet, (Packet::kMaxSegments + 1) * 256));
  EXPECT_TRUE(cache_->append_room(*packet, Packet::kMaxSegments * 256));
  EXPECT_FALSE(cache_->append_room(*packet, 1));
  cache_->release(packet);
}

TEST_F(PoolTest, OwningCopiesTheBytesOutOfTheSendersMemory) {
  std::string first(300, 'a');
  std::string second(100, 'b');
  Packet* packet = packet_with_head("head");
  borrow(*packet, first);
  borrow(*packet, second);
  packet->meta.in_port = 3;
  const std::string before = text_of(*packet);
  ASSERT_TRUE(cache_->make_owned(*packet));
  EXPECT_TRUE(packet->tail_owned());
  first.assign(300, 'X');  // the sender takes its buffers back
  second.assign(100, 'X');
  EXPECT_EQ(text_of(*packet), before);
  EXPECT_EQ(packet->meta.in_port, 3);
  EXPECT_TRUE(cache_->make_owned(*packet)) << "nothing to do the second time";
  EXPECT_EQ(text_of(*packet), before);
  cache_->release(packet);
}

TEST_F(PoolTest, OwningWithoutBuffersLeavesThePacketBorrowed) {
  const auto holders = exhaust_buffers(0);
  std::string tail(300, 'a');
  Packet* packet = packet_with_head("head");
  borrow(*packet, tail);
  EXPECT_FALSE(cache_->make_owned(*packet));
  EXPECT_TRUE(packet->tail_borrowed());
  EXPECT_EQ(text_of(*packet), "head" + tail);
  cache_->release(packet);
  release(holders);
}

TEST_F(PoolTest, CloneHasTheSameBytesAndOwnsNothing) {
  Packet* original = packet_with_head("head");
  ASSERT_TRUE(cache_->append_room(*original, 300));
  for (const Segment& segment : original->tail()) std::memset(segment.data, 't', segment.len);
  original->meta.hash = 99;
  Packet* clone = cache_->clone_borrowing(*original);
  ASSERT_NE(clone, nullptr);
  EXPECT_EQ(text_of(*clone), text_of(*original));
  EXPECT_EQ(clone->meta.hash, 99u);
  EXPECT_TRUE(clone->tail_borrowed());
  EXPECT_TRUE(original->tail_owned());
  clone->head()[0] = std::byte{'H'};
  EXPECT_EQ(text_of(*original).substr(0, 4), "head") << "each has a head of its own";
  cache_->release(clone);
  EXPECT_EQ(text_of(*original).size(), 304u);
  cache_->release(original);
}

TEST_F(PoolTest, ALentTailIsBorrowedWithItsList) {
  std::string bytes;
  for (int i = 0; i < 100; ++i) bytes += static_cast<char>('!' + i % 90);
  std::vector<Segment> list;
  for (char& c : bytes) list.push_back({reinterpret_cast<std::byte*>(&c), 1, kBorrowed});
  Packet* packet = packet_with_head("head");
  packet->lend_tail(list);
  EXPECT_EQ(packet->tail().size(), 100u);
  EXPECT_TRUE(packet->tail_borrowed());
  EXPECT_TRUE(packet->segments_full());
  EXPECT_EQ(text_of(*packet), "head" + bytes);
  Packet* clone = cache_->clone_borrowing(*packet);
  ASSERT_NE(clone, nullptr);
  ASSERT_TRUE(cache_->make_owned(*packet));
  EXPECT_EQ(text_of(*clone), "head" + bytes);
  std::fill(bytes.begin(), bytes.end(), 'X');
  EXPECT_NE(text_of(*packet), "head" + bytes);
  EXPECT_EQ(packet->size(), 104u);
  for (Packet* used : {packet, clone}) cache_->release(used);
  // Whoever gets them next finds their own lists in them.
  list.assign(100, Segment{});
  for (Packet* again : {cache_->allocate(), cache_->allocate()}) {
    borrow(*again, bytes);
    EXPECT_EQ(text_of(*again), bytes);
    cache_->release(again);
  }
}

TEST_F(PoolTest, CloneOfAHeadThatGrewAtTheFront) {
  Packet* original = packet_with_head(std::string(Packet::kHeadCapacity, 'h'));
  ASSERT_TRUE(original->prepend(Packet::kHeadRoom));
  std::memset(original->head(), 'r', Packet::kHeadRoom);
  Packet* clone = cache_->clone_borrowing(*original);
  ASSERT_NE(clone, nullptr);
  EXPECT_EQ(text_of(*clone), text_of(*original));
  cache_->release(clone);
  cache_->release(original);
}

TEST_F(PoolTest, CloneOfAnEmptyPoolIsNull) {
  Packet* original = packet_with_head("head");
  std::vector<Packet*> held;
  while (Packet* packet = cache_->allocate()) held.push_back(packet);
  EXPECT_EQ(cache_->clone_borrowing(*original), nullptr);
  release(held);
  cache_->release(original);
}

TEST_F(PoolTest, BurstKeepsOrderAndGivesBackWhatIsLeft) {
  Burst burst(*cache_);
  EXPECT_TRUE(burst.empty());
  for (uint32_t i = 0; i < Burst::kCapacity; ++i) {
    Packet* packet = cache_->allocate();
    packet->meta.mark = i;
    burst.push(packet);
  }
  EXPECT_EQ(burst.room(), 0u);
  Packet* first = burst.pop_front();
  EXPECT_EQ(first->meta.mark, 0u);
  burst.release_front(2);
  EXPECT_EQ(burst.room(), 3u);
  burst.push(first);  // the array's end is reached: what is left moves to its start
  ASSERT_EQ(burst.size(), Burst::kCapacity - 2);
  EXPECT_EQ(burst[0].meta.mark, 3u);
  EXPECT_EQ(burst.packets().back(), first);
}

TEST_F(PoolTest, BurstRetainsInOrderAndReleasesTheRest) {
  Burst burst(*cache_);
  for (uint32_t i = 0; i < 10; ++i) {
    Packet* packet = cache_->allocate();
    packet->meta.mark = i;
    burst.push(packet);
  }
  burst.release_front(1);
  burst.retain([](const Packet& packet) { return packet.meta.mark % 3 == 0; });
  ASSERT_EQ(burst.size(), 3u);
  EXPECT_EQ(burst[0].meta.mark, 3u);
  EXPECT_EQ(burst[1].meta.mark, 6u);
  EXPECT_EQ(burst[2].meta.mark, 9u);
  burst.retain([](const Packet&) { return false; });
  EXPECT_TRUE(burst.empty());
  EXPECT_EQ(burst.room(), Burst::kCapacity);
}

// Two workers: one allocates, the other releases, as with a packet that crosses a ring. The pool is
// larger than what the two caches may hold back.
TEST(Pool, PacketsAndBuffersCrossBetweenThreads) {
  constexpr int kRounds = 20000;
  constexpr uint32_t kCount = 2048;
  auto made = Pool::create(
      {.packets = kCount, .buffers = kCount, .buffer_size = 128, .pages = HugePages::kNever});
  ASSERT_TRUE(made) << made.error().what;
  Pool& pool = **made;
  std::atomic<Packet*> mailbox{nullptr};
  std::thread receiver([&] {
    PoolCache own(pool);
    for (int i = 0; i < kRounds; ++i) {
      Packet* packet = nullptr;
      while ((packet = mailbox.exchange(nullptr, std::memory_order_acquire)) == nullptr) {
        std::this_thread::yield();
      }
      EXPECT_EQ(packet->meta.mark, static_cast<uint32_t>(i));
      own.release(packet);
    }
  });
  auto cache = std::make_unique<PoolCache>(pool);
  for (int i = 0; i < kRounds; ++i) {
    Packet* packet = nullptr;
    while ((packet = cache->allocate()) == nullptr) std::this_thread::yield();
    packet->meta.mark = static_cast<uint32_t>(i);
    while (!cache->append_room(*packet, 100)) std::this_thread::yield();
    while (mailbox.load(std::memory_order_relaxed) != nullptr) std::this_thread::yield();
    mailbox.store(packet, std::memory_order_release);
  }
  receiver.join();
  cache.reset();
  EXPECT_EQ(pool.free_packets(), kCount);
  EXPECT_EQ(pool.free_buffers(), kCount);
}

}  // namespace
}  // namespace pollux
