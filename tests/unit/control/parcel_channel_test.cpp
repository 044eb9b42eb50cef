// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/parcel_channel.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "pollux/control/config_parcel.hpp"

namespace pollux::control {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Parcels : public testing::Test {
 protected:
  Parcels() {
    std::array<int, 2> ends{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
    giver_ = std::make_unique<ParcelChannel>(UniqueFd(ends[0]), clock_);
    taker_ = std::make_unique<ParcelChannel>(UniqueFd(ends[1]), clock_);
  }
  SteadyClock clock_;
  std::unique_ptr<ParcelChannel> giver_;
  std::unique_ptr<ParcelChannel> taker_;
};

ino_t inode(int fd) {
  struct stat st{};
  EXPECT_EQ(fstat(fd, &st), 0);
  return st.st_ino;
}

TEST_F(Parcels, ValuesArriveAsTheyWere) {
  const nlohmann::json values{{"a", 1}, {"b", -1}, {"c", "text"}, {"d", {1, 2, 3}}};
  ASSERT_TRUE(giver_->send(HandOverStep::kOffer, values, FdParcel(), seconds(20)));
  const auto came = taker_->expect(HandOverStep::kOffer, seconds(20));
  ASSERT_TRUE(came);
  EXPECT_EQ(came->values, values);
}

TEST_F(Parcels, MoreDescriptorsThanOneMessageHolds) {
  std::vector<UniqueFd> files;
  FdParcel lent;
  std::vector<int64_t> numbers;
  for (int i = 0; i < 600; ++i) {
    files.emplace_back(memfd_create("test", MFD_CLOEXEC));
    ASSERT_TRUE(files.back());
    numbers.push_back(lent.lend(files.back().get()));
  }
  EXPECT_EQ(lent.lend(-1), FdParcel::kNone);
  // More values than the socket holds at once, too.
  const nlohmann::json values{{"much", std::string(1 << 20, 'x')}};
  std::thread giving(
      [&] { EXPECT_TRUE(giver_->send(HandOverStep::kState, values, lent, seconds(20))); });
  auto came = taker_->receive(seconds(20));
  giving.join();
  ASSERT_TRUE(came);
  EXPECT_EQ(came->values, values);
  for (size_t i = 0; i < files.size(); ++i) {
    auto fd = came->fds.take(numbers[i]);
    ASSERT_TRUE(fd);
    EXPECT_EQ(inode(fd->get()), inode(files[i].get()));
  }
  EXPECT_FALSE(came->fds.take(0));    // taken already
  EXPECT_FALSE(came->fds.take(600));  // never came
  EXPECT_FALSE(came->fds.take(FdParcel::kNone).value());
}

TEST_F(Parcels, WhatIsNoMessageIsRefused) {
  const std::array<char, 64> nonsense{};
  ASSERT_EQ(send(giver_->fd(), nonsense.data(), nonsense.size(), 0), 64);
  const auto came = taker_->receive(seconds(20));
  ASSERT_FALSE(came);
  EXPECT_EQ(came.error().code, ErrorCode::kProtocol);
}

TEST_F(Parcels, TheOtherSidesSentenceIsPassedOn) {
  ASSERT_TRUE(
      giver_->send(HandOverStep::kAbort, {{"error", "not today"}}, FdParcel(), seconds(20)));
  const auto came = taker_->expect(HandOverStep::kState, seconds(20));
  ASSERT_FALSE(came);
  EXPECT_EQ(came.error().what, "not today");
}

TEST_F(Parcels, SilenceAndAnEndAreToldApart) {
  EXPECT_EQ(taker_->receive(milliseconds(1)).error().code, ErrorCode::kTimeout);
  ASSERT_TRUE(giver_->send(HandOverStep::kReady, seconds(20)));
  taker_->close_receiving();
  EXPECT_TRUE(taker_->expect(HandOverStep::kReady, seconds(20)));  // it had come before
  EXPECT_EQ(taker_->receive(seconds(20)).error().code, ErrorCode::kDisconnected);
  EXPECT_EQ(giver_->send(HandOverStep::kReady, seconds(20)).error().code, ErrorCode::kDisconnected);
}

TEST(ConfigParcel, ComesBackAsItWas) {
  SwitchConfig config;
  config.engine.cpus = {0, 3};
  config.engine.idle = IdlePolicy::kPoll;
  config.engine.fdb.capacity = 1024;
  config.engine.fdb.max_age_s = 7;
  config.seed = 0xfedc'ba98'7654'3210;
  config.pool.packets = 5000;
  config.pool.pages = HugePages::kRequire;
  config.control_socket = "/run/x.sock";
  config.control_mode = 0660;
  config.state_dir = "/run/x";
  const std::vector<NumberedPort> ports{
      {4, NamedPortSpec::parse("v0=vhost-user:/tmp/a\\,b,queues=2").value()}};
  const auto back = unpack_config(pack_config(config, ports));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->config.engine.cpus, config.engine.cpus);
  EXPECT_EQ(back->config.engine.idle, config.engine.idle);
  EXPECT_EQ(back->config.engine.fdb.capacity, 1024u);
  EXPECT_EQ(back->config.engine.fdb.max_age_s, 7u);
  EXPECT_EQ(back->config.seed, config.seed);
  EXPECT_EQ(back->config.pool.packets, 5000u);
  EXPECT_EQ(back->config.pool.pages, HugePages::kRequire);
  EXPECT_EQ(back->config.control_socket, "/run/x.sock");
  EXPECT_EQ(back->config.control_mode, 0660u);
  EXPECT_EQ(back->config.state_dir, "/run/x");
  ASSERT_EQ(back->ports.size(), 1u);
  EXPECT_EQ(back->ports[0].index, 4);
  EXPECT_EQ(back->ports[0].port.name, "v0");
  EXPECT_EQ(back->ports[0].port.spec.to_string(), ports[0].port.spec.to_string());
}

TEST(ConfigParcel, AddressesComeBackAsTheyWere) {
  const std::vector<stage::FdbEntry> entries{
      {net::MacAddress::from_key(0x0605'0403'0200), 4095, 1023, 77},
      {net::MacAddress::from_key(0xffff'ffff'fffe), 0, 0, 0xffff'ffff}};
  const auto back = unpack_addresses(pack_addresses(entries));
  ASSERT_EQ(back.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(back[i].mac.key(), entries[i].mac.key());
    EXPECT_EQ(back[i].vlan, entries[i].vlan);
    EXPECT_EQ(back[i].port, entries[i].port);
    EXPECT_EQ(back[i].last_seen_s, entries[i].last_seen_s);
  }
}

}  // namespace
}  // namespace pollux::control
