// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/request_table.hpp"

#include <gtest/gtest.h>

#include <set>

namespace pollux::vhost {
namespace {

TEST(RequestTable, HasOneRowForEachRequestOfTheText) {
  std::set<uint32_t> ids;
  std::set<std::string_view> names;
  for (const RequestRule& rule : request_rules()) {
    EXPECT_TRUE(ids.insert(rule.request).second) << rule.name;
    EXPECT_TRUE(names.insert(rule.name).second) << rule.name;
    EXPECT_LE(rule.min_payload, rule.max_payload) << rule.name;
    EXPECT_LE(rule.max_payload, kMaxPayload) << rule.name;
    EXPECT_LE(rule.min_fds, rule.max_fds) << rule.name;
    EXPECT_LE(rule.max_fds, spec::kMaxMessageFds) << rule.name;
    EXPECT_EQ(find_rule(rule.request), &rule);
  }
  EXPECT_EQ(*ids.begin(), 1U);
  EXPECT_EQ(*ids.rbegin(), 44U);
  EXPECT_EQ(ids.size(), 44U);
}

TEST(RequestTable, NamesRequests) {
  EXPECT_EQ(request_name(5), "SET_MEM_TABLE");
  EXPECT_EQ(request_name(99), "request 99");
  EXPECT_EQ(find_rule(0), nullptr);
  EXPECT_EQ(find_rule(45), nullptr);
}

TEST(RequestTable, ChecksPayloadAndDescriptors) {
  const RequestRule& rule = *find_rule(spec::VHOST_USER_SET_VRING_NUM);
  Message message = make_request(spec::VHOST_USER_SET_VRING_NUM, uint64_t{0});
  EXPECT_TRUE(check_request(rule, message, {}));
  message.fds.emplace_back(::dup(0));
  EXPECT_FALSE(check_request(rule, message, {}));
  message.fds.clear();
  message.payload.pop_back();
  auto shorter = check_request(rule, message, {});
  ASSERT_FALSE(shorter);
  EXPECT_EQ(shorter.error().what, "it has 7 bytes of payload instead of 8");
}

TEST(RequestTable, ChecksWhatWasNegotiated) {
  const RequestRule& slots = *find_rule(spec::VHOST_USER_GET_MAX_MEM_SLOTS);
  const uint64_t bit = spec::VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
  const Message message = make_request(spec::VHOST_USER_GET_MAX_MEM_SLOTS);
  EXPECT_TRUE(check_request(slots, message, {0, bit, bit}));
  auto missing = check_request(slots, message, {0, 0, bit});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().what, "protocol feature CONFIGURE_MEM_SLOTS was not negotiated");
  EXPECT_EQ(missing.error().code, ErrorCode::kUnsupported);
  // GET_QUEUE_NUM may come before SET_PROTOCOL_FEATURES.
  const RequestRule& queues = *find_rule(spec::VHOST_USER_GET_QUEUE_NUM);
  EXPECT_TRUE(check_request(queues, make_request(spec::VHOST_USER_GET_QUEUE_NUM),
                            {0, 0, spec::VHOST_USER_PROTOCOL_F_MQ}));
}

TEST(RequestTable, NamesProtocolFeatures) {
  EXPECT_EQ(protocol_feature_names(0b1001), (std::vector<std::string>{"MQ", "REPLY_ACK"}));
  EXPECT_EQ(protocol_feature_names(uint64_t{1} << 40), (std::vector<std::string>{"bit 40"}));
}

}  // namespace
}  // namespace pollux::vhost
