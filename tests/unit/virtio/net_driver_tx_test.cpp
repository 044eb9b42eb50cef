// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_driver_tx.hpp"

#include "tests/support/net_driver_fixture.hpp"

namespace pollux::virtio {
namespace {

using test::Bytes, test::net_header, test::NetQueue, test::pattern;
using test::operator+;

constexpr uint64_t kModern = spec::VIRTIO_F_VERSION_1;

class NetDriverTxTest : public test::PoolTest, public testing::WithParamInterface<test::RingKind> {
 protected:
  static constexpr uint64_t kTables = 0x9000;
  static constexpr uint32_t kEntries = 40;

  void open(uint64_t features, uint32_t size = 64) {
    queue = std::make_unique<NetQueue>(*pool, size, GetParam());
    if ((features & spec::VIRTIO_F_INDIRECT_DESC) != 0) {
      tables.resize(4 * kEntries);
      queue->set_tables({tables.data(), kTables, 4, kEntries});
    }
    tx = test::AnyDriverTx::make(*queue, *pool, {queue->window, features, max_buffers});
  }
  void TearDown() override {
    burst.clear();
    if (tx) tx->stop(*cache);
  }
  DropReason send() {
    const DropReason why = tx->send(burst, counters);
    (void)tx->publish();
    return why;
  }
  /// What the device finds in the next chain, after which it is done with it.
  Bytes receive(size_t elements) {
    const uint16_t head = queue->take();
    const auto chain = queue->chain(head);
    EXPECT_EQ(chain.size(), elements);
    for (const auto& desc : chain) EXPECT_EQ(desc.flags & spec::VIRTQ_DESC_F_WRITE, 0);
    Bytes all = queue->read(chain);
    queue->use(head, 0);
    return all;
  }
  uint64_t drops(DropReason reason) { return counters.drops.value(reason); }

  std::vector<spec::virtq_desc> tables;  // of either format: 16 bytes each
  uint32_t max_buffers = ~0u;
  std::unique_ptr<NetQueue> queue;
  std::unique_ptr<test::AnyDriverTx> tx;
  Burst burst{*cache};
};

TEST_P(NetDriverTxTest, HeadOnlyPacketsAreOneDescriptor) {
  open(kModern);
  for (const size_t size : {1, 14, 60, 64, 65, 128, 129, 192}) {
    burst.push(make_packet(pattern(size), 192));
    send();
    EXPECT_TRUE(burst.empty());
    EXPECT_EQ(receive(1), net_header(0) + pattern(size));
  }
  EXPECT_EQ(counters.packets.value(), 8u);
  EXPECT_EQ(counters.bytes.value(), 1u + 14 + 60 + 64 + 65 + 128 + 129 + 192);
}

TEST_P(NetDriverTxTest, TailIsSentFromItsOwnBufferWithTheHeadInFront) {
  open(kModern);
  Packet* packet = make_packet(pattern(1514), 128);
  std::byte* tail = packet->tail()[0].data;
  burst.push(packet);
  send();
  EXPECT_EQ(queue->at(queue->desc_addr(0)), tail - 128 - 12);
  EXPECT_EQ(receive(1), net_header(0) + pattern(1514));
}

TEST_P(NetDriverTxTest, GrownHeadIsStillInFrontIfThereIsRoom) {
  open(kModern);
  for (const uint32_t more : {50u, 116u, 117u}) {  // 12 + 128 + 116 is the head room
    Packet* packet = make_packet(pattern(1514), 128);
    ASSERT_TRUE(packet->prepend(more));
    std::fill_n(packet->head(), more, std::byte{0xaa});
    burst.push(packet);
    send();
    EXPECT_EQ(receive(more <= 116 ? 1 : 2), net_header(0) + Bytes(more, 0xaa) + pattern(1514));
  }
}

TEST_P(NetDriverTxTest, TrimmedHeadIsSentRight) {
  open(kModern);
  Packet* packet = make_packet(pattern(192), 192);
  ASSERT_TRUE(packet->trim_front(150));
  burst.push(packet);
  send();
  const Bytes all = pattern(192);
  EXPECT_EQ(receive(1), net_header(0) + Bytes(all.begin() + 150, all.end()));
}

TEST_P(NetDriverTxTest, SegmentsAreChainedDirectly) {
  open(kModern);
  burst.push(make_packet(pattern(9014), 128, 2000));
  send();
  EXPECT_EQ(receive(5), net_header(0) + pattern(9014));
}

TEST_P(NetDriverTxTest, SegmentsAreChainedThroughATable) {
  open(kModern | spec::VIRTIO_F_INDIRECT_DESC, 4);
  for (unsigned i = 0; i < 3; ++i) burst.push(make_packet(pattern(4014, i), 128, 2000));
  send();
  EXPECT_TRUE(burst.empty());
  EXPECT_EQ(queue->available(), 3) << "one descriptor each";
  EXPECT_EQ(queue->desc_flags(0), spec::VIRTQ_DESC_F_INDIRECT);
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(receive(2), net_header(0) + pattern(4014, i));
}

TEST_P(NetDriverTxTest, LegacyDevicesGetTheHeaderByItself) {
  open(0);
  Bytes legacy = net_header(0);
  legacy.resize(10);
  burst.push(make_packet(pattern(60), 192));
  burst.push(make_packet(pattern(1514), 128));
  burst.push(make_packet(pattern(4014), 128, 2000));
  send();
  EXPECT_EQ(receive(2), legacy + pattern(60));
  EXPECT_EQ(receive(2), legacy + pattern(1514));
  EXPECT_EQ(receive(3), legacy + pattern(4014));
}

TEST_P(NetDriverTxTest, BorrowedTailsAreCopied) {
  open(kModern);
  for (const size_t size : {200, 1514, 2048, 2049, 9014, 65549}) {
    Bytes foreign = pattern(size);  // not in the pool: nothing a device may see
    Packet* packet = cache->allocate();
    packet->set_head_size(128);
    std::memcpy(packet->head(), foreign.data(), 128);
    size_t at = 128;
    while (at < size) {
      const size_t n = std::min<size_t>(size - at, 3000);
      packet->append(
          {reinterpret_cast<std::byte*>(foreign.data()) + at, static_cast<uint32_t>(n), kBorrowed});
      at += n;
    }
    burst.push(packet);
    send();
    EXPECT_TRUE(burst.empty());
    EXPECT_EQ(receive((size + 2047) / 2048), net_header(0) + pattern(size)) << size;
  }
}

TEST_P(NetDriverTxTest, OffloadsGoIntoTheHeader) {
  open(kModern | spec::VIRTIO_NET_F_CSUM | spec::VIRTIO_NET_F_HOST_TSO4);
  Packet* packet = make_packet(pattern(100), 192);
  packet->meta.needs_csum = true;
  packet->meta.csum_start = 34;
  packet->meta.csum_offset = 16;
  burst.push(packet);
  packet = make_packet(pattern(4000), 128);
  packet->meta.needs_csum = true;
  packet->meta.csum_start = 34;
  packet->meta.csum_offset = 16;
  packet->meta.gso = GsoType::kTcp4;
  packet->meta.gso_size = 1448;
  packet->meta.payload_offset = 66;
  burst.push(packet);
  packet = make_packet(pattern(100), 192);
  packet->meta.csum_valid = true;
  burst.push(packet);
  send();
  EXPECT_EQ(receive(1), net_header(0, 1, 0, 0, 34, 16) + pattern(100));
  Bytes gso = net_header(0, 1, 1, 1448, 34, 16);
  gso[2] = 66;  // hdr_len
  EXPECT_EQ(receive(2), gso + pattern(4000));
  EXPECT_EQ(receive(1), net_header(0) + pattern(100)) << "DATA_VALID is not the driver's to set";
}

TEST_P(NetDriverTxTest, OffloadsThatTheDeviceDoesNotTakeAreDropped) {
  open(kModern | spec::VIRTIO_NET_F_CSUM | spec::VIRTIO_NET_F_HOST_TSO4);
  Packet* packet = make_packet(pattern(4000), 128);
  packet->meta.needs_csum = true;
  packet->meta.gso = GsoType::kTcp6;
  burst.push(packet);
  packet = make_packet(pattern(4000), 128);
  packet->meta.needs_csum = true;
  packet->meta.gso = GsoType::kTcp4;
  packet->meta.gso_ecn = true;  // without HOST_ECN
  burst.push(packet);
  burst.push(make_packet(pattern(60), 128));
  send();
  EXPECT_EQ(drops(DropReason::receiver_no_offload), 2u);
  EXPECT_EQ(receive(1), net_header(0) + pattern(60));
  EXPECT_EQ(counters.packets.value(), 1u);
}

TEST_P(NetDriverTxTest, TakesWhatFitsAndLeavesTheRest) {
  open(kModern, 16);
  for (unsigned i = 0; i < 40; ++i) burst.push(make_packet(pattern(60, i), 192));
  EXPECT_EQ(send(), DropReason::receiver_ring_full);
  EXPECT_EQ(burst.size(), 24u);
  EXPECT_EQ(send(), DropReason::receiver_ring_full);
  EXPECT_EQ(burst.size(), 24u);
  for (unsigned i = 0; i < 10; ++i) EXPECT_EQ(receive(1), net_header(0) + pattern(60, i));
  send();
  EXPECT_EQ(burst.size(), 14u);
  for (unsigned i = 10; i < 26; ++i) EXPECT_EQ(receive(1), net_header(0) + pattern(60, i));
  send();
  EXPECT_TRUE(burst.empty());
  for (unsigned i = 26; i < 40; ++i) EXPECT_EQ(receive(1), net_header(0) + pattern(60, i));
  EXPECT_EQ(counters.packets.value(), 40u);
}

TEST_P(NetDriverTxTest, AChainThatDoesNotFitNowWaits) {
  open(kModern, 4);
  burst.push(make_packet(pattern(60), 192));
  burst.push(make_packet(pattern(60), 192));
  burst.push(make_packet(pattern(6014), 128, 2000));
  EXPECT_EQ(send(), DropReason::receiver_ring_full);
  ASSERT_EQ(burst.size(), 1u);
  receive(1);
  send();
  EXPECT_TRUE(burst.empty());
  receive(1);
  EXPECT_EQ(receive(3), net_header(0) + pattern(6014));
}

TEST_P(NetDriverTxTest, AChainThatCanNeverFitIsDropped) {
  open(kModern, 4);
  burst.push(make_packet(pattern(10000), 128, 2000));
  burst.push(make_packet(pattern(60), 192));
  send();
  EXPECT_EQ(drops(DropReason::too_long), 1u);
  EXPECT_EQ(receive(1), net_header(0) + pattern(60));
}

TEST_P(NetDriverTxTest, WithoutBuffersPacketsStayWithTheCaller) {
  open(kModern);
  for (unsigned i = 0; i < 3; ++i) {
    burst.push(make_packet(pattern(1514, i), 128));  // brings its own
    burst.push(make_packet(pattern(60, i), 192));
  }
  std::vector<BufferIndex> all(1);
  while (cache->allocate_buffer(all.back())) all.emplace_back();
  all.pop_back();
  EXPECT_EQ(send(), DropReason::no_buffers);
  EXPECT_EQ(burst.size(), 5u);
  cache->release_buffer(all.back());
  all.pop_back();
  EXPECT_EQ(send(), DropReason::no_buffers);
  EXPECT_EQ(burst.size(), 3u);
  EXPECT_EQ(queue->available(), 3);
  for (const BufferIndex buffer : all) cache->release_buffer(buffer);
  send();
  EXPECT_TRUE(burst.empty());
}

TEST_P(NetDriverTxTest, ABrokenRingTakesNothingAndLosesNothing) {
  open(kModern);
  burst.push(make_packet(pattern(60), 192));
  send();
  queue->use(7, 0);  // never added
  for (unsigned i = 0; i < 3; ++i) burst.push(make_packet(pattern(60), 192));
  burst.push(make_packet(pattern(6014), 128));
  EXPECT_EQ(send(), DropReason::receiver_down);
  EXPECT_EQ(burst.size(), 4u);
  EXPECT_EQ(tx->error(), ring::RingError::used_not_outstanding);
  burst.release_front(3);
  EXPECT_EQ(send(), DropReason::receiver_down);
  EXPECT_EQ(burst.size(), 1u);
}

TEST_P(NetDriverTxTest, GivesTheDeviceNoMoreBuffersThanItMay) {
  max_buffers = 5;
  open(kModern);
  for (unsigned i = 0; i < 8; ++i) burst.push(make_packet(pattern(60), 192));
  EXPECT_EQ(send(), DropReason::receiver_ring_full);
  EXPECT_EQ(burst.size(), 3u);
  for (int i = 0; i < 4; ++i) receive(1);
  send();
  EXPECT_TRUE(burst.empty());
  burst.push(make_packet(pattern(6014), 128));
  send();
  EXPECT_TRUE(burst.empty()) << "a chain may overdraw once";
  burst.push(make_packet(pattern(60), 192));
  EXPECT_EQ(send(), DropReason::receiver_ring_full);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetDriverTxTest, testing::ValuesIn(test::kRingKinds),
                         [](const auto& kind) { return to_string(kind.param); });

}  // namespace
}  // namespace pollux::virtio
