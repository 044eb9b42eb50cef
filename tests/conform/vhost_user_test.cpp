// SPDX-License-Identifier: Apache-2.0
// vhost-user messages byte for byte, worked out by hand from the text (docs/interop/vhost-user.rst
// of QEMU): request, flags, size, payload, each in little-endian order.
#include <gtest/gtest.h>

#include "pollux/base/clock.hpp"
#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/codec.hpp"
#include "pollux/vhost/frontend.hpp"
#include "pollux/vhost/frontend_channel.hpp"
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

TEST_F(FrontendBytes, Postcopy) {
  const UniqueFd faults = make_event();
  ASSERT_TRUE(test::send_raw(far, hex("1c 00 00 00  05 00 00 00  00 00 00 00"), {faults.get()}));
  EXPECT_TRUE(frontend.postcopy_advise());
  expect("1c 00 00 00  01 00 00 00  00 00 00 00");
  ASSERT_TRUE(frontend.postcopy_listen());
  expect("1d 00 00 00  01 00 00 00  00 00 00 00");
  const UniqueFd memory = make_memory(0x1000);
  const SharedMemoryRegion region{GuestAddr{0x1000}, 0x1000, UserAddr{0x7f0102030000}, 0,
                                  memory.get()};
  answer(
      "05 00 00 00  05 00 00 00  28 00 00 00  01 00 00 00  00 00 00 00"
      "00 10 00 00 00 00 00 00  00 10 00 00 00 00 00 00"
      "00 00 cc bb aa 7f 00 00  00 00 00 00 00 00 00 00");  // where the back end has it
  EXPECT_EQ(*frontend.postcopy_mem_table({&region, 1}),
            std::vector<UserAddr>{UserAddr{0x7faabbcc0000}});
  expect(
      "05 00 00 00  01 00 00 00  28 00 00 00  01 00 00 00  00 00 00 00"
      "00 10 00 00 00 00 00 00  00 10 00 00 00 00 00 00"
      "00 00 03 02 01 7f 00 00  00 00 00 00 00 00 00 00",
      1);
  ASSERT_TRUE(frontend.postcopy_go());
  expect("05 00 00 00  01 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00");
  answer("1e 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00");
  ASSERT_TRUE(frontend.postcopy_end());
  expect("1e 00 00 00  01 00 00 00  00 00 00 00");
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

TEST_F(FrontendBytes, ResetDeviceAndOwner) {
  ASSERT_TRUE(frontend.reset_device());
  expect("22 00 00 00  01 00 00 00  00 00 00 00");
  ASSERT_TRUE(frontend.reset_owner());
  expect("04 00 00 00  01 00 00 00  00 00 00 00");
}

TEST_F(FrontendBytes, Config) {
  answer(
      "18 00 00 00  05 00 00 00  0e 00 00 00"
      "0a 00 00 00  02 00 00 00  00 00 00 00  dc 05");
  EXPECT_EQ(to_hex(*frontend.get_config(10, 2)), "dc 05");
  expect(
      "18 00 00 00  01 00 00 00  0e 00 00 00"
      "0a 00 00 00  02 00 00 00  00 00 00 00  00 00");
  answer("18 00 00 00  05 00 00 00  00 00 00 00");  // no payload: there is no such part
  EXPECT_EQ(frontend.get_config(250, 16).error().code, ErrorCode::kInvalidArgument);
  expect(
      "18 00 00 00  01 00 00 00  1c 00 00 00"
      "fa 00 00 00  10 00 00 00  00 00 00 00  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00");
  answer(
      "18 00 00 00  05 00 00 00  0e 00 00 00"
      "0b 00 00 00  02 00 00 00  00 00 00 00  dc 05");  // another offset
  EXPECT_EQ(frontend.get_config(10, 2).error().code, ErrorCode::kProtocol);
  (void)test::receive_raw(far);
  ASSERT_TRUE(frontend.set_config(6, hex("01 00")));
  expect(
      "19 00 00 00  01 00 00 00  0e 00 00 00"
      "06 00 00 00  02 00 00 00  00 00 00 00  01 00");
  ASSERT_TRUE(frontend.set_config(0, hex("52"), true));  // of a guest that moved here: flags 1
  expect(
      "19 00 00 00  01 00 00 00  0d 00 00 00"
      "00 00 00 00  01 00 00 00  01 00 00 00  52");
}

TEST_F(FrontendBytes, EndianAndKick) {
  ASSERT_TRUE(frontend.set_vring_endian(3, std::endian::little));
  expect("17 00 00 00  01 00 00 00  08 00 00 00  03 00 00 00  00 00 00 00");
  ASSERT_TRUE(frontend.set_vring_endian(3, std::endian::big));
  expect("17 00 00 00  01 00 00 00  08 00 00 00  03 00 00 00  01 00 00 00");
  ASSERT_TRUE(frontend.vring_kick(1));
  expect("23 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00");
}

TEST_F(FrontendBytes, SharedObjectAndSharedMemory) {
  const std::string uuid = "00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff";
  spec::VhostUserShared name{};
  for (uint8_t i = 0; i < 16; ++i) name.uuid[i] = static_cast<uint8_t>(i * 0x11);
  answer("29 00 00 00  05 00 00 00  10 00 00 00" + uuid);
  EXPECT_FALSE(frontend.get_shared_object(name)->valid());
  expect("29 00 00 00  01 00 00 00  10 00 00 00" + uuid);
  const UniqueFd object = make_memory(0x1000);
  ASSERT_TRUE(test::send_raw(far, hex("29 00 00 00  05 00 00 00  00 00 00 00"), {object.get()}));
  EXPECT_TRUE(frontend.get_shared_object(name)->valid());
  (void)test::receive_raw(far);
  std::string config = "2c 00 00 00  05 00 00 00  08 08 00 00  01 00 00 00  00 00 00 00";
  for (int id = 0; id < 256; ++id) {
    config += id == 2 ? "00 10 00 00 00 00 00 00" : "00 00 00 00 00 00 00 00";
  }
  answer(config);
  const auto sizes = *frontend.get_shmem_config();
  ASSERT_EQ(sizes.size(), 256U);
  EXPECT_EQ(sizes[2], 0x1000U);
  EXPECT_EQ(sizes[3], 0U);
  expect("2c 00 00 00  01 00 00 00  00 00 00 00");
}

// The far end is played before the question comes: its answers wait in the socket.
TEST_F(FrontendBytes, SaveDeviceStateThroughTheBackEndsOwnChannel) {
  int fds[2] = {-1, -1};
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  ASSERT_EQ(write(fds[1], "px", 2), 2);
  ::close(fds[1]);
  // Bit 8 is clear: a channel comes with the answer.
  ASSERT_TRUE(test::send_raw(
      far, hex("2a 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"), {fds[0]}));
  ::close(fds[0]);
  answer("2b 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00");
  const auto state = frontend.save_device_state();
  ASSERT_TRUE(state) << state.error().what;
  EXPECT_EQ(to_hex(*state), "70 78");
  expect(
      "2a 00 00 00  01 00 00 00  08 00 00 00  00 00 00 00  00 00 00 00"
      "2b 00 00 00  01 00 00 00  00 00 00 00",
      1);
}

TEST_F(FrontendBytes, LoadDeviceState) {
  answer("2a 00 00 00  05 00 00 00  08 00 00 00  00 01 00 00 00 00 00 00");  // the pipe will do
  answer("2b 00 00 00  05 00 00 00  08 00 00 00  02 00 00 00 00 00 00 00");  // and it failed
  const auto refused = frontend.load_device_state(hex("01 02 03"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  expect(
      "2a 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00"
      "2b 00 00 00  01 00 00 00  00 00 00 00",
      1);
  answer("2a 00 00 00  05 00 00 00  08 00 00 00  01 01 00 00 00 00 00 00");  // not now
  EXPECT_EQ(frontend.load_device_state({}).error().code, ErrorCode::kInvalidArgument);
  (void)test::receive_raw(far);
  answer("2a 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00");  // a channel is missing
  EXPECT_EQ(frontend.load_device_state({}).error().code, ErrorCode::kProtocol);
}

// What a front end answers to requests of its back end.
struct ChannelBytes : testing::Test {
  struct Handler : BackendRequestHandler {
    std::vector<std::string> told;
    UniqueFd object;
    Status iotlb(const spec::vhost_iotlb_msg& m) override {
      return told.push_back("iotlb " + std::to_string(m.iova)), Status();
    }
    Status config_changed() override { return told.emplace_back("config"), Status(); }
    Status vring_call(uint32_t i) override {
      return told.push_back("call " + std::to_string(i)), Status();
    }
    Status vring_err(uint32_t i) override {
      return told.push_back("err " + std::to_string(i)), Status();
    }
    Status shared_object_add(const spec::VhostUserShared& uuid) override {
      return told.push_back("add " + std::to_string(uuid.uuid[15])), Status();
    }
    Result<UniqueFd> shared_object_lookup(const spec::VhostUserShared& uuid) override {
      if (uuid.uuid[15] != 1) return forward(refuse());
      return test::copy_of(object);
    }
    Status shmem_map(const spec::VhostUserMMap& m, UniqueFd file) override {
      EXPECT_TRUE(file.valid());
      return told.push_back("map " + std::to_string(m.shmid) + " " + std::to_string(m.len)),
             Status();
    }
  } handler;
  std::pair<UniqueFd, UniqueFd> sockets = make_pair();
  FrontendChannel channel{std::move(sockets.first), handler};
  Negotiated all{spec::VIRTIO_F_ACCESS_PLATFORM, ~uint64_t{0}, ~uint64_t{0}};

  std::string ask(std::string_view bytes, const std::vector<int>& fds = {}) {
    EXPECT_TRUE(test::send_raw(sockets.second.get(), hex(bytes), fds));
    if (auto ok = channel.serve(all); !ok) return "closed";
    const auto got = test::receive_raw(sockets.second.get());
    received_fds = got.fds;
    return to_hex(got.bytes);
  }
  size_t received_fds = 0;
};

TEST_F(ChannelBytes, EveryRequestOfTheText) {
  handler.object = make_memory(0x1000);
  EXPECT_EQ(ask("01 00 00 00  09 00 00 00  20 00 00 00"  // IOTLB_MSG: a miss at 0x1000 for reading
                "00 10 00 00 00 00 00 00  00 00 00 00 00 00 00 00"
                "00 00 00 00 00 00 00 00  01 01 00 00 00 00 00 00"),
            plain("01 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("02 00 00 00  01 00 00 00  00 00 00 00"), "") << "no answer was asked for";
  EXPECT_EQ(ask("03 00 00 00  09 00 00 00  18 00 00 00"  // HOST_NOTIFIER of ring 1: not done here
                "01 00 00 00 00 00 00 00  00 10 00 00 00 00 00 00  00 00 00 00 00 00 00 00",
                {handler.object.get()}),
            plain("03 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("04 00 00 00  09 00 00 00  08 00 00 00  03 00 00 00  00 00 00 00"),
            plain("04 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("05 00 00 00  09 00 00 00  08 00 00 00  02 00 00 00  00 00 00 00"),
            plain("05 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  const std::string one = "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01";
  const std::string two = "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 02";
  EXPECT_EQ(ask("06 00 00 00  09 00 00 00  10 00 00 00" + one),
            plain("06 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("07 00 00 00  09 00 00 00  10 00 00 00" + one),
            plain("07 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("08 00 00 00  01 00 00 00  10 00 00 00" + one),
            plain("08 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(received_fds, 1U);
  EXPECT_EQ(ask("08 00 00 00  01 00 00 00  10 00 00 00" + two),
            plain("08 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
  EXPECT_EQ(received_fds, 0U);
  EXPECT_EQ(ask("09 00 00 00  09 00 00 00  28 00 00 00"  // SHMEM_MAP into region 3, to be written
                "03 00 00 00 00 00 00 00  00 10 00 00 00 00 00 00  00 20 00 00 00 00 00 00"
                "00 30 00 00 00 00 00 00  01 00 00 00 00 00 00 00",
                {handler.object.get()}),
            plain("09 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("0a 00 00 00  09 00 00 00  28 00 00 00"
                "03 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  00 20 00 00 00 00 00 00"
                "00 30 00 00 00 00 00 00  00 00 00 00 00 00 00 00"),
            plain("0a 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
  EXPECT_EQ(handler.told, (std::vector<std::string>{"iotlb 4096", "config", "call 3", "err 2",
                                                    "add 1", "map 3 12288"}));
}

TEST_F(ChannelBytes, WhatIsWrongIsRefused) {
  const std::string refused = "05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00";
  EXPECT_EQ(ask("04 00 00 00  09 00 00 00  07 00 00 00  03 00 00 00  00 00 00"),
            plain("04 00 00 00" + refused))
      << "a byte is missing";
  EXPECT_EQ(ask("63 00 00 00  09 00 00 00  00 00 00 00"), plain("63 00 00 00" + refused));
  EXPECT_EQ(ask("09 00 00 00  09 00 00 00  00 00 00 00"), plain("09 00 00 00" + refused));
  const UniqueFd event = make_event();
  EXPECT_EQ(ask("02 00 00 00  09 00 00 00  00 00 00 00", {event.get()}),
            plain("02 00 00 00" + refused))
      << "a descriptor too many";
  all.protocol_features &= ~spec::VHOST_USER_PROTOCOL_F_CONFIG;
  EXPECT_EQ(ask("02 00 00 00  09 00 00 00  00 00 00 00"), plain("02 00 00 00" + refused));
  EXPECT_TRUE(handler.told.empty());
  EXPECT_EQ(ask("02 00 00 00  05 00 00 00  00 00 00 00"), "closed") << "an answer";
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
    const auto received = test::receive_raw(sockets.second.get());
    received_fds = received.fds;
    return to_hex(received.bytes);
  }
  size_t received_fds = 0;  ///< with the last reply
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

TEST_F(BackendBytes, Postcopy) {
  if (auto possible = PageFaults::open(); !possible) GTEST_SKIP() << possible.error().what;
  // REPLY_ACK, PAGEFAULT, CONFIGURE_MEM_SLOTS: bits 3, 8 and 15.
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  08 81 00 00 00 00 00 00"), "");
  EXPECT_EQ(ask("1c 00 00 00  01 00 00 00  00 00 00 00"),
            plain("1c 00 00 00  05 00 00 00  00 00 00 00"));
  EXPECT_EQ(ask("1d 00 00 00  09 00 00 00  00 00 00 00"),
            plain("1d 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("1e 00 00 00  09 00 00 00  00 00 00 00"),
            plain("1e 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
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

TEST_F(BackendBytes, SetConfig) {
  device.config_space = hex("52 54 00 12 34 56 01 00");
  device.writable_from = 6;
  // CONFIG and REPLY_ACK.
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  08 02 00 00 00 00 00 00"), "");
  EXPECT_EQ(ask("19 00 00 00  09 00 00 00  0e 00 00 00"
                "06 00 00 00  02 00 00 00  00 00 00 00  02 00"),
            plain("19 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("19 00 00 00  09 00 00 00  0d 00 00 00"  // the address is read-only
                "00 00 00 00  01 00 00 00  00 00 00 00  fe"),
            plain("19 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("19 00 00 00  09 00 00 00  0d 00 00 00"  // but not for a guest that moved here
                "00 00 00 00  01 00 00 00  01 00 00 00  fe"),
            plain("19 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(to_hex(device.config_space), "fe 54 00 12 34 56 02 00");
}

TEST_F(BackendBytes, ResetDevice) {
  EXPECT_EQ(ask("02 00 00 00  01 00 00 00  08 00 00 00  00 00 00 40 01 00 00 00"), "");
  EXPECT_EQ(ask("08 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 01 00 00"), "");
  EXPECT_EQ(ask("12 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  01 00 00 00"), "");
  EXPECT_EQ(ask("22 00 00 00  01 00 00 00  00 00 00 00"), "");
  EXPECT_EQ(device.resets, 1);
  EXPECT_EQ(device.negotiated, 0U);
  EXPECT_EQ(session->state().vrings[1].size, 0U);
  EXPECT_FALSE(session->state().vrings[1].controls.enabled);
  EXPECT_FALSE(session->state().features_known);
}

TEST_F(BackendBytes, VringEndian) {
  // CROSS_ENDIAN and REPLY_ACK; this machine is little-endian.
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  48 00 00 00 00 00 00 00"), "");
  EXPECT_EQ(ask("17 00 00 00  09 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00"),
            plain("17 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(ask("17 00 00 00  09 00 00 00  08 00 00 00  01 00 00 00  01 00 00 00"),
            plain("17 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
}

TEST_F(BackendBytes, InBandNotificationsNeedTheirTwo) {
  // INBAND_NOTIFICATIONS alone, and with REPLY_ACK: not without BACKEND_REQ (bit 5).
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  08 40 00 00 00 00 00 00").substr(0, 7),
            "closed:");
  session.emplace(device);
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  28 40 00 00 00 00 00 00"), "");
  EXPECT_EQ(ask("23 00 00 00  09 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00"),
            plain("23 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_TRUE(session->state().vrings[1].kick_known);
  EXPECT_EQ(ask("23 00 00 00  09 00 00 00  08 00 00 00  01 00 00 00  01 00 00 00"),
            plain("23 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
}

TEST_F(BackendBytes, SharedObject) {
  device.object = make_memory(0x1000);
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  00 00 04 00 00 00 00 00"), "");
  const std::string known = "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 07";
  const std::string unknown = "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 08";
  EXPECT_EQ(ask("29 00 00 00  01 00 00 00  10 00 00 00" + known),
            plain("29 00 00 00  05 00 00 00  10 00 00 00" + known));
  EXPECT_EQ(received_fds, 1U);
  EXPECT_EQ(ask("29 00 00 00  01 00 00 00  10 00 00 00" + unknown),
            plain("29 00 00 00  05 00 00 00  10 00 00 00" + unknown));
  EXPECT_EQ(received_fds, 0U);
}

TEST_F(BackendBytes, SharedMemoryRegions) {
  device.shared_memory = {0, 0x2000};
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  00 00 40 00 00 00 00 00"), "");
  std::string reply =  // one region, 256 sizes
      "2c 00 00 00  05 00 00 00  08 08 00 00  01 00 00 00  00 00 00 00";
  for (int id = 0; id < 256; ++id) {
    reply += id == 1 ? "00 20 00 00 00 00 00 00" : "00 00 00 00 00 00 00 00";
  }
  EXPECT_EQ(ask("2c 00 00 00  01 00 00 00  00 00 00 00"), plain(reply));
}

TEST_F(BackendBytes, DeviceState) {
  int fds[2] = {-1, -1};
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd out(fds[0]);
  UniqueFd in(fds[1]);
  EXPECT_EQ(ask("10 00 00 00  01 00 00 00  08 00 00 00  00 00 08 00 00 00 00 00"), "");
  // Save, stopped. Bit 8 of the reply: no channel of the back end's own comes.
  EXPECT_EQ(ask("2a 00 00 00  01 00 00 00  08 00 00 00  00 00 00 00  00 00 00 00", {in.get()}),
            plain("2a 00 00 00  05 00 00 00  08 00 00 00  00 01 00 00 00 00 00 00"));
  in.reset();
  std::array<std::byte, 16> state{};
  ASSERT_EQ(read(out.get(), state.data(), state.size()), 3);
  EXPECT_EQ(to_hex({state.begin(), state.begin() + 3}), "70 78 01");
  EXPECT_EQ(read(out.get(), state.data(), state.size()), 0) << "the channel is closed";
  EXPECT_EQ(ask("2b 00 00 00  01 00 00 00  00 00 00 00"),
            plain("2b 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  // Load another one.
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  out.reset(fds[0]);
  in.reset(fds[1]);
  EXPECT_EQ(ask("2a 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00", {out.get()}),
            plain("2a 00 00 00  05 00 00 00  08 00 00 00  00 01 00 00 00 00 00 00"));
  ASSERT_EQ(write(in.get(), "new", 3), 3);
  in.reset();
  EXPECT_EQ(ask("2b 00 00 00  01 00 00 00  00 00 00 00"),
            plain("2b 00 00 00  05 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00"));
  EXPECT_EQ(to_hex(device.state), "6e 65 77");
  // Nothing was transferred since.
  EXPECT_EQ(ask("2b 00 00 00  01 00 00 00  00 00 00 00"),
            plain("2b 00 00 00  05 00 00 00  08 00 00 00  01 00 00 00 00 00 00 00"));
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
