// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/codec.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using test::hex;
using test::make_event;
using test::make_pair;
using test::open_fds;
using test::receive_raw;
using test::send_raw;
using test::to_hex;

// SET_VRING_NUM of ring 1, 256 entries: request 8, version 1, 8 bytes.
const std::vector<std::byte> kSetNum =
    hex("08 00 00 00  01 00 00 00  08 00 00 00  01 00 00 00  00 01 00 00");

struct Codec : testing::Test {
  std::pair<UniqueFd, UniqueFd> sockets = make_pair();
  int near = sockets.first.get();
  int far = sockets.second.get();
  MessageReader reader;
};

TEST_F(Codec, ReadsAWholeMessage) {
  ASSERT_TRUE(send_raw(far, kSetNum));
  auto message = reader.read(near);
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->request, 8U);
  EXPECT_EQ((*message)->flags, 1U);
  EXPECT_EQ(to_hex((*message)->payload), "01 00 00 00 00 01 00 00");
  EXPECT_FALSE((*message)->needs_reply());
  auto nothing = reader.read(near);
  ASSERT_TRUE(nothing);
  EXPECT_FALSE(nothing->has_value());
}

TEST_F(Codec, ReadsAMessageThatComesByteByByte) {
  for (size_t i = 0; i < kSetNum.size(); ++i) {
    auto early = reader.read(near);
    ASSERT_TRUE(early && !*early) << "after " << i << " bytes";
    ASSERT_TRUE(send_raw(far, {&kSetNum[i], 1}));
  }
  auto message = reader.read(near);
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->payload.size(), 8U);
}

TEST_F(Codec, SeparatesMessagesThatCameAtOnceWithTheirDescriptors) {
  const UniqueFd event = make_event();
  // SET_VRING_KICK of ring 0 between two messages without descriptors: the stream may glue them.
  const auto kick = hex("0c 00 00 00  01 00 00 00  08 00 00 00  00 00 00 00 00 00 00 00");
  ASSERT_TRUE(send_raw(far, kSetNum));
  ASSERT_TRUE(send_raw(far, kick, {event.get()}));
  ASSERT_TRUE(send_raw(far, kSetNum));
  const size_t expected_fds[] = {0, 1, 0};
  for (const size_t fds : expected_fds) {
    auto message = reader.read(near);
    ASSERT_TRUE(message && *message);
    EXPECT_EQ((*message)->fds.size(), fds);
  }
}

TEST_F(Codec, SplitHeaderKeepsItsDescriptors) {
  const UniqueFd event = make_event();
  ASSERT_TRUE(send_raw(far, {kSetNum.begin(), kSetNum.begin() + 3}, {event.get()}));
  ASSERT_TRUE(reader.read(near).has_value());
  ASSERT_TRUE(send_raw(far, {kSetNum.begin() + 3, kSetNum.end()}));
  auto message = reader.read(near);
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->fds.size(), 1U);
}

TEST_F(Codec, HangUpIsTold) {
  sockets.second.reset();
  auto nothing = reader.read(near);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ErrorCode::kDisconnected);
}

TEST_F(Codec, HangUpInsideAMessageIsTold) {
  ASSERT_TRUE(send_raw(far, {kSetNum.begin(), kSetNum.end() - 1}));
  sockets.second.reset();
  auto nothing = reader.read(near);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ErrorCode::kDisconnected);
  EXPECT_NE(nothing.error().what.find("middle"), std::string::npos);
}

TEST_F(Codec, OtherVersionsAreNotRead) {
  for (const int version : {0, 2, 3}) {
    auto [near_end, far_end] = make_pair();
    auto bytes = kSetNum;
    bytes[4] = static_cast<std::byte>(version);
    ASSERT_TRUE(send_raw(far_end.get(), bytes));
    auto refused = MessageReader().read(near_end.get());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
  }
}

TEST_F(Codec, SizesBeyondAnyMessageAreNotRead) {
  ASSERT_TRUE(send_raw(far, hex("08 00 00 00  01 00 00 00  09 08 00 00")));  // 2057
  auto refused = reader.read(near);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
}

TEST_F(Codec, SurplusDescriptorsAreClosed) {
  const UniqueFd event = make_event();
  const size_t before = open_fds();
  for (const size_t count : {9, 64, 253}) {
    auto [near_end, far_end] = make_pair();
    ASSERT_TRUE(send_raw(far_end.get(), kSetNum, std::vector<int>(count, event.get())));
    auto refused = MessageReader().read(near_end.get());
    ASSERT_FALSE(refused) << count;
    EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Codec, DescriptorsInsideAPayloadAreClosed) {
  const UniqueFd event = make_event();
  const size_t before = open_fds();
  ASSERT_TRUE(send_raw(far, {kSetNum.begin(), kSetNum.begin() + 14}));
  ASSERT_TRUE(reader.read(near).has_value());
  ASSERT_TRUE(send_raw(far, {kSetNum.begin() + 14, kSetNum.end()}, {event.get()}));
  auto refused = reader.read(near);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Codec, UnfinishedMessagesDoNotLeak) {
  const UniqueFd event = make_event();
  const size_t before = open_fds();
  {
    MessageReader unfinished;
    ASSERT_TRUE(send_raw(far, {kSetNum.begin(), kSetNum.begin() + 12}, {event.get()}));
    ASSERT_TRUE(unfinished.read(near).has_value());
    EXPECT_EQ(open_fds(), before + 1);
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Codec, LostDescriptorsAreAShortageOfOurs) {
  const UniqueFd event = make_event();
  const size_t before = open_fds();
  ASSERT_TRUE(send_raw(far, kSetNum, {event.get(), event.get(), event.get()}));
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  rlimit none = limit;
  none.rlim_cur = 3;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  auto refused = reader.read(near);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kResource);
  EXPECT_NE(refused.error().what.find("ulimit"), std::string::npos);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Codec, WritesHeaderPayloadAndDescriptors) {
  const UniqueFd event = make_event();
  const size_t before = open_fds();
  Message message = make_request(8, spec::vhost_vring_state{1, 256});
  message.fds.push_back(test::copy_of(event));
  MessageWriter writer;
  ASSERT_TRUE(writer.send(near, std::move(message)));
  EXPECT_FALSE(writer.pending());
  EXPECT_EQ(open_fds(), before);
  const auto got = receive_raw(far);
  EXPECT_EQ(to_hex(got.bytes), to_hex(kSetNum));
  EXPECT_EQ(got.fds, 1U);
}

TEST_F(Codec, QueuesWhatASlowPeerDoesNotTake) {
  const int small = 1;
  ASSERT_EQ(setsockopt(near, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
  MessageWriter writer;
  Message large = make_request(44);
  large.payload.resize(kMaxPayload);
  const size_t kMessages = 20;
  for (size_t i = 0; i < kMessages; ++i) {
    Message message = make_request(44);
    message.payload = large.payload;
    message.fds.push_back(make_event());
    ASSERT_TRUE(writer.send(near, std::move(message)));
  }
  EXPECT_TRUE(writer.pending());
  size_t bytes = 0;
  size_t fds = 0;
  while (writer.pending()) {
    const auto got = receive_raw(far);
    bytes += got.bytes.size();
    fds += got.fds;
    ASSERT_TRUE(writer.flush(near));
  }
  const auto rest = receive_raw(far);
  EXPECT_EQ(bytes + rest.bytes.size(), kMessages * (12 + kMaxPayload));
  EXPECT_EQ(fds + rest.fds, kMessages);
}

TEST_F(Codec, GivesUpOnAPeerThatNeverReads) {
  const int small = 1;
  ASSERT_EQ(setsockopt(near, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
  MessageWriter writer;
  Status ok;
  size_t accepted = 0;
  for (; ok && accepted < 10000; ++accepted) {
    Message message = make_request(44);
    message.payload.resize(kMaxPayload);
    ok = writer.send(near, std::move(message));
  }
  ASSERT_FALSE(ok);
  EXPECT_EQ(ok.error().code, ErrorCode::kResource);
}

TEST_F(Codec, WritingToNobodyRaisesNoSignal) {
  sockets.second.reset();
  MessageWriter writer;
  const auto ok = writer.send(near, make_request(1));
  ASSERT_FALSE(ok);
  EXPECT_EQ(ok.error().code, ErrorCode::kDisconnected);
}

}  // namespace
}  // namespace pollux::vhost
