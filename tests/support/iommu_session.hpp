// SPDX-License-Identifier: Apache-2.0
// A session behind a virtual IOMMU, its front end played by hand over both sockets.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pollux/vhost/backend_connection.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::test {

using namespace spec;  // NOLINT(google-build-using-namespace): tests speak the text's names
using vhost::BackendConnection;
using vhost::IotlbCounters;
using vhost::make_reply;
using vhost::make_request;
using vhost::Message;
using vhost::RingStart;

inline constexpr uint64_t kIommuFeatures =
    VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VHOST_USER_F_PROTOCOL_FEATURES;
inline constexpr uint64_t kIommuProtocol = VHOST_USER_PROTOCOL_F_REPLY_ACK |
                                           VHOST_USER_PROTOCOL_F_BACKEND_REQ |
                                           VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
inline constexpr uint64_t kIova = 0x40000000;  // where the guest's IOMMU shows page 0
inline constexpr uint64_t kEnd = ~uint64_t{0};

struct Question {
  uint64_t iova;
  unsigned perm;
  bool operator==(const Question&) const = default;
};

struct IommuSession : testing::Test {
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  RecordingDevice device;
  UniqueFd main;
  UniqueFd back;
  std::unique_ptr<BackendConnection> connection;
  std::string closed;

  void SetUp() override {
    device.offering.features |= VIRTIO_F_ACCESS_PLATFORM;
    auto [near, far] = make_pair();
    main = std::move(far);
    connection = std::move(*BackendConnection::create(
        *loop, std::move(near), device, {}, [this](const Error& error) { closed = error.what; }));
  }

  /// Sends a message; the verdict of the reply, or -1 without one.
  int64_t say(const Message& message, const std::vector<int>& fds = {}) {
    EXPECT_TRUE(send_raw(main.get(), wire(message), fds));
    connection->poll();
    const auto got = receive_raw(main.get());
    int64_t verdict = -1;
    if (got.bytes.size() >= 20) std::memcpy(&verdict, got.bytes.data() + 12, sizeof(verdict));
    return verdict;
  }
  void negotiate(uint64_t protocol = kIommuProtocol) {
    say(make_request(VHOST_USER_SET_PROTOCOL_FEATURES, protocol));
    say(make_request(VHOST_USER_SET_FEATURES, kIommuFeatures));
  }
  void give_channel() {
    auto [near, far] = make_pair();
    back = std::move(far);
    say(make_request(VHOST_USER_SET_BACKEND_REQ_FD), {near.get()});
  }
  void share() {
    Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
    table.put(region_at(0));
    const UniqueFd memory = make_memory(kSize);
    say(table, {memory.get()});
  }
  /// Ring `index` where ring_at() has it, but by its address behind the IOMMU.
  void set_ring(uint32_t index) {
    say(make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{index, kRingSize}));
    say(make_request(VHOST_USER_SET_VRING_ADDR, ring_at(index, kIova)));
    const UniqueFd kick = make_event();
    say(make_request(VHOST_USER_SET_VRING_KICK, uint64_t{index}), {kick.get()});
  }
  void bring_up() {
    negotiate();
    give_channel();
    share();
    set_ring(0);
  }
  int64_t iotlb(uint8_t type, uint64_t iova, uint64_t size, uint64_t user = 0, uint8_t perm = 3) {
    return say(
        make_request(VHOST_USER_IOTLB_MSG, vhost_iotlb_msg{iova, size, user, perm, type, {}}));
  }
  int64_t map(uint64_t page, uint64_t pages = 1, uint8_t perm = 3) {
    return iotlb(VHOST_IOTLB_UPDATE, kIova + page * kPage, pages * kPage, kUser + page * kPage,
                 perm);
  }
  int64_t unmap(uint64_t page, uint64_t pages = 1) {
    return iotlb(VHOST_IOTLB_INVALIDATE, kIova + page * kPage, pages * kPage);
  }
  /// What the back end has asked since.
  std::vector<Question> questions() {
    const auto got = receive_raw(back.get());
    std::vector<Question> all;
    constexpr size_t kOne = sizeof(VhostUserHeader) + sizeof(vhost_iotlb_msg);
    EXPECT_EQ(got.bytes.size() % kOne, 0U);
    for (size_t at = 0; at + kOne <= got.bytes.size(); at += kOne) {
      vhost_iotlb_msg message{};
      std::memcpy(&message, got.bytes.data() + at + sizeof(VhostUserHeader), sizeof(message));
      EXPECT_EQ(message.type, VHOST_IOTLB_MISS);
      all.push_back({message.iova, message.perm});
    }
    return all;
  }
  void answer(uint64_t verdict) {
    ASSERT_TRUE(send_raw(back.get(), wire(make_reply(VHOST_USER_BACKEND_IOTLB_MSG, verdict))));
    spin();
  }
  void spin() {
    while (*loop->run_once(Nanos(0))) {
    }
  }
  ring::SplitLayout split_layout(uint16_t index) {
    return std::get<ring::SplitLayout>(device.running[index].layout);
  }
  bool runs(uint16_t index) { return device.running.contains(index); }
  std::string why(uint16_t index) {
    return connection->session().state().vrings[index].stopped_because;
  }
  const IotlbCounters& counters() { return connection->session().state().iotlb; }
};

}  // namespace pollux::test
