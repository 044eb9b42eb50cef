// SPDX-License-Identifier: Apache-2.0
// vhost-user messages byte for byte, worked out by hand from the text (docs/interop/vhost-user.rst
// of QEMU): request, flags, size, payload, each in little-endian order.
#include <gtest/gtest.h>

#include "pollux/base/clock.hpp"
#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/codec.hpp"
#include "pollux/vhost/frontend.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using test::hex;
using test::make_event;
using test::make_memory;
using test::make_pair;
using test::to_hex;

std::string plain(std::string_view text) { return to_hex(hex(text)); }

// What a front end sends. flags: version 1, or 9 when a reply is wanted (bit 3).
struct FrontendBytes : testing::Test {
  std::pair<UniqueFd, UniqueFd> sockets = make_pair();
  int far = sockets.second.get();
  SteadyClock clock;
  Frontend frontend =
      *Frontend::adopt(std::move(sockets.first), {.clock = &clock, .timeout = Nanos(1)});

  void expect(std::string_view bytes, size_t fds = 0) {
    const auto got = test::receive_raw(far);
    EXPECT_EQ(to_hex(got.bytes), plain(bytes));
    EXPECT_EQ(got.fds, fds);
  }
  void answer(std::string_view bytes) { ASSERT_TRUE(test::send_raw(far, hex(bytes))); }
};

TEST_F(FrontendBytes, GetFeatures) {
  answer("01 00 00 00  05 00 00 00  08 00 00 00  00 80 00 70 01 00 00 00");
  EXPECT_EQ(*frontend.get_features(), 0x170008000U);
  expect("01 00 00 00  01 00 00 00  00 00 00 00");
}

TEST_F(FrontendBytes, SetFeatures) {
  ASSERT_TRUE(frontend.set_features(0x140000000));  // VERSION_1 and PROTOCOL_FEATURES
  expect("02 00 00 00  01 00 00 00  08 00 00 00  00 00 00 40 01 00 00 00");
}

TEST_F(FrontendBytes, SetOwner) {
  ASSERT_TRUE(frontend.set_owner());
  expect("03 00 00 00  01 00 00 00  00 00 00 00");
}

TEST_F(FrontendBytes, SetMemTable) {
  const UniqueFd first = make_memory(0x1000);
  const UniqueFd second = make_memory(0x3000);
  const SharedMemoryRegion regions[] = {
      {GuestAddr{0}, 0x1000, UserAddr{0x7f0102030000}, 0, first.get()},
      {GuestAddr{0x100000000}, 0x2000, UserAddr{0x7f0a0b0c0000}, 0x1000, second.get()},
  };
  ASSERT_TRUE(frontend.set_mem_table(regions));
  expect(
      "05 00 00 00  01 00 00 00  48 00 00 00"             // 8 + 2 * 32
      "02 00 00 00  00 00 00 00"                          // regions, padding
      "00 00 00 00 00 00 00 00  00 10 00 00 00 00 00 00"  // guest, size
      "00 00 03 02 01 7f 00 00  00 00 00 00 00 00 00 00"  // user, offset
      "00 00 00 00 01 00 00 00  00 20 00 00 00 00 00 00"  //
      "00 00 0c 0b 0a 7f 00 00  00 10 00 00 00 00 00 00",
      2);
}

TEST_F(FrontendBytes, SetVringNumAddrBase) {
  ASSERT_TRUE(frontend.set_vring_num(1, 1024));
  expect("08 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 04 00 00");
  ASSERT_TRUE(frontend.set_vring_addr(2, {.desc = UserAddr{0x7f0000001000},
                                          .used = UserAddr{0x7f0000003000},
                                          .avail = UserAddr{0x7f0000002000},
                                          .log_used = true,
                                          .log = GuestAddr{0x5000}}));
  expect(
      "09 00 00 00  01 00 00 00  28 00 00 00"
      "02 00 00 00  01 00 00 00"
      "00 10 00 00 00 7f 00 00"    // descriptor
      "00 30 00 00 00 7f 00 00"    // used
      "00 20 00 00 00 7f 00 00"    // available
      "00 50 00 00 00 00 00 00");  // log
  ASSERT_TRUE(frontend.set_vring_base(3, 0xfffe));
  expect("0a 00 00 00  01 00 00 00  08 00 00 00  03 00 00 00  fe ff 00 00");
}

TEST_F(FrontendBytes, GetVringBase) {
  answer("0b 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00  2a 00 00 00");
  EXPECT_EQ(*frontend.get_vring_base(1), 42U);
  expect("0b 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00");
}

TEST_F(FrontendBytes, KickCallErr) {
  const UniqueFd event = make_event();
  ASSERT_TRUE(frontend.set_vring_kick(0, event.get()));
  expect("0c 00 00 00  01 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00", 1);
  ASSERT_TRUE(frontend.set_vring_call(5, event.get()));
  expect("0d 00 00 00  01 00 00 00  08 00 00 00  05 00 00 00 00 00 00 00", 1);
  ASSERT_TRUE(frontend.set_vring_call(5, -1));  // bit 8: no descriptor
  expect("0d 00 00 00  01 00 00 00  08 00 00 00  05 01 00 00 00 00 00 00", 0);
  ASSERT_TRUE(frontend.set_vring_err(255, event.get()));
  expect("0e 00 00 00  01 00 00 00  08 00 00 00  ff 00 00 00 00 00 00 00", 1);
}

TEST_F(FrontendBytes, ProtocolFeaturesAndTheReplyTheyAskFor) {
  answer("0f 00 00 00  05 00 00 00  08 00 00 00  09 80 00 00 00 00 00 00");
  EXPECT_EQ(*frontend.get_protocol_features(), 0x8009U);
  expect("0f 00 00 00  01 00 00 00  00 00 00 00");
  ASSERT_TRUE(frontend.set_protocol_features(0x8));  // REPLY_ACK
  expect("10 00 00 00  01 00 00 00  08 00 00 00  08 00 00 00 00 00 00 00");
  answer("12 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00");
  ASSERT_TRUE(frontend.set_vring_enable(1, true));
  expect("12 00 00 00  09 00 00 00  08 00 00 00  01 00 00 00  01 00 00 00");
  answer("12 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00");
  const auto refused = frontend.set_vring_enable(1, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().what, "the back end refused SET_VRING_ENABLE");
}

TEST_F(FrontendBytes, QueueNumMtuRarp) {
  answer("11 00 00 00  05 00 00 00  08 00 00 00  04 00 00 00 00 00 00 00");
  EXPECT_EQ(*frontend.get_queue_num(), 4U);
  expect("11 00 00 00  01 00 00 00  00 00 00 00");
  ASSERT_TRUE(frontend.send_rarp({0x52, 0x54, 0x00, 0x12, 0x34, 0x56}));
  expect("13 00 00 00  01 00 00 00  08 00 00 00  52 54 00 12 34 56 00 00");
  ASSERT_TRUE(frontend.set_mtu(9000));
  expect("14 00 00 00  01 00 00 00  08 00 00 00  28 23 00 00 00 00 00 00");
}

TEST_F(FrontendBytes, MemorySlots) {
  answer("24 00 00 00  05 00 00 00  08 00 00 00  fd 01 00 00 00 00 00 00");
  EXPECT_EQ(*frontend.get_max_mem_slots(), 509U);
  expect("24 00 00 00  01 00 00 00  00 00 00 00");
  const UniqueFd memory = make_memory(0x2000);
  const SharedMemoryRegion region{GuestAddr{0x40000000}, 0x1000, UserAddr{0x7f0000000000}, 0x1000,
                                  memory.get()};
  ASSERT_TRUE(frontend.add_mem_reg(region));
  expect(
      "25 00 00 00  01 00 00 00  28 00 00 00  00 00 00 00 00 00 00 00"
      "00 00 00 40 00 00 00 00  00 10 00 00 00 00 00 00"
      "00 00 00 00 00 7f 00 00  00 10 00 00 00 00 00 00",
      1);
  ASSERT_TRUE(frontend.rem_mem_reg(region));
  expect(
      "26 00 00 00  01 00 00 00  28 00 00 00  00 00 00 00 00 00 00 00"
      "00 00 00 40 00 00 00 00  00 10 00 00 00 00 00 00"
      "00 00 00 00 00 7f 00 00  00 10 00 00 00 00 00 00",
      0);
}

TEST_F(FrontendBytes, SetLogBaseAndFd) {
  const UniqueFd log = make_memory(0x3000);
  answer("06 00 00 00  05 00 00 00  00 00 00 00");  // its own reply, without a payload
  ASSERT_TRUE(frontend.set_log_base(log.get(), 0x1000, 0x2000));
  expect("06 00 00 00  01 00 00 00  10 00 00 00  00 20 00 00 00 00 00 00  00 10 00 00 00 00 00 00",
         1);
  ASSERT_TRUE(frontend.set_log_fd(log.get()));
  expect("07 00 00 00  01 00 00 00  00 00 00 00", 1);
}

TEST_F(FrontendBytes, Status) {
  ASSERT_TRUE(frontend.set_status(15));
  expect("27 00 00 00  01 00 00 00  08 00 00 00  0f 00 00 00 00 00 00 00");
  answer("28 00 00 00  05 00 00 00  08 00 00 00  0b 00 00 00 00 00 00 00");
  EXPECT_EQ(*frontend.get_status(), 11U);
  expect("28 00 00 00  01 00 00 00  00 00 00 00");
}

// What a back end makes of the same bytes, and what it answers.
struct BackendBytes : testing::Test {
  test::RecordingDevice device;
  std::optional<BackendSession> session{std::in_place, device};
  std::pair<UniqueFd, UniqueFd> sockets = make_pair();
  MessageReader reader;
  MessageWriter writer;

  /// The reply's bytes, or "" when there is none.
  std::string ask(std::string_view bytes, const std::vector<int>& fds = {}) {
    EXPECT_TRUE(test::send_raw(sockets.second.get(), hex(bytes), fds));
    auto message = reader.read(sockets.first.get());
    EXPECT_TRUE(message && *message);
    auto reply = session->handle(std::move(**message));
    if (!reply) return "closed: " + reply.error().what;
    if (!*reply) return "";
    EXPECT_TRUE(writer.send(sockets.first.get(), std::move(**reply)));
    return to_hex(test::receive_raw(sockets.second.get()).bytes);
  }
};

TEST_F(BackendBytes, Negotiation) {
  device.offering.features = 0x130008000;      // VERSION_1, EVENT_IDX, INDIRECT_DESC, MRG_RXBUF
  device.offering.protocol_features = 0x8009;  // CONFIGURE_MEM_SLOTS, REPLY_ACK, MQ
  device.offering.queue_num = 4;
  session.emplace(device);
  EXPECT_EQ(ask("01 00 00 00  01 00 00 00  00 00 00 00"),
            plain("01 00 00 00  05 00 00 00  08 00 00 00  00 80 00 70 01 00 00 00"));
  EXPECT_EQ(ask("0f 00 00 00  01 00 00 00  00 00 00 00"),
            plain("0f 00 00 00  05 00 00 00  08 00 00 00  09 80 00 00 00 00 00 00"));
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  09 80 00 00 00 00 00 00"), "");
  EXPECT_EQ(session->state().protocol_features, 0x8009U);
  EXPECT_EQ(ask("11 00 00 00  01 00 00 00  00 00 00 00"),
            plain("11 00 00 00  05 00 00 00  08 00 00 00  04 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("24 00 00 00  01 00 00 00  00 00 00 00"),
            plain("24 00 00 00  05 00 00 00  08 00 00 00  fd 01 00 00 00 00 00 00"));
  EXPECT_EQ(ask("03 00 00 00  01 00 00 00  00 00 00 00"), "");
  // need_reply: acknowledged with zero; a bit that was not offered (bit 2) with another number.
  EXPECT_EQ(ask("02 00 00 00  09 00 00 00  08 00 00 00  00 00 00 40 01 00 00 00"),
            plain("02 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(device.negotiated, 0x100000000U);
  EXPECT_EQ(ask("02 00 00 00  09 00 00 00  08 00 00 00  04 00 00 40 01 00 00 00"),
            plain("02 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
}

TEST_F(BackendBytes, ARingFromItsFirstByteToItsLast) {
  const UniqueFd memory = make_memory(0x10000);
  const UniqueFd kick = make_event();
  const UniqueFd call = make_event();
  EXPECT_EQ(ask("02 00 00 00  01 00 00 00  08 00 00 00  00 00 00 40 01 00 00 00"), "");
  EXPECT_EQ(ask("05 00 00 00  01 00 00 00  28 00 00 00  01 00 00 00 00 00 00 00"
                "00 00 10 00 00 00 00 00  00 f0 00 00 00 00 00 00"   // guest 0x100000, 0xf000 bytes
                "00 00 00 00 00 7f 00 00  00 10 00 00 00 00 00 00",  // user, file offset 0x1000
                {memory.get()}),
            "");
  EXPECT_EQ(ask("08 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 01 00 00"), "");
  EXPECT_EQ(ask("0a 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  ff ff 00 00"), "");
  EXPECT_EQ(ask("09 00 00 00  01 00 00 00  28 00 00 00  01 00 00 00  00 00 00 00"
                "00 00 00 00 00 7f 00 00  00 30 00 00 00 7f 00 00"
                "00 20 00 00 00 7f 00 00  00 00 00 00 00 00 00 00"),
            "");
  EXPECT_EQ(ask("0d 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00", {call.get()}),
            "");
  EXPECT_EQ(ask("0c 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00", {kick.get()}),
            "");
  EXPECT_EQ(ask("12 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  01 00 00 00"), "");
  ASSERT_TRUE(device.running.contains(1));
  const RingStart& ring = device.running[1];
  EXPECT_TRUE(ring.controls.enabled);
  EXPECT_EQ(ring.base, 0xffffU);
  const auto& layout = std::get<ring::SplitLayout>(ring.layout);
  // The ring's descriptor table begins where the region does: 0x1000 into the file.
  const std::byte mark{0x5a};
  ASSERT_EQ(pwrite(memory.get(), &mark, 1, 0x1000), 1);
  EXPECT_EQ(*reinterpret_cast<const std::byte*>(layout.desc), mark);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.avail) -
                reinterpret_cast<const std::byte*>(layout.desc),
            0x2000);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.used) -
                reinterpret_cast<const std::byte*>(layout.desc),
            0x3000);
  EXPECT_EQ(ring.memory->translate(GuestAddr{0x100000}, 1, MemoryAccess::kRead).data,
            reinterpret_cast<std::byte*>(layout.desc));
  device.progress[1] = 2;
  EXPECT_EQ(ask("0b 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00"),
            plain("0b 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00  01 00 00 00"));
  EXPECT_TRUE(device.running.empty());
}

TEST_F(BackendBytes, APackedRing) {
  // "Vring descriptor indices for packed virtqueues": bits 0-14 are the available index, bit 15 its
  // wrap counter, bits 16-30 the used index, bit 31 its wrap counter. Here 3 and 1, 258 and 0.
  device.offering.features |= spec::VIRTIO_F_RING_PACKED;
  const UniqueFd memory = make_memory(0x10000);
  const UniqueFd kick = make_event();
  // Features VERSION_1 (32), RING_PACKED (34), and 30.
  EXPECT_EQ(ask("02 00 00 00  01 00 00 00  08 00 00 00  00 00 00 40 05 00 00 00"), "");
  EXPECT_EQ(ask("05 00 00 00  01 00 00 00  28 00 00 00  01 00 00 00 00 00 00 00"
                "00 00 10 00 00 00 00 00  00 f0 00 00 00 00 00 00"
                "00 00 00 00 00 7f 00 00  00 10 00 00 00 00 00 00",
                {memory.get()}),
            "");
  // 300 entries.
  EXPECT_EQ(ask("08 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  2c 01 00 00"), "");
  EXPECT_EQ(ask("0a 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  03 80 02 01"), "");
  // Descriptors, device area ("used"), driver area ("available"), log.
  EXPECT_EQ(ask("09 00 00 00  01 00 00 00  28 00 00 00  01 00 00 00  00 00 00 00"
                "00 00 00 00 00 7f 00 00  c4 12 00 00 00 7f 00 00"
                "c0 12 00 00 00 7f 00 00  00 00 00 00 00 00 00 00"),
            "");
  EXPECT_EQ(ask("0c 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00", {kick.get()}),
            "");
  ASSERT_TRUE(device.running.contains(1));
  const auto& layout = std::get<ring::PackedLayout>(device.running[1].layout);
  EXPECT_EQ(layout.size, 300U);
  const auto* first = reinterpret_cast<const std::byte*>(layout.desc);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.driver) - first, 0x12c0);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.device) - first, 0x12c4);
  EXPECT_EQ(ring::PackedPosition::from_wire(device.running[1].base),
            (ring::PackedPosition{{3, true}, {258, false}}));
  EXPECT_EQ(ask("0b 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00"),
            plain("0b 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00  03 80 02 01"));
}

TEST_F(BackendBytes, LogBaseAndFd) {
  const UniqueFd log = make_memory(0x3000);
  const UniqueFd event = make_event();
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  0a 00 00 00 00 00 00 00"), "");
  // REPLY_ACK makes no difference to a message with a reply of its own.
  const std::string place = "10 00 00 00  00 20 00 00 00 00 00 00  00 10 00 00 00 00 00 00";
  const std::string reply = plain("06 00 00 00  05 00 00 00  00 00 00 00");
  EXPECT_EQ(ask("06 00 00 00  01 00 00 00" + place, {log.get()}), reply);
  EXPECT_EQ(ask("06 00 00 00  09 00 00 00" + place, {log.get()}), reply);
  ASSERT_TRUE(session->dirty_log());
  EXPECT_EQ(session->dirty_log()->pages(), 0x10000U);
  EXPECT_EQ(ask("07 00 00 00  09 00 00 00  00 00 00 00", {event.get()}),
            plain("07 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  session->dirty_log()->mark(0, 1);
  session->tell_of_dirty_pages();
  session->tell_of_dirty_pages();
  uint64_t told = 0;
  ASSERT_EQ(read(event.get(), &told, sizeof told), 8);
  EXPECT_EQ(told, 1U);
}

TEST_F(BackendBytes, RarpAndMtu) {
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  14 00 00 00 00 00 00 00"), "");
  EXPECT_EQ(ask("13 00 00 00  01 00 00 00  08 00 00 00  52 54 00 12 34 56 00 00"), "");
  EXPECT_EQ(device.rarp.at(0), (std::array<uint8_t, 6>{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}));
  EXPECT_EQ(ask("14 00 00 00  01 00 00 00  08 00 00 00  dc 05 00 00 00 00 00 00"), "");
  EXPECT_EQ(device.mtu, 1500U);
}

TEST_F(BackendBytes, Config) {
  device.config_space = hex("52 54 00 12 34 56 01 00 04 00 dc 05");
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  00 02 00 00 00 00 00 00"), "");
  EXPECT_EQ(ask("18 00 00 00  01 00 00 00  12 00 00 00"
                "00 00 00 00  06 00 00 00  00 00 00 00  00 00 00 00 00 00"),
            plain("18 00 00 00  05 00 00 00  12 00 00 00"
                  "00 00 00 00  06 00 00 00  00 00 00 00  52 54 00 12 34 56"));
  EXPECT_EQ(ask("18 00 00 00  01 00 00 00  12 00 00 00"  // from 8 on there are only 4 bytes
                "08 00 00 00  06 00 00 00  00 00 00 00  00 00 00 00 00 00"),
            plain("18 00 00 00  05 00 00 00  00 00 00 00"));
}

TEST_F(BackendBytes, AddAndRemoveRegion) {
  const UniqueFd memory = make_memory(0x1000);
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  08 80 00 00 00 00 00 00"), "");
  const std::string region =
      "28 00 00 00  00 00 00 00 00 00 00 00"
      "00 00 00 40 00 00 00 00  00 10 00 00 00 00 00 00"
      "00 00 00 00 00 7f 00 00  00 00 00 00 00 00 00 00";
  EXPECT_EQ(ask("25 00 00 00  09 00 00 00" + region, {memory.get()}),
            plain("25 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_NE(session->memory()->find(GuestAddr{0x40000fff}), nullptr);
  EXPECT_EQ(ask("26 00 00 00  09 00 00 00" + region),
            plain("26 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(session->memory()->find(GuestAddr{0x40000fff}), nullptr);
  EXPECT_EQ(ask("26 00 00 00  09 00 00 00" + region),
            plain("26 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
}

}  // namespace
}  // namespace pollux::vhost
