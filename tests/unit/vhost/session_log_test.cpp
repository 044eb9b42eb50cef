// SPDX-License-Identifier: Apache-2.0
// The log of dirty pages, as a front end switches it on and off while rings run.
#include <gtest/gtest.h>

#include "pollux/vhost/backend_session.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using namespace spec;
using test::kGuest;
using test::kPage;
using test::kRingSize;
using test::kSize;
using test::make_event;
using test::make_memory;
using test::mappings_of;
using test::open_fds;
using test::RecordingDevice;
using test::region_at;
using test::ring_at;

constexpr uint64_t kFeatures = VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;
constexpr uint64_t kLogged = kFeatures | VHOST_F_LOG_ALL;
constexpr uint64_t kProtocol = VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_LOG_SHMFD;
constexpr uint64_t kLogBytes = 64;  // pages 0 to 511; the guest's are 256 to 271

using Calls = std::vector<std::string>;

struct SessionLog : testing::Test {
  RecordingDevice device;
  std::optional<BackendSession> session{std::in_place, device};
  UniqueFd log_file = make_memory(kPage, "dirty-log");

  template <typename T>
  void tell(uint32_t request, const T& payload, UniqueFd fd = {}) {
    Message message = make_request(request, payload);
    if (fd) message.fds.push_back(std::move(fd));
    auto reply = session->handle(std::move(message));
    ASSERT_TRUE(reply) << reply.error().what;
    EXPECT_EQ(reply->has_value(), request == VHOST_USER_SET_LOG_BASE);
  }
  void share_log() {
    tell(VHOST_USER_SET_LOG_BASE, VhostUserLog{kLogBytes, 0}, test::copy_of(log_file));
  }
  void set_ring(uint32_t index, bool logged = false) {
    tell(VHOST_USER_SET_VRING_NUM, vhost_vring_state{index, kRingSize});
    tell(VHOST_USER_SET_VRING_ADDR, addresses(index, logged));
    tell(VHOST_USER_SET_VRING_KICK, uint64_t{index}, make_event());
  }
  static vhost_vring_addr addresses(uint32_t index, bool logged) {
    auto addr = ring_at(index);
    addr.flags = logged ? VHOST_VRING_F_LOG : 0;
    addr.log_guest_addr = kGuest + index * kPage + 2048;
    return addr;
  }
  void bring_up(uint64_t features = kFeatures, bool logged = false) {
    tell(VHOST_USER_SET_PROTOCOL_FEATURES, kProtocol);
    tell(VHOST_USER_SET_FEATURES, features);
    Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
    table.put(region_at(0));
    table.fds.push_back(make_memory(kSize));
    ASSERT_TRUE(session->handle(std::move(table)));
    set_ring(0, logged);
    set_ring(1, logged);
  }
  /// What a device does: writes a byte of its buffers and one of its ring.
  void write(uint16_t index) {
    const RingStart& ring = device.running.at(index);
    if (!ring.log) return;
    ring.log->note_buffer(ring.memory->regions()[0].host + (8 + index) * kPage, 1);
    ring.log->note_ring(std::get<ring::SplitLayout>(ring.layout).used, 1);
  }
  /// Pages marked in the front end's file, which is cleared.
  std::vector<uint64_t> marked() {
    std::vector<uint64_t> pages;
    std::array<uint8_t, kPage> bytes{};
    EXPECT_EQ(pread(log_file.get(), bytes.data(), bytes.size(), 0), 4096);
    for (uint64_t page = 0; page < 8 * kPage; ++page) {
      if ((bytes[page / 8] & (1U << (page % 8))) != 0) pages.push_back(page);
    }
    bytes = {};
    EXPECT_EQ(pwrite(log_file.get(), bytes.data(), bytes.size(), 0), 4096);
    return pages;
  }
};

using Pages = std::vector<uint64_t>;

TEST_F(SessionLog, IsOffered) {
  auto features = session->handle(make_request(VHOST_USER_GET_FEATURES));
  EXPECT_NE(*(*features)->get<uint64_t>() & VHOST_F_LOG_ALL, 0U);
  device.offering.protocol_features &= ~VHOST_USER_PROTOCOL_F_LOG_SHMFD;
  session.emplace(device);
  features = session->handle(make_request(VHOST_USER_GET_FEATURES));
  EXPECT_EQ(*(*features)->get<uint64_t>() & VHOST_F_LOG_ALL, 0U);
}

// As QEMU does it: the log, SET_FEATURES, then each ring's addresses again; and the way back.
TEST_F(SessionLog, OnAndOffDoesNotStopRings) {
  bring_up();
  device.calls.clear();
  share_log();
  EXPECT_EQ(device.calls, Calls{}) << "a log alone does nothing";
  tell(VHOST_USER_SET_FEATURES, kLogged);
  EXPECT_EQ(device.calls, (Calls{"log 0", "log 1"}));
  EXPECT_EQ(device.negotiated, VIRTIO_F_VERSION_1) << "not the device's business";
  write(1);
  EXPECT_EQ(marked(), (Pages{265})) << "the ring's own writes are not asked for yet";
  tell(VHOST_USER_SET_VRING_ADDR, addresses(0, true));
  tell(VHOST_USER_SET_VRING_ADDR, addresses(1, true));
  EXPECT_EQ(device.calls, (Calls{"log 0", "log 1", "log 0", "log 1"}));
  write(0);
  write(1);
  EXPECT_EQ(marked(), (Pages{256, 257, 264, 265}));
  tell(VHOST_USER_SET_FEATURES, kLogged);
  EXPECT_EQ(device.calls.size(), 4U) << "nothing new";
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  tell(VHOST_USER_SET_VRING_ADDR, addresses(0, false));
  tell(VHOST_USER_SET_VRING_ADDR, addresses(1, false));
  for (const std::string& call : device.calls) EXPECT_EQ(call.substr(0, 3), "log");
  write(0);
  write(1);
  EXPECT_EQ(marked(), Pages{});
}

TEST_F(SessionLog, OfALegacyFrontEndThatLeavesOutTheProtocolBit) {
  bring_up(VIRTIO_F_VERSION_1);
  share_log();
  device.calls.clear();
  tell(VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1 | VHOST_F_LOG_ALL);
  EXPECT_EQ(device.calls, (Calls{"log 0", "log 1"}));
}

// As QEMU starts a device while a migration runs: the log comes last.
TEST_F(SessionLog, RingsWaitForIt) {
  bring_up(kLogged, true);
  EXPECT_TRUE(device.running.empty());
  EXPECT_EQ(session->state().vrings[0].stopped_because, "the dirty log is not shared yet");
  share_log();
  ASSERT_EQ(device.running.size(), 2U);
  write(0);
  EXPECT_EQ(marked(), (Pages{256, 264}));
}

TEST_F(SessionLog, WithoutOneARingThatIsToBeLoggedStops) {
  bring_up();
  tell(VHOST_USER_SET_FEATURES, kLogged);
  EXPECT_EQ(device.running.size(), 2U) << "a front end that takes whatever is offered";
  tell(VHOST_USER_SET_VRING_ADDR, addresses(1, true));
  EXPECT_FALSE(device.running.contains(1));
  EXPECT_EQ(session->state().vrings[1].stopped_because, "the dirty log is not shared yet");
  tell(VHOST_USER_SET_FEATURES, kFeatures);
  EXPECT_TRUE(device.running.contains(1));
}

// QEMU makes a larger one when memory is plugged in.
TEST_F(SessionLog, IsReplacedUnderRunningRings) {
  bring_up();
  share_log();
  tell(VHOST_USER_SET_FEATURES, kLogged);
  device.calls.clear();
  const UniqueFd old_file = std::exchange(log_file, make_memory(kPage, "dirty-log"));
  share_log();
  EXPECT_EQ(device.calls, (Calls{"log 0", "log 1"}));
  EXPECT_EQ(mappings_of("dirty-log"), 1U) << "nobody uses the one before";
  write(0);
  EXPECT_EQ(marked(), (Pages{264}));
  uint8_t old_byte = 0;
  ASSERT_EQ(pread(old_file.get(), &old_byte, 1, 264 / 8), 1);
  EXPECT_EQ(old_byte, 0);
}

TEST_F(SessionLog, GoesWithTheMemoryThatItSpeaksOf) {
  bring_up(kFeatures);
  share_log();
  tell(VHOST_USER_SET_FEATURES, kLogged);
  // The same guest memory elsewhere: a page further down.
  Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
  auto moved = region_at(0);
  moved.guest_phys_addr -= kPage;
  table.put(moved);
  table.fds.push_back(make_memory(kSize));
  ASSERT_TRUE(session->handle(std::move(table)));
  ASSERT_EQ(device.running.size(), 2U);
  write(0);
  EXPECT_EQ(marked(), (Pages{263}));
}

TEST_F(SessionLog, LeavesNothingBehind) {
  const size_t fds = open_fds();
  bring_up();
  share_log();
  tell(VHOST_USER_SET_LOG_FD, uint64_t{0}, make_event());
  tell(VHOST_USER_SET_FEATURES, kLogged);
  session->end();
  EXPECT_EQ(open_fds(), fds);
  EXPECT_EQ(mappings_of("dirty-log"), 0U);
  EXPECT_EQ(session->dirty_log(), nullptr);
}

}  // namespace
}  // namespace pollux::vhost
