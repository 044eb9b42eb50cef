// SPDX-License-Identifier: Apache-2.0
// What a driver puts into its control queue, byte by byte (VIRTIO 1.3, 2.7, 2.8 and 5.1.6.5), and
// devices that answer wrong.
#include "pollux/virtio/net_driver_control.hpp"

#include <gtest/gtest.h>

#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_commands.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux::virtio {
namespace {

using ring::RingError;
using test::Bytes;
using test::DriverImage;
using test::get_le;
using test::kAvail;
using test::kNext;
using test::kUsed;
using test::kWrite;
using test::PackedImage;
using test::put_le;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(NetCommands, AreBytes) {
  EXPECT_EQ(rx_mode_command(spec::VIRTIO_NET_CTRL_RX_PROMISC, true), bytes_of({0, 0, 1}));
  EXPECT_EQ(rx_mode_command(spec::VIRTIO_NET_CTRL_RX_NOBCAST, false), bytes_of({0, 5, 0}));
  EXPECT_EQ(mac_command(net::MacAddress({0x52, 0x54, 0, 0x12, 0x34, 0x56})),
            bytes_of({1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56}));
  EXPECT_EQ(queue_pairs_command(0x0102), bytes_of({4, 0, 2, 1}));
}

constexpr uint32_t kSize = 4;
constexpr uint32_t kRoom = 16;
constexpr uint64_t kRoomAddr = 0x4000;

/// The room as the device sees it.
struct Room {
  Room() : memory(kRoom, 1) {}
  [[nodiscard]] ControlRoom shared() const { return {memory.data(), kRoom, kRoomAddr}; }
  void ack(uint8_t value) const { memory.data()[kRoom - 1] = std::byte{value}; }
  [[nodiscard]] Bytes bytes(size_t count) const { return {memory.data(), memory.data() + count}; }
  test::GuardedMemory memory;
};

struct Split {
  Split() : control(ring::SplitDriverRing<>(image.layout()), room.shared()) {}

  /// Entry `slot` of the used ring, and the index behind it.
  void use(uint16_t slot, uint32_t id, uint32_t len) const {
    std::byte* used = image.used_memory().data();
    put_le(used + 4 + size_t{8} * slot, id);
    put_le(used + 8 + size_t{8} * slot, len);
    put_le(used + 2, static_cast<uint16_t>(slot + 1));
  }
  void expect_desc(uint32_t index, uint64_t addr, uint32_t len, uint16_t flags) const {
    const std::byte* at = image.desc_memory().data() + size_t{16} * index;
    EXPECT_EQ(get_le<uint64_t>(at), addr);
    EXPECT_EQ(get_le<uint32_t>(at + 8), len);
    EXPECT_EQ(get_le<uint16_t>(at + 12), flags);
  }

  DriverImage image{kSize};
  Room room;
  NetDriverControl<ring::SplitDriverRing<>> control;
};

TEST(NetDriverControl, Split) {
  Split s;
  EXPECT_TRUE(s.control.post(bytes_of({0, 0, 1})));
  EXPECT_EQ(s.image.avail_idx(), 1u);
  s.expect_desc(0, kRoomAddr, 3, kNext);
  EXPECT_EQ(get_le<uint16_t>(s.image.desc_memory().data() + 14), 1u) << "next";
  s.expect_desc(1, kRoomAddr + kRoom - 1, 1, kWrite);
  EXPECT_EQ(s.room.bytes(3), bytes_of({0, 0, 1}));
  EXPECT_FALSE(s.control.answer());
  EXPECT_FALSE(s.control.arm());
  s.room.ack(0);
  s.use(0, 0, 1);
  EXPECT_TRUE(s.control.arm());
  EXPECT_EQ(s.control.answer(), 0u);
  // The next one, which is refused.
  (void)s.control.post(bytes_of({4, 0, 9, 0}));
  EXPECT_EQ(s.image.avail_idx(), 2u);
  EXPECT_EQ(s.room.bytes(4), bytes_of({4, 0, 9, 0}));
  s.room.ack(1);
  s.use(1, 2, 1);
  EXPECT_EQ(s.control.answer(), 1u);
}

TEST(NetDriverControl, Packed) {
  PackedImage image(kSize);
  const Room room;
  NetDriverControl<ring::PackedDriverRing<>> control(ring::PackedDriverRing<>(image.layout()),
                                                     room.shared());
  EXPECT_TRUE(control.post(bytes_of({0, 0, 1})));
  EXPECT_EQ(image.addr(0), kRoomAddr);
  EXPECT_EQ(image.len(0), 3u);
  EXPECT_EQ(image.flags(0), kNext | kAvail);
  EXPECT_EQ(image.addr(1), kRoomAddr + kRoom - 1);
  EXPECT_EQ(image.len(1), 1u);
  EXPECT_EQ(image.flags(1), kWrite | kAvail);
  EXPECT_FALSE(control.answer());
  room.ack(0);
  // 2.8.4: the used descriptor has the chain's id and what was written, at the chain's first place.
  image.desc(0, 0, 1, image.id(1), kAvail | kUsed);
  EXPECT_EQ(control.answer(), 0u);
}

TEST(NetDriverControl, AnAnswerThatWasNotWrittenIsARefusal) {
  Split s;
  (void)s.control.post(bytes_of({0, 0, 1}));
  s.room.ack(0);
  s.use(0, 0, 0);
  EXPECT_EQ(s.control.answer(), 1u);
}

TEST(NetDriverControl, ADeviceThatLiesBreaksTheQueue) {
  const auto expect = [](uint32_t id, uint32_t len, RingError error) {
    Split s;
    (void)s.control.post(bytes_of({0, 0, 1}));
    s.room.ack(0);
    s.use(0, id, len);
    EXPECT_FALSE(s.control.answer());
    EXPECT_EQ(s.control.ring().error(), error);
    (void)s.control.post(bytes_of({0, 0, 1}));  // nothing comes of it
    EXPECT_EQ(s.image.avail_idx(), 1u);
  };
  expect(kSize, 1, RingError::used_range);
  expect(1, 1, RingError::used_not_outstanding);
  expect(0, 2, RingError::used_length);
}

}  // namespace
}  // namespace pollux::virtio
