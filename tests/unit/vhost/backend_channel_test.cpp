// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/backend_channel.hpp"

#include <gtest/gtest.h>

#include "pollux/vhost/backend_connection.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using namespace spec;
using test::copy_of;
using test::make_event;
using test::make_pair;
using test::open_fds;
using test::RecordingDevice;

constexpr uint64_t kNeeded = VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_BACKEND_REQ |
                             VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD | VHOST_USER_PROTOCOL_F_CONFIG;

Message config_change() { return make_request(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG); }

Message answer_to(uint32_t request, uint64_t verdict = 0) { return make_reply(request, verdict); }

/// A channel and the front end's end of it.
struct Channel : testing::Test {
  UniqueFd far;
  std::optional<BackendChannel> channel;

  void SetUp() override {
    auto [near, other] = make_pair();
    far = std::move(other);
    ASSERT_TRUE(BackendChannel::check_socket(near.get()));
    channel.emplace(std::make_shared<const UniqueFd>(std::move(near)));
  }
  void say(const Message& message) { ASSERT_TRUE(test::send_raw(far.get(), test::wire(message))); }
};

TEST_F(Channel, AnswersComeInOrder) {
  std::vector<int> got;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(channel->send(config_change(), [&got, i](const Result<Message>& answer) {
      ASSERT_TRUE(answer);
      got.push_back(static_cast<int>(*answer->get<uint64_t>()) * 10 + i);
    }));
  }
  EXPECT_EQ(test::receive_raw(far.get()).bytes.size(), 3U * sizeof(VhostUserHeader));
  for (uint64_t i = 1; i <= 3; ++i) say(answer_to(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, i));
  ASSERT_TRUE(channel->on_ready());
  EXPECT_EQ(got, (std::vector<int>{10, 21, 32}));
  EXPECT_FALSE(channel->busy());
}

TEST_F(Channel, ADescriptorGoesAlong) {
  Message message = config_change();
  message.fds.push_back(make_event());
  ASSERT_TRUE(channel->send(std::move(message)));
  EXPECT_EQ(test::receive_raw(far.get()).fds, 1U);
}

TEST_F(Channel, WhatNobodyAskedForEndsIt) {
  say(answer_to(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG));
  const auto ended = channel->on_ready();
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, ErrorCode::kProtocol);
}

TEST_F(Channel, AnAnswerToSomethingElseEndsIt) {
  ASSERT_TRUE(channel->send(config_change(), [](const Result<Message>&) {}));
  say(answer_to(VHOST_USER_BACKEND_IOTLB_MSG));
  EXPECT_FALSE(channel->on_ready());
}

TEST_F(Channel, ARequestInPlaceOfAnAnswerEndsIt) {
  ASSERT_TRUE(channel->send(config_change(), [](const Result<Message>&) {}));
  say(make_request(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, uint64_t{0}));
  EXPECT_FALSE(channel->on_ready());
}

TEST_F(Channel, AnAnswerWithoutVerdictEndsIt) {
  ASSERT_TRUE(channel->send(config_change(), [](const Result<Message>&) {}));
  Message empty = make_request(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
  empty.flags |= VHOST_USER_REPLY_MASK;
  say(empty);
  EXPECT_FALSE(channel->on_ready());
}

TEST_F(Channel, AFrontEndThatNeverAnswersIsGivenUp) {
  bool told = false;
  ASSERT_TRUE(channel->send(config_change(), [&](const Result<Message>& a) { told = !a; }));
  for (uint32_t i = 0; i < BackendChannel::kPatience; ++i) ASSERT_TRUE(channel->tick());
  const auto late = channel->tick();
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kTimeout);
  channel->give_up(late.error());
  EXPECT_TRUE(told);
}

TEST_F(Channel, AFrontEndThatNeverReadsIsBoundedAndGivenUp) {
  size_t sent = 0;
  Status ok;
  while ((ok = channel->send(config_change()))) ASSERT_LT(++sent, 1'000'000U);
  EXPECT_EQ(ok.error().code, ErrorCode::kResource);
  EXPECT_NE(channel->events() & 4U, 0U) << "EPOLLOUT";
  for (uint32_t i = 0; i < BackendChannel::kPatience; ++i) ASSERT_TRUE(channel->tick());
  EXPECT_FALSE(channel->tick());
}

TEST_F(Channel, TooManyQuestionsWait) {
  const auto ignore = [](const Result<Message>&) {};
  for (size_t i = 0; i < BackendChannel::kMaxUnanswered; ++i) {
    ASSERT_TRUE(channel->send(config_change(), ignore));
  }
  EXPECT_FALSE(channel->send(config_change(), ignore));
  say(answer_to(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG));
  ASSERT_TRUE(channel->on_ready());
  EXPECT_TRUE(channel->send(config_change(), ignore));
}

/// A connection whose front end has given a channel.
struct WayBack : testing::Test {
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  RecordingDevice device;
  std::vector<std::string> log;
  UniqueFd main;
  UniqueFd back;
  std::unique_ptr<BackendConnection> connection;
  std::string closed;

  void SetUp() override {
    device.offering.features |= VIRTIO_F_ACCESS_PLATFORM;
    auto [near, far] = make_pair();
    main = std::move(far);
    connection = std::move(*BackendConnection::create(
        *loop, std::move(near), device,
        Log([this](LogLevel, std::string_view text) { log.emplace_back(text); }),
        [this](const Error& error) { closed = error.what; }));
  }
  uint64_t ask(const Message& message, const std::vector<int>& fds = {}) {
    EXPECT_TRUE(test::send_raw(main.get(), test::wire(message), fds));
    connection->poll();
    const auto got = test::receive_raw(main.get());
    uint64_t verdict = ~uint64_t{0};
    if (got.bytes.size() >= 20) std::memcpy(&verdict, got.bytes.data() + 12, sizeof(verdict));
    return verdict;
  }
  void tell(const Message& message) {
    ASSERT_TRUE(test::send_raw(main.get(), test::wire(message)));
    connection->poll();
  }
  uint64_t give(int fd) {
    Message message = make_request(VHOST_USER_SET_BACKEND_REQ_FD);
    message.flags |= VHOST_USER_NEED_REPLY_MASK;
    return ask(message, {fd});
  }
  void negotiate(uint64_t protocol = kNeeded) {
    tell(make_request(VHOST_USER_SET_PROTOCOL_FEATURES, protocol));
  }
  void give_channel() {
    auto [near, far] = make_pair();
    back = std::move(far);
    ASSERT_EQ(give(near.get()), 0U);
  }
  template <typename Condition>
  void run_until(Condition condition) {
    for (int i = 0; i < 1000 && !condition(); ++i)
      (void)loop->run_once(std::chrono::milliseconds(20));
    ASSERT_TRUE(condition());
  }
};

TEST_F(WayBack, CarriesARequestAndItsAnswer) {
  negotiate();
  EXPECT_FALSE(connection->config_changed()) << "there is no channel yet";
  give_channel();
  ASSERT_TRUE(connection->config_changed());
  EXPECT_EQ(test::to_hex(test::receive_raw(back.get()).bytes),
            "02 00 00 00 01 00 00 00 00 00 00 00");
  uint64_t verdict = 99;
  ASSERT_TRUE(connection->request(config_change(), [&](const Result<Message>& answer) {
    verdict = answer ? *answer->get<uint64_t>() : 98;
  }));
  EXPECT_EQ(test::to_hex(test::receive_raw(back.get()).bytes),
            "02 00 00 00 09 00 00 00 00 00 00 00");
  ASSERT_TRUE(
      test::send_raw(back.get(), test::wire(answer_to(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 7))));
  run_until([&] { return verdict != 99; });
  EXPECT_EQ(verdict, 7U);
}

TEST_F(WayBack, NothingIsSentThatWasNotNegotiated) {
  negotiate(VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_BACKEND_REQ);
  give_channel();
  EXPECT_EQ(connection->config_changed().error().code, ErrorCode::kUnsupported);
  Message lookup = make_request(VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, VhostUserShared{});
  EXPECT_EQ(connection->request(std::move(lookup)).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(connection->request(make_request(99)).error().code, ErrorCode::kUnsupported);
  Message miss = make_request(VHOST_USER_BACKEND_IOTLB_MSG, vhost_iotlb_msg{});
  EXPECT_EQ(connection->request(std::move(miss)).error().code, ErrorCode::kUnsupported);
  EXPECT_TRUE(test::receive_raw(back.get()).bytes.empty());
}

TEST_F(WayBack, OnlyAConnectedStreamSocketWillDo) {
  negotiate();
  const size_t before = open_fds();
  EXPECT_EQ(give(make_event().get()), 1U);
  EXPECT_EQ(give(UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)).get()), 1U);
  int datagram[2] = {-1, -1};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagram), 0);
  EXPECT_EQ(give(datagram[0]), 1U);
  ::close(datagram[0]);
  ::close(datagram[1]);
  EXPECT_EQ(connection->session().channel(), nullptr);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(closed.empty()) << closed;
}

TEST_F(WayBack, ANewChannelTakesThePlaceOfTheOld) {
  negotiate();
  give_channel();
  const size_t before = open_fds();
  for (int i = 0; i < 5; ++i) {
    const UniqueFd old = std::move(back);
    give_channel();
    EXPECT_TRUE(test::receive_raw(old.get()).end);
  }
  EXPECT_EQ(open_fds(), before);
  ASSERT_TRUE(connection->config_changed());
  EXPECT_EQ(test::receive_raw(back.get()).bytes.size(), 12U);
}

TEST_F(WayBack, LosingTheChannelDoesNotCostTheSession) {
  negotiate();
  give_channel();
  Status outcome;
  ASSERT_TRUE(connection->request(
      config_change(), [&](const Result<Message>& answer) { outcome = Status(forward(answer)); }));
  back.reset();
  run_until([&] { return connection->session().channel() == nullptr; });
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ErrorCode::kDisconnected);
  EXPECT_FALSE(connection->session().state().channel_problem.empty());
  EXPECT_FALSE(connection->config_changed());
  EXPECT_TRUE(closed.empty());
  EXPECT_EQ(log.size(), 1U);
  give_channel();
  EXPECT_TRUE(connection->session().state().channel_problem.empty());
  EXPECT_TRUE(connection->config_changed());
}

TEST_F(WayBack, AnAnswerMayLeadToTheNextRequest) {
  negotiate();
  give_channel();
  int answers = 0;
  BackendChannel::Answered next = [&](const Result<Message>& answer) {
    if (answer && ++answers < 3) (void)connection->request(config_change(), next);
    // The front end hangs up while its last answer is dealt with.
    if (answers == 3) {
      back.reset();
      EXPECT_TRUE(connection->request(config_change()));
    }
  };
  ASSERT_TRUE(connection->request(config_change(), next));
  for (int i = 1; i <= 3; ++i) {
    ASSERT_TRUE(
        test::send_raw(back.get(), test::wire(answer_to(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG))));
    run_until([&] { return answers == i; });
  }
  run_until([&] { return connection->session().channel() == nullptr; });
}

TEST_F(WayBack, ClosedWithTheConnection) {
  const size_t before = open_fds();
  negotiate();
  give_channel();
  EXPECT_EQ(open_fds(), before + 2);
  connection->close(Error{ErrorCode::kProtocol, 0, "test"});
  EXPECT_TRUE(test::receive_raw(back.get()).end);
  back.reset();
  EXPECT_EQ(open_fds(), before - 1) << "the connection's socket went too";
}

}  // namespace
}  // namespace pollux::vhost
