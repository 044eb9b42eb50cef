// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/backend_session.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <nlohmann/json.hpp>

#include "pollux/vhost/session_parcel.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using namespace spec;
using test::copy_of;
using test::kGuest;
using test::kPage;
using test::kRingSize;
using test::kSize;
using test::kUser;
using test::make_event;
using test::make_memory;
using test::mappings_of;
using test::open_fds;
using test::RecordingDevice;
using test::region_at;
using test::ring_at;
using testing::HasSubstr;

constexpr uint64_t kFeatures = VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;
constexpr uint64_t kProtocol =
    VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;

struct Session : testing::Test {
  RecordingDevice device;
  std::optional<BackendSession> session{std::in_place, device};

  Result<std::optional<Message>> send(Message message, std::vector<UniqueFd> fds = {}) {
    message.fds = std::move(fds);
    return session->handle(std::move(message));
  }
  template <typename T>
  void tell(uint32_t request, const T& payload) {
    auto reply = send(make_request(request, payload));
    ASSERT_TRUE(reply) << reply.error().what;
    EXPECT_FALSE(reply->has_value());
  }
  template <typename T>
  void tell(uint32_t request, const T& payload, UniqueFd fd) {
    std::vector<UniqueFd> fds;
    fds.push_back(std::move(fd));
    auto reply = send(make_request(request, payload), std::move(fds));
    ASSERT_TRUE(reply) << reply.error().what;
    EXPECT_FALSE(reply->has_value());
  }
  void negotiate(uint64_t features = kFeatures) {
    tell(VHOST_USER_SET_FEATURES, features);
    tell(VHOST_USER_SET_PROTOCOL_FEATURES, kProtocol);
  }
  void share(uint64_t count = 1) {
    Message message = make_request(VHOST_USER_SET_MEM_TABLE, static_cast<uint32_t>(count));
    message.put(uint32_t{0});
    std::vector<UniqueFd> fds;
    for (uint64_t i = 0; i < count; ++i) {
      message.put(region_at(i));
      fds.push_back(make_memory(kSize));
    }
    ASSERT_TRUE(send(std::move(message), std::move(fds)));
  }
  void set_ring(uint32_t index, uint32_t base = 0) {
    tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{index, kRingSize});
    tell(VHOST_USER_SET_VRING_BASE, vhost_vring_state{index, base});
    tell(VHOST_USER_SET_VRING_ADDR, ring_at(index));
  }
  void kick(uint64_t index) { tell(VHOST_USER_SET_VRING_KICK, index, make_event()); }
  void bring_up() {
    negotiate();
    share();
    set_ring(0);
    kick(0);
  }
  Result<uint32_t> get_base(uint32_t index) {
    auto reply = send(make_request(VHOST_USER_GET_VRING_BASE, vhost_vring_state{index, 0}));
    if (!reply) return forward(reply);
    return (*reply)->get<vhost_vring_state>()->num;
  }
  std::string why(uint16_t index) { return session->state().vrings[index].stopped_because; }
  bool runs(uint16_t index) { return device.running.contains(index); }
};

TEST_F(Session, OffersWhatDeviceAndSessionBothHave) {
  auto reply = send(make_request(VHOST_USER_GET_FEATURES));
  EXPECT_EQ((*reply)->get<uint64_t>(),
            device.offering.features | VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL);
  reply = send(make_request(VHOST_USER_GET_PROTOCOL_FEATURES));
  EXPECT_EQ((*reply)->get<uint64_t>(), BackendSession::possible_protocol_features());
}

TEST_F(Session, RingStartsOnceEverythingIsKnown) {
  negotiate();
  share();
  set_ring(1, 77);
  EXPECT_FALSE(runs(1));
  kick(1);
  ASSERT_TRUE(runs(1));
  const RingStart& start = device.running[1];
  EXPECT_EQ(start.base, 77U);
  const auto& layout = std::get<ring::SplitLayout>(start.layout);
  EXPECT_EQ(layout.size, kRingSize);
  EXPECT_EQ(start.features, VIRTIO_F_VERSION_1);
  EXPECT_FALSE(start.controls.enabled);
  ASSERT_TRUE(start.controls.kick);
  EXPECT_EQ(start.controls.call, nullptr);
  // Ring 1 lies in the second page: descriptors at its start, available at 1024, used at 2048.
  const auto* base = start.memory->regions()[0].host + kPage;
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.desc), base);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.avail), base + 1024);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.used), base + 2048);
}

TEST_F(Session, PackedRingStartsInItsOwnLayout) {
  negotiate(kFeatures | VIRTIO_F_RING_PACKED);
  share();
  // 100 entries: no power of two. The driver area is where the available ring would be, the device
  // area where the used ring would be.
  tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{1, 100});
  tell(VHOST_USER_SET_VRING_BASE, vhost_vring_state{1, 0x80638007});
  auto at = ring_at(1);
  at.avail_user_addr = at.desc_user_addr + 2000;
  at.used_user_addr = at.desc_user_addr + 2004;
  tell(VHOST_USER_SET_VRING_ADDR, at);
  kick(1);
  ASSERT_TRUE(runs(1)) << why(1);
  const RingStart& start = device.running[1];
  EXPECT_EQ(start.base, 0x80638007U);
  const auto& layout = std::get<ring::PackedLayout>(start.layout);
  EXPECT_EQ(layout.size, 100U);
  const auto* base = start.memory->regions()[0].host + kPage;
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.desc), base);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.driver), base + 2000);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(layout.device), base + 2004);
  EXPECT_EQ(get_base(1), 0x80638007U);
}

TEST_F(Session, PackedRingsBeginWithWrapCountersOf1) {
  negotiate(kFeatures | VIRTIO_F_RING_PACKED);
  share();
  EXPECT_EQ(get_base(0), 0x80008000U);
  tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, 100});
  tell(VHOST_USER_SET_VRING_ADDR, ring_at(0));
  kick(0);
  ASSERT_TRUE(runs(0)) << why(0);
  EXPECT_EQ(device.running[0].base, 0x80008000U);
}

TEST_F(Session, PackedRingsAreCheckedByTheirOwnRules) {
  negotiate(kFeatures | VIRTIO_F_RING_PACKED);
  share();
  const auto refused = [&](uint32_t request, const auto& payload) {
    Message message = make_request(request, payload);
    message.flags |= VHOST_USER_NEED_REPLY_MASK;
    auto reply = send(std::move(message));
    return reply && reply->has_value() && *(*reply)->template get<uint64_t>() != 0;
  };
  for (const uint32_t size : {0U, 32769U, 0xffffffffU}) {
    EXPECT_TRUE(refused(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, size})) << size;
  }
  EXPECT_FALSE(refused(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, 100}));
  for (const uint32_t base : {100U, 0x80640000U, 0xffffffffU}) {
    EXPECT_TRUE(refused(VHOST_USER_SET_VRING_BASE, vhost_vring_state{0, base})) << base;
  }
  auto at = ring_at(0);
  at.avail_user_addr += 2;  // would do for an available ring
  EXPECT_TRUE(refused(VHOST_USER_SET_VRING_ADDR, at));
  // Good when it came, but not for the size that came later.
  EXPECT_FALSE(refused(VHOST_USER_SET_VRING_BASE, vhost_vring_state{0, 0x80638063}));
  EXPECT_FALSE(refused(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, 99}));
  EXPECT_FALSE(refused(VHOST_USER_SET_VRING_ADDR, ring_at(0)));
  kick(0);
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(why(0), "0x80638063 is not a position in a packed ring of 99 entries");
}

TEST_F(Session, PackedRingMustLieInOneRegion) {
  negotiate(kFeatures | VIRTIO_F_RING_PACKED);
  share();
  tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, 100});
  auto at = ring_at(0);
  at.used_user_addr = kUser + kSize - 4;
  at.desc_user_addr = kUser + kSize - 1600;
  tell(VHOST_USER_SET_VRING_ADDR, at);
  kick(0);
  EXPECT_TRUE(runs(0)) << why(0);
  at.used_user_addr += 4;
  tell(VHOST_USER_SET_VRING_ADDR, at);
  EXPECT_FALSE(runs(0));
  EXPECT_THAT(why(0), HasSubstr("its device event suppression (4 bytes"));
  at.used_user_addr = kUser;
  at.desc_user_addr += 16;
  tell(VHOST_USER_SET_VRING_ADDR, at);
  EXPECT_FALSE(runs(0));
  EXPECT_THAT(why(0), HasSubstr("its descriptor ring (1600 bytes"));
}

TEST_F(Session, RingStartsInWhateverOrderItIsTold) {
  kick(0);
  EXPECT_EQ(why(0), "its size is not known yet");
  tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, kRingSize});
  EXPECT_EQ(why(0), "its addresses are not known yet");
  tell(VHOST_USER_SET_VRING_ADDR, ring_at(0));
  EXPECT_EQ(why(0), "features are not negotiated yet");
  negotiate();
  EXPECT_EQ(why(0), "no memory is shared yet");
  share();
  EXPECT_TRUE(runs(0));
  EXPECT_EQ(why(0), "");
}

TEST_F(Session, KickWithoutDescriptorMeansPolling) {
  negotiate();
  share();
  set_ring(0);
  tell(VHOST_USER_SET_VRING_KICK, uint64_t{0x100});
  ASSERT_TRUE(runs(0));
  EXPECT_EQ(device.running[0].controls.kick, nullptr);
}

TEST_F(Session, WithoutProtocolFeaturesRingsStartEnabled) {
  negotiate(VIRTIO_F_VERSION_1);
  share();
  set_ring(0);
  kick(0);
  ASSERT_TRUE(runs(0));
  EXPECT_TRUE(device.running[0].controls.enabled);
}

TEST_F(Session, WithoutProtocolFeaturesADisabledRingStaysSo) {
  // As QEMU 7.2 does it for a guest that uses one of two queue pairs.
  share();
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{1, 0});
  tell(VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1);
  EXPECT_TRUE(session->state().vrings[0].controls.enabled);
  EXPECT_FALSE(session->state().vrings[1].controls.enabled);
}

TEST_F(Session, EnablingReachesARunningRing) {
  bring_up();
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 1});
  EXPECT_TRUE(device.running[0].controls.enabled);
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 0});
  EXPECT_FALSE(device.running[0].controls.enabled);
}

TEST_F(Session, EnabledStateIsKeptWhileStopped) {
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 1});
  EXPECT_TRUE(device.calls.empty());
  bring_up();
  EXPECT_TRUE(device.running[0].controls.enabled);
}

TEST_F(Session, GetVringBaseStopsAndTells) {
  bring_up();
  device.progress[0] = 5;
  EXPECT_EQ(get_base(0), 5U);
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(why(0), "the front end stopped it");
  EXPECT_EQ(get_base(0), 5U) << "asking again changes nothing";
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 1});
  EXPECT_FALSE(runs(0)) << "only a kick starts it";
  kick(0);
  ASSERT_TRUE(runs(0));
  EXPECT_EQ(device.running[0].base, 5U);
}

TEST_F(Session, IndexWrapsAt16Bits) {
  negotiate();
  share();
  set_ring(0, 0xffff);
  kick(0);
  device.progress[0] = 3;
  EXPECT_EQ(get_base(0), 2U);
}

TEST_F(Session, DescriptorsOfARunningRingCanBeReplaced) {
  bring_up();
  const size_t before = open_fds();
  for (int i = 0; i < 3; ++i) {
    tell(VHOST_USER_SET_VRING_CALL, uint64_t{0}, make_event());
    tell(VHOST_USER_SET_VRING_ERR, uint64_t{0}, make_event());
    kick(0);
  }
  EXPECT_EQ(open_fds(), before + 2) << "call and err are new, the rest was replaced";
  EXPECT_EQ(device.running[0].controls.call, session->state().vrings[0].controls.call);
  EXPECT_NE(fcntl(device.running[0].controls.call->get(), F_GETFL) & O_NONBLOCK, 0);
  tell(VHOST_USER_SET_VRING_CALL, uint64_t{0x100});
  EXPECT_EQ(device.running[0].controls.call, nullptr);
}

TEST_F(Session, ADescriptorInUseOutlivesItsReplacement) {
  bring_up();
  tell(VHOST_USER_SET_VRING_CALL, uint64_t{0}, make_event());
  const SharedFd used_by_worker = device.running[0].controls.call;
  tell(VHOST_USER_SET_VRING_CALL, uint64_t{0}, make_event());
  EXPECT_EQ(eventfd_write(used_by_worker->get(), 1), 0);
}

TEST_F(Session, MemoryChangeStopsTranslatesAndRestarts) {
  bring_up();
  device.progress[0] = 9;
  const auto old_memory = device.running[0].memory;
  device.calls.clear();
  share(2);
  EXPECT_EQ(device.calls, (std::vector<std::string>{"stop 0", "start 0"}));
  EXPECT_EQ(device.running[0].base, 9U);
  EXPECT_NE(device.running[0].memory, old_memory);
  EXPECT_EQ(session->state().slots.size(), 2U);
}

TEST_F(Session, ARingLeftUnmappedStaysStoppedUntilItIsMappedAgain) {
  bring_up();
  const VhostUserMemRegMsg one{0, region_at(0)};
  device.progress[0] = 4;
  tell(VHOST_USER_REM_MEM_REG, one);
  EXPECT_FALSE(runs(0));
  EXPECT_NE(why(0).find("not inside one shared region"), std::string::npos) << why(0);
  EXPECT_EQ(mappings_of("peer-memory"), 0U);
  tell(VHOST_USER_ADD_MEM_REG, one, make_memory(kSize));
  ASSERT_TRUE(runs(0));
  EXPECT_EQ(device.running[0].base, 4U);
}

// QEMU 7.2 sends both messages once for each queue pair of a device.
TEST_F(Session, ARegionAddedTwiceIsRemovedTwice) {
  bring_up();
  const VhostUserMemRegMsg one{0, region_at(0)};
  const size_t before = open_fds();
  tell(VHOST_USER_ADD_MEM_REG, one, make_memory(kSize));
  EXPECT_EQ(session->state().slots.size(), 1U);
  EXPECT_EQ(open_fds(), before);
  tell(VHOST_USER_REM_MEM_REG, one);
  EXPECT_TRUE(runs(0));
  tell(VHOST_USER_REM_MEM_REG, one);
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(mappings_of("peer-memory"), 0U);
}

TEST_F(Session, ManySlots) {
  negotiate();
  for (uint64_t i = 0; i < 509; ++i) {
    tell(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region_at(i)}, make_memory(kSize));
  }
  EXPECT_EQ(session->state().slots.size(), 509U);
  std::vector<UniqueFd> fds;
  fds.push_back(make_memory(kSize));
  auto full = send(make_request(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region_at(509)}),
                   std::move(fds));
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().what, "ADD_MEM_REG: all 509 memory slots are in use");
  for (uint64_t i = 0; i < 509; ++i) {
    tell(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region_at(i)});
  }
  EXPECT_EQ(mappings_of("peer-memory"), 0U);
}

TEST_F(Session, RemovalMayBringADescriptorThatIsClosed) {
  bring_up();
  const size_t before = open_fds();
  tell(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region_at(0)}, make_memory(kSize));
  EXPECT_EQ(open_fds(), before - 1) << "the slot's own went too";
}

TEST_F(Session, RepeatedFeaturesDoNotDisturbRunningRings) {
  bring_up();
  device.calls.clear();
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  EXPECT_TRUE(device.calls.empty());
  tell(VHOST_USER_SET_FEATURES, kFeatures | VIRTIO_F_INDIRECT_DESC);
  EXPECT_EQ(device.calls, (std::vector<std::string>{"stop 0", "start 0"}));
  EXPECT_EQ(device.running[0].features, VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC);
}

TEST_F(Session, SameAddressesDoNotDisturbARunningRing) {
  bring_up();
  device.calls.clear();
  tell(VHOST_USER_SET_VRING_ADDR, ring_at(0));
  EXPECT_TRUE(device.calls.empty());
  tell(VHOST_USER_SET_VRING_ADDR, ring_at(1));
  auto elsewhere = ring_at(0);
  elsewhere.used_user_addr += 512;
  tell(VHOST_USER_SET_VRING_ADDR, elsewhere);
  EXPECT_EQ(device.calls, (std::vector<std::string>{"stop 0", "start 0"}));
}

TEST_F(Session, RefusalIsAReplyForWhoeverAskedForOne) {
  bring_up();
  Message bad = make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{1, 3});
  bad.flags |= VHOST_USER_NEED_REPLY_MASK;
  auto reply = session->handle(std::move(bad));
  ASSERT_TRUE(reply && *reply);
  EXPECT_EQ((*reply)->get<uint64_t>(), 1U);
  EXPECT_EQ((*reply)->flags, 0x5U);
  EXPECT_EQ(session->state().last_problem,
            "SET_VRING_NUM: 3 is not a ring size: it is a power of two up to 32768");
  EXPECT_EQ(session->state().vrings[1].size, 0U);
}

TEST_F(Session, RefusalEndsTheConnectionOtherwise) {
  auto reply = send(make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{1, 3}));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, ErrorCode::kProtocol);
}

TEST_F(Session, AcknowledgesOnlyWhenAskedAndNegotiated) {
  Message owner = make_request(VHOST_USER_SET_OWNER);
  owner.flags |= VHOST_USER_NEED_REPLY_MASK;
  auto reply = session->handle(std::move(owner));
  ASSERT_TRUE(reply);
  EXPECT_FALSE(*reply) << "REPLY_ACK is not negotiated yet";
  negotiate();
  owner = make_request(VHOST_USER_SET_OWNER);
  owner.flags |= VHOST_USER_NEED_REPLY_MASK;
  reply = session->handle(std::move(owner));
  ASSERT_TRUE(reply && *reply);
  EXPECT_EQ((*reply)->get<uint64_t>(), 0U);
}

TEST_F(Session, MtuRarpAndConfig) {
  tell(VHOST_USER_SET_PROTOCOL_FEATURES, BackendSession::possible_protocol_features());
  tell(VHOST_USER_NET_SET_MTU, uint64_t{1500});
  EXPECT_EQ(device.mtu, 1500U);
  EXPECT_FALSE(send(make_request(VHOST_USER_NET_SET_MTU, uint64_t{65536})));
  EXPECT_EQ(session->state().mtu, 1500U);
  tell(VHOST_USER_SEND_RARP, uint64_t{0x0000665544332211});
  EXPECT_EQ(device.rarp.at(0), (std::array<uint8_t, 6>{0x11, 0x22, 0x33, 0x44, 0x55, 0x66}));
  device.config_space = test::hex("00 01 02 03 04 05 06 07");
  Message get = make_request(VHOST_USER_GET_CONFIG, VhostUserConfig{2, 4, 0});
  get.payload.resize(12 + 4);
  auto reply = send(std::move(get));
  EXPECT_EQ(test::to_hex((*reply)->payload), "02 00 00 00 04 00 00 00 00 00 00 00 02 03 04 05");
  get = make_request(VHOST_USER_GET_CONFIG, VhostUserConfig{6, 4, 0});
  get.payload.resize(12 + 4);
  reply = send(std::move(get));
  EXPECT_TRUE((*reply)->payload.empty()) << "beyond the end";
}

TEST_F(Session, StatusZeroStopsRingsAndKeepsTheirIndex) {
  tell(VHOST_USER_SET_PROTOCOL_FEATURES, BackendSession::possible_protocol_features());
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  share();
  set_ring(0);
  kick(0);
  tell(VHOST_USER_SET_STATUS, uint64_t{VIRTIO_CONFIG_S_DRIVER_OK});
  auto status = send(make_request(VHOST_USER_GET_STATUS));
  EXPECT_EQ((*status)->get<uint64_t>(), 4U);
  device.progress[0] = 6;
  tell(VHOST_USER_SET_STATUS, uint64_t{0});
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(get_base(0), 6U);
}

TEST_F(Session, StatusZeroResetsTheDevice) {
  tell(VHOST_USER_SET_PROTOCOL_FEATURES, BackendSession::possible_protocol_features());
  tell(VHOST_USER_SET_STATUS, uint64_t{VIRTIO_CONFIG_S_DRIVER_OK});
  EXPECT_EQ(device.resets, 0);
  tell(VHOST_USER_SET_STATUS, uint64_t{0});
  EXPECT_EQ(device.resets, 1);
}

TEST_F(Session, ResetDeviceForgetsTheDriverAndKeepsTheConnection) {
  bring_up();
  tell(VHOST_USER_SET_VRING_CALL, uint64_t{0}, make_event());
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 1});
  const SharedFd call = session->state().vrings[0].controls.call;
  ASSERT_TRUE(send(make_request(VHOST_USER_RESET_DEVICE)));
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(why(0), "the front end reset the device");
  EXPECT_EQ(device.resets, 1);
  EXPECT_EQ(device.negotiated, 0U);
  const VringState& vring = session->state().vrings[0];
  EXPECT_EQ(vring.size, 0U);
  EXPECT_FALSE(vring.addresses_known);
  EXPECT_FALSE(vring.kick_known);
  EXPECT_FALSE(vring.controls.enabled);
  EXPECT_EQ(vring.controls.call, call) << "QEMU does not send it again";
  EXPECT_EQ(session->state().slots.size(), 1U) << "nor what has not changed of its memory";
  EXPECT_EQ(session->state().protocol_features, kProtocol);
  // And once more from the beginning, but for that.
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  set_ring(0);
  kick(0);
  EXPECT_TRUE(runs(0));
}

struct Transfer : Session {
  UniqueFd out;
  UniqueFd in;
  void SetUp() override {
    tell(VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_PROTOCOL_F_DEVICE_STATE);
    int fds[2] = {-1, -1};
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    out.reset(fds[0]);
    in.reset(fds[1]);
  }
  uint64_t begin(uint32_t direction, UniqueFd channel, uint32_t phase = 0) {
    std::vector<UniqueFd> fds;
    fds.push_back(std::move(channel));
    auto reply = send(make_request(VHOST_USER_SET_DEVICE_STATE_FD,
                                   VhostUserTransferDeviceState{direction, phase}),
                      std::move(fds));
    EXPECT_TRUE(reply) << reply.error().what;
    return *(*reply)->get<uint64_t>();
  }
  uint64_t check() {
    return *(*send(make_request(VHOST_USER_CHECK_DEVICE_STATE)))->get<uint64_t>();
  }
};

TEST_F(Transfer, SavesMoreThanThePipeHolds) {
  device.state.resize(300'000, std::byte{0x42});
  ASSERT_EQ(begin(0, std::move(in)), kStateFdNone);
  ASSERT_NE(session->transfer(), nullptr);
  EXPECT_FALSE(session->transfer()->over());
  EXPECT_EQ(session->transfer()->events(), uint32_t{EPOLLOUT});
  size_t size = 0;
  std::vector<std::byte> part(4096);
  for (;;) {
    const ssize_t n = read(out.get(), part.data(), part.size());
    if (n == 0) break;
    ASSERT_GT(n, 0);
    size += static_cast<size_t>(n);
    session->advance_transfer();
  }
  EXPECT_EQ(size, 300'000U);
  EXPECT_EQ(check(), 0U);
}

TEST_F(Transfer, OneThatIsNotOverHasFailed) {
  device.state.resize(300'000);
  ASSERT_EQ(begin(0, std::move(in)), kStateFdNone);
  EXPECT_EQ(check(), 1U) << "nobody read it";
  EXPECT_EQ(session->transfer(), nullptr);
}

TEST_F(Transfer, LoadsNothingBeforeItsEnd) {
  ASSERT_EQ(begin(1, std::move(out)), kStateFdNone);
  ASSERT_EQ(write(in.get(), "ab", 2), 2);
  session->advance_transfer();
  EXPECT_EQ(test::to_hex(device.state), "70 78 01");
  ASSERT_EQ(write(in.get(), "c", 1), 1);
  in.reset();
  session->advance_transfer();
  EXPECT_EQ(test::to_hex(device.state), "61 62 63");
  EXPECT_EQ(check(), 0U);
}

TEST_F(Transfer, AStateThatTheDeviceRefusesIsAFailure) {
  ASSERT_EQ(begin(1, std::move(out)), kStateFdNone);
  ASSERT_EQ(write(in.get(), "ab", 2), 2);
  in.reset();
  EXPECT_EQ(check(), 1U);
  EXPECT_EQ(session->state().last_problem, "device state: not my state");
}

TEST_F(Transfer, AStateWithoutEndIsAFailure) {
  auto [near, far] = test::make_pair();
  ASSERT_EQ(begin(1, std::move(near)), kStateFdNone);
  const std::vector<std::byte> junk(65536);
  for (int i = 0; i < 40 && !session->transfer()->over(); ++i) {
    (void)::send(far.get(), junk.data(), junk.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    session->advance_transfer();
  }
  EXPECT_TRUE(session->transfer()->over());
  EXPECT_EQ(check(), 1U);
}

TEST_F(Transfer, AReaderThatGoesAwayIsAFailure) {
  auto [near, far] = test::make_pair();
  far.reset();
  ASSERT_EQ(begin(0, std::move(near)), kStateFdNone);
  EXPECT_EQ(check(), 1U);
}

TEST_F(Transfer, IsRefusedInItsReply) {
  constexpr uint64_t kRefused = kStateFdNone | 1;
  EXPECT_EQ(begin(2, copy_of(in)), kRefused) << "no such direction";
  EXPECT_EQ(begin(0, copy_of(in), 1), kRefused) << "no such phase";
  EXPECT_EQ(begin(0, copy_of(out)), kRefused) << "the wrong end";
  EXPECT_EQ(begin(0, make_event()), kRefused) << "no pipe";
  EXPECT_EQ(begin(0, make_memory(kPage)), kRefused) << "no pipe";
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  share();
  set_ring(0);
  kick(0);
  EXPECT_EQ(begin(0, copy_of(in)), kRefused) << "a ring runs";
  EXPECT_EQ(session->state().last_problem, "SET_DEVICE_STATE_FD: ring 0 runs, stop it before");
  ASSERT_TRUE(get_base(0));
  EXPECT_EQ(begin(0, copy_of(in)), kStateFdNone);
}

TEST_F(Session, ResetOwnerDisablesRings) {
  bring_up();
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 1});
  ASSERT_TRUE(send(make_request(VHOST_USER_RESET_OWNER)));
  ASSERT_TRUE(runs(0));
  EXPECT_FALSE(device.running[0].controls.enabled);
}

TEST_F(Session, ADeviceThatCanNotStartSaysWhy) {
  device.start_failure = "no worker is left";
  bring_up();
  EXPECT_EQ(why(0), "no worker is left");
  device.start_failure.clear();
  kick(0);
  EXPECT_TRUE(runs(0));
}

TEST_F(Session, ADeviceThatCanNotStopEndsTheSession) {
  bring_up();
  device.stop_failure = "a worker does not answer";
  Message message = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{0});
  message.flags |= VHOST_USER_NEED_REPLY_MASK;
  auto reply = session->handle(std::move(message));
  ASSERT_FALSE(reply) << "no promise can be made any more, not even a refusal";
  EXPECT_EQ(reply.error().code, ErrorCode::kTimeout);
}

TEST_F(Session, EndLetsGoOfEverything) {
  const size_t before = open_fds();
  bring_up();
  tell(VHOST_USER_SET_VRING_CALL, uint64_t{0}, make_event());
  EXPECT_GT(open_fds(), before);
  session->end();
  EXPECT_TRUE(device.running.empty());
  EXPECT_EQ(device.negotiated, 0U);
  EXPECT_EQ(open_fds(), before);
  EXPECT_EQ(mappings_of("peer-memory"), 0U);
  session->end();
}

TEST_F(Session, LegacyRingMayEndWithoutEventFields) {
  // Without EVENT_IDX the used ring of 64 entries has 4 + 8 * 64 bytes: let them be the last.
  negotiate();
  share();
  auto addresses = ring_at(0);
  addresses.used_user_addr = kUser + kSize - (4 + 8 * 64);
  tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, kRingSize});
  tell(VHOST_USER_SET_VRING_ADDR, addresses);
  kick(0);
  EXPECT_TRUE(runs(0)) << why(0);
  tell(VHOST_USER_SET_FEATURES, kFeatures | VIRTIO_F_EVENT_IDX);
  EXPECT_FALSE(runs(0)) << "avail_event would lie outside";
}

// In-flight tracking ------------------------------------------------------------------------------

VhostUserInflight inflight_for(uint16_t queues, uint16_t size) {
  VhostUserInflight told{};
  told.num_queues = queues;
  told.queue_size = size;
  return told;
}

TEST_F(Session, GivesInflightRegionsAsOftenAsItIsAskedAndKeepsNone) {
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  tell(VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
  const size_t before = open_fds();
  for (int i = 0; i < 100; ++i) {  // CVE-2020-10726
    const auto reply = send(make_request(VHOST_USER_GET_INFLIGHT_FD, inflight_for(2, 64)));
    ASSERT_TRUE(reply && *reply);
    EXPECT_EQ((*reply)->fds.size(), 1u);
    EXPECT_EQ((*reply)->get<VhostUserInflight>()->mmap_size, 2u * 1088);
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Session, WhatAnotherBackEndHadTakenIsReturnedFirst) {
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  tell(VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
  auto reply = send(make_request(VHOST_USER_GET_INFLIGHT_FD, inflight_for(1, kRingSize)));
  ASSERT_TRUE(reply && *reply);
  const auto told = *(*reply)->get<VhostUserInflight>();
  UniqueFd fd = std::move((*reply)->fds.front());
  auto* bytes = static_cast<uint8_t*>(
      mmap(nullptr, told.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(bytes, MAP_FAILED);
  bytes[8] = 1;                                 // version
  bytes[10] = static_cast<uint8_t>(kRingSize);  // desc_num
  bytes[16 + 16 * 3] = 1;                       // entry 3 is in flight
  bytes[16 + 16 * 3 + 8] = 9;                   // since later ...
  bytes[16 + 16 * 5] = 1;
  bytes[16 + 16 * 5 + 8] = 8;  // ... than entry 5
  tell(VHOST_USER_SET_INFLIGHT_FD, told, std::move(fd));
  share();
  set_ring(0);
  kick(0);
  ASSERT_TRUE(device.running.contains(0));
  EXPECT_THAT(device.running[0].in_flight, testing::ElementsAre(5, 3));
  EXPECT_EQ(bytes[16 + 16 * 3], 0);  // returned
  EXPECT_EQ(bytes[16 + 16 * 5], 0);
  munmap(bytes, told.mmap_size);
}

// Hand-over ---------------------------------------------------------------------------------------

/// What lies in `lent` as another process receives it.
FdParcel delivered(const FdParcel& lent) {
  std::vector<UniqueFd> fds;
  for (const int fd : lent.lent()) fds.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return FdParcel(std::move(fds));
}

TEST_F(Session, GoesOnInAnotherProcess) {
  bring_up();
  tell(VHOST_USER_SET_VRING_CALL, uint64_t{0}, make_event());
  tell(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{0, 1});
  tell(VHOST_USER_NET_SET_MTU, uint64_t{1400});
  device.progress[0] = 5;
  ASSERT_TRUE(session->pause());
  EXPECT_TRUE(device.running.empty());
  FdParcel lent;
  const nlohmann::json values = pack(session->state(), lent);
  FdParcel fds = delivered(lent);
  session.reset();

  RecordingDevice other;
  BackendSession next(other);
  auto state = unpack(values, fds);
  ASSERT_TRUE(state);
  ASSERT_TRUE(next.adopt(std::move(*state)));
  ASSERT_TRUE(other.running.contains(0));
  const RingStart& ring = other.running[0];
  EXPECT_EQ(ring.base, 5u);
  EXPECT_TRUE(ring.controls.enabled);
  EXPECT_TRUE(ring.controls.kick);
  EXPECT_TRUE(ring.controls.call);
  EXPECT_FALSE(ring.controls.err);
  EXPECT_EQ(size_of(ring.layout), kRingSize);
  EXPECT_EQ(other.mtu, 1400u);
  EXPECT_EQ(other.negotiated, VIRTIO_F_VERSION_1);
  EXPECT_FALSE(other.running.contains(1));
}

TEST_F(Session, GoesOnWhenNobodyTookOver) {
  bring_up();
  device.progress[0] = 3;
  ASSERT_TRUE(session->pause());
  session->resume();
  ASSERT_TRUE(device.running.contains(0));
  EXPECT_EQ(device.running[0].base, 3u);
  EXPECT_EQ(get_base(0).value(), 3u);
}

TEST_F(Session, RingsThatTheFrontEndStoppedStayStopped) {
  bring_up();
  ASSERT_TRUE(get_base(0));
  ASSERT_TRUE(session->pause());
  session->resume();
  EXPECT_TRUE(device.running.empty());
}

TEST_F(Session, WhatAnotherDeviceHadIsRefused) {
  bring_up();
  ASSERT_TRUE(session->pause());
  const auto try_with = [&](auto change) {
    FdParcel lent;
    nlohmann::json values = pack(session->state(), lent);
    change(values);
    FdParcel fds = delivered(lent);
    auto state = unpack(values, fds);
    if (!state) return state.error().code;
    RecordingDevice other;
    BackendSession next(other);
    auto adopted = next.adopt(std::move(*state));
    EXPECT_FALSE(adopted);
    EXPECT_TRUE(other.running.empty());
    return adopted ? ErrorCode::kSystem : adopted.error().code;
  };
  EXPECT_EQ(try_with([](auto& v) { v["version"] = 99; }), ErrorCode::kUnsupported);
  EXPECT_EQ(try_with([](auto& v) { v["features"] = ~uint64_t{0}; }), ErrorCode::kProtocol);
  EXPECT_EQ(try_with([](auto& v) { v["vrings"].push_back(v["vrings"][0]); }), ErrorCode::kProtocol);
  EXPECT_EQ(try_with([](auto& v) { v["slots"][0]["fd"] = 1000; }), ErrorCode::kProtocol);
  EXPECT_EQ(try_with([](auto& v) { v["slots"][0]["fd"] = -1; }), ErrorCode::kProtocol);
  EXPECT_EQ(try_with([](auto& v) { v["slots"][0]["size"] = uint64_t{1} << 40; }),
            ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace pollux::vhost
