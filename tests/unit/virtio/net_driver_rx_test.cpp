// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_driver_rx.hpp"

#include "tests/support/net_driver_fixture.hpp"

namespace pollux::virtio {
namespace {

using test::Bytes, test::bytes_of, test::net_header, test::NetQueue, test::pattern;
using test::operator+;

constexpr uint64_t kModern = spec::VIRTIO_F_VERSION_1;
constexpr uint64_t kMergeable = kModern | spec::VIRTIO_NET_F_MRG_RXBUF;

class NetDriverRxTest : public test::PoolTest, public testing::WithParamInterface<test::RingKind> {
 protected:
  void open(uint64_t features, uint32_t size = 64) {
    queue = std::make_unique<NetQueue>(*pool, size, GetParam());
    rx = test::AnyDriverRx::make(*queue, *pool, {queue->window, features, max_buffers});
    EXPECT_TRUE(rx->fill(*cache));
  }
  void TearDown() override {
    burst.clear();
    if (rx) rx->stop(*cache);
  }
  size_t poll() {
    (void)rx->poll(burst, counters);
    return burst.size();
  }
  uint64_t drops(DropReason reason) { return counters.drops.value(reason); }

  uint32_t max_buffers = ~0u;
  std::unique_ptr<NetQueue> queue;
  std::unique_ptr<test::AnyDriverRx> rx;
  Burst burst{*cache};
};

TEST_P(NetDriverRxTest, PostsOneDescriptorWithTheHeaderBeforeTheFrame) {
  open(kModern);
  EXPECT_EQ(queue->available(), 64);
  const auto chain = queue->chain(queue->take());
  ASSERT_EQ(chain.size(), 1u);
  EXPECT_EQ(chain[0].flags, spec::VIRTQ_DESC_F_WRITE);
  EXPECT_EQ(chain[0].len, 12 + 2048u);
  // The frame starts where the buffer's data does: on a cache line.
  EXPECT_EQ(reinterpret_cast<uintptr_t>(queue->at(chain[0].addr) + 12) % 64, 0u);
}

TEST_P(NetDriverRxTest, PostsTwoDescriptorsForALegacyDevice) {
  open(0);
  EXPECT_EQ(queue->available(), 32);
  const auto chain = queue->chain(queue->take());
  ASSERT_EQ(chain.size(), 2u);
  EXPECT_EQ(chain[0].len, 10u) << "the legacy header ends before num_buffers";
  EXPECT_EQ(chain[1].len, 2048u);
  EXPECT_EQ(chain[0].flags, spec::VIRTQ_DESC_F_WRITE | spec::VIRTQ_DESC_F_NEXT);
}

TEST_P(NetDriverRxTest, LegacyWithMergeableBuffersAndAnyLayoutUsesOne) {
  open(spec::VIRTIO_NET_F_MRG_RXBUF | spec::VIRTIO_F_ANY_LAYOUT);
  const auto chain = queue->chain(queue->take());
  ASSERT_EQ(chain.size(), 1u);
  EXPECT_EQ(chain[0].len, 12 + 2048u);
}

TEST_P(NetDriverRxTest, TakesFramesOfEverySizeUnchanged) {
  for (const uint64_t features : {uint64_t{0}, kModern, kMergeable}) {
    open(features, 16);
    const size_t hdr = features == 0 ? 10 : 12;
    for (const size_t size : {14, 60, 63, 64, 65, 127, 128, 129, 191, 192, 193, 1514, 2047, 2048}) {
      const Bytes frame = pattern(size);
      Bytes header = net_header(1);
      header.resize(hdr);
      queue->deliver(header + frame);
      ASSERT_EQ(poll(), 1u) << size;
      EXPECT_EQ(bytes_of(burst[0]), frame) << size;
      EXPECT_EQ(burst[0].head_size(), size <= 192 ? size : 128u);
      EXPECT_EQ(burst[0].tail().size(), size <= 192 ? 0u : 1u);
      burst.clear();
    }
    rx->stop(*cache);
    rx.reset();
  }
  EXPECT_EQ(counters.packets.value(), 3 * 14u);
}

TEST_P(NetDriverRxTest, BufferOfASmallFrameIsPostedAgain) {
  open(kModern, 16);
  const size_t before = pool->free_buffers();
  for (int i = 0; i < 1000; ++i) {
    queue->deliver(net_header(1) + pattern(60));
    ASSERT_EQ(poll(), 1u);
    burst.clear();
  }
  EXPECT_EQ(pool->free_buffers(), before);
  EXPECT_GE(queue->available(), 12);
}

TEST_P(NetDriverRxTest, LongFramesKeepTheirBufferAndTheQueueIsRefilled) {
  open(kModern, 16);
  for (int i = 0; i < 100; ++i) {
    for (unsigned k = 0; k < 8; ++k) queue->deliver(net_header(1) + pattern(1514, k));
    ASSERT_EQ(poll(), 8u);
    for (unsigned k = 0; k < 8; ++k) EXPECT_EQ(bytes_of(burst[k]), pattern(1514, k));
    burst.clear();
  }
}

TEST_P(NetDriverRxTest, GathersMergedBuffers) {
  open(kMergeable);
  for (const size_t size : {2049, 4096, 9014, 65535 + 14}) {
    const Bytes frame = pattern(size);
    const auto buffers = static_cast<uint16_t>((size + 12 + 2059) / 2060);
    ASSERT_EQ(queue->deliver(net_header(buffers) + frame), buffers);
    ASSERT_EQ(poll(), 1u) << size;
    EXPECT_EQ(bytes_of(burst[0]), frame) << size;
    EXPECT_EQ(burst[0].tail().size(), buffers);
    burst.clear();
  }
}

TEST_P(NetDriverRxTest, GathersTheHeadFromTinyPieces) {
  open(kMergeable);
  for (const size_t piece : {13u, 20u, 100u}) {
    const Bytes frame = pattern(600);
    const auto buffers = static_cast<uint16_t>((600 + 12 + piece - 1) / piece);
    queue->deliver(net_header(buffers) + frame, piece);
    if (buffers > 47) {  // 13 bytes: more pieces behind the head than a packet has segments
      ASSERT_EQ(poll(), 0u);
      EXPECT_EQ(drops(DropReason::too_long), 1u);
    } else {
      ASSERT_EQ(poll(), 1u);
      EXPECT_EQ(burst[0].head_size(), 128u);
      EXPECT_EQ(bytes_of(burst[0]), frame);
      burst.clear();
    }
  }
}

TEST_P(NetDriverRxTest, WaitsForTheRestOfAFrame) {
  open(kMergeable);
  const Bytes frame = pattern(4000);
  queue->deliver(net_header(2) + Bytes(frame.begin(), frame.begin() + 2048));
  EXPECT_EQ(poll(), 0u);
  EXPECT_EQ(poll(), 0u);
  queue->deliver(Bytes(frame.begin() + 2048, frame.end()));
  ASSERT_EQ(poll(), 1u);
  EXPECT_EQ(bytes_of(burst[0]), frame);
  EXPECT_EQ(rx->error(), ring::RingError::none);
}

TEST_P(NetDriverRxTest, StopsInTheMiddleOfAFrameWithoutLosingBuffers) {
  open(kMergeable);
  queue->deliver(net_header(3) + pattern(2000));
  EXPECT_EQ(poll(), 0u);
}  // PoolTest counts

TEST_P(NetDriverRxTest, TakesNoMoreThanTheBurstHasRoomFor) {
  open(kModern, 128);
  for (unsigned i = 0; i < 100; ++i) queue->deliver(net_header(1) + pattern(60, i));
  EXPECT_EQ(poll(), 64u);
  EXPECT_EQ(poll(), 64u);
  burst.release_front(60);
  EXPECT_EQ(poll(), 40u);
  EXPECT_EQ(bytes_of(burst[39]), pattern(60, 99));
}

TEST_P(NetDriverRxTest, ReadsOffloadsIntoMetadata) {
  open(kMergeable | spec::VIRTIO_NET_F_GUEST_CSUM);
  queue->deliver(net_header(1, spec::VIRTIO_NET_HDR_F_DATA_VALID) + pattern(100));
  queue->deliver(net_header(1, spec::VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 34, 16) + pattern(100));
  queue->deliver(net_header(1) + pattern(100));
  ASSERT_EQ(poll(), 3u);
  EXPECT_TRUE(burst[0].meta.csum_valid);
  EXPECT_TRUE(burst[1].meta.needs_csum);
  EXPECT_EQ(burst[1].meta.csum_start, 34);
  EXPECT_EQ(burst[1].meta.csum_offset, 16);
  EXPECT_FALSE(burst[2].meta.csum_valid || burst[2].meta.needs_csum);
}

TEST_P(NetDriverRxTest, RefusesOffloadsThatWereNotNegotiated) {
  open(kMergeable);
  queue->deliver(net_header(1, spec::VIRTIO_NET_HDR_F_DATA_VALID) + pattern(100));
  queue->deliver(net_header(1, spec::VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 34, 16) + pattern(100));
  queue->deliver(net_header(1, spec::VIRTIO_NET_HDR_F_NEEDS_CSUM, spec::VIRTIO_NET_HDR_GSO_TCPV4,
                            1000, 34, 16) +
                 pattern(1514));
  ASSERT_EQ(poll(), 1u);
  EXPECT_FALSE(burst[0].meta.csum_valid) << "nobody asked";
  EXPECT_EQ(drops(DropReason::bad_net_header), 2u);
}

TEST_P(NetDriverRxTest, WithoutPacketsFramesStayInTheQueue) {
  open(kModern);
  std::vector<Packet*> all;
  while (Packet* packet = cache->allocate()) all.push_back(packet);
  queue->deliver(net_header(1) + pattern(1000));
  EXPECT_EQ(poll(), 0u);
  for (Packet* packet : all) cache->release(packet);
  ASSERT_EQ(poll(), 1u);
  EXPECT_EQ(bytes_of(burst[0]), pattern(1000));
}

TEST_P(NetDriverRxTest, WithoutBuffersTheQueueRunsDryAndRecovers) {
  open(kModern, 16);
  std::vector<BufferIndex> all(1);
  while (cache->allocate_buffer(all.back())) all.emplace_back();
  all.pop_back();
  for (unsigned i = 0; i < 16; ++i) queue->deliver(net_header(1) + pattern(1000, i));
  ASSERT_EQ(poll(), 16u);
  EXPECT_EQ(queue->available(), 0);
  burst.clear();
  EXPECT_EQ(poll(), 0u);
  EXPECT_EQ(queue->available(), 16);
  for (const BufferIndex buffer : all) cache->release_buffer(buffer);
}

TEST_P(NetDriverRxTest, PostsNoMoreBuffersThanItMay) {
  max_buffers = 10;
  open(kModern);
  EXPECT_EQ(queue->available(), 10);
  for (int i = 0; i < 100; ++i) {
    queue->deliver(net_header(1) + pattern(1000));
    ASSERT_EQ(poll(), 1u);
    burst.clear();
    EXPECT_LE(queue->available(), 10);
  }
  rx->stop(*cache);
  open(0);
  EXPECT_EQ(queue->available(), 10) << "of two descriptors each";
}

INSTANTIATE_TEST_SUITE_P(Rings, NetDriverRxTest, testing::ValuesIn(test::kRingKinds),
                         [](const auto& kind) { return to_string(kind.param); });

}  // namespace
}  // namespace pollux::virtio
