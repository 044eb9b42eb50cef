// SPDX-License-Identifier: Apache-2.0
// A whole switch in one process, asked over its control socket.
#include "pollux/control/switch.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pollux/control/client.hpp"

namespace pollux {
namespace {

class SwitchTest : public testing::Test {
 protected:
  SwitchTest() {
    char pattern[] = "/tmp/pollux-switch-XXXXXX";
    directory_ = mkdtemp(pattern);
    config_.control_socket = directory_ + "/c.sock";
    config_.pool.packets = 4096;
    config_.pool.buffers = 1024;
    config_.pool.pages = HugePages::kNever;
    config_.engine.fdb.capacity = 1024;
  }
  ~SwitchTest() override {
    switch_.reset();
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << "nothing is left behind";
  }

  void add(const std::string& text) { config_.ports.push_back(*NamedPortSpec::parse(text)); }

  void create() {
    auto made = Switch::create(config_);
    ASSERT_TRUE(made) << made.error().what;
    switch_ = std::move(*made);
  }

  /// Runs the switch beside `clients`, which may ask it what they like.
  template <typename Clients>
  void run_beside(Clients clients) {
    create();
    const Status started = switch_->start();
    ASSERT_TRUE(started) << started.error().what;
    std::thread thread([&] {
      clients(control::Client(config_.control_socket));
      switch_->request_stop();
    });
    EXPECT_TRUE(switch_->run());
    thread.join();
  }

  SwitchConfig config_;
  std::string directory_;
  std::unique_ptr<Switch> switch_;
};

TEST_F(SwitchTest, PortsAreListedAddedAndTakenAwayWhileItRuns) {
  add("n=null:");
  run_beside([](const control::Client& client) {
    auto stats = client.stats();
    ASSERT_TRUE(stats) << stats.error().what;
    ASSERT_EQ(stats->ports.size(), 1u);
    EXPECT_EQ(stats->ports[0].name, "n");
    EXPECT_EQ(stats->pool.packets, 4096u);
    EXPECT_EQ(stats->workers.size(), 1u);

    EXPECT_TRUE(client.add_port("r", "ring:a"));
    const Status taken = client.add_port("r", "null:");
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().code, ErrorCode::kAlreadyExists);
    const Status unknown = client.add_port("x", "nothing:");
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(unknown.error().what.find("port x: "), std::string::npos) << unknown.error().what;

    stats = client.stats();
    ASSERT_TRUE(stats);
    EXPECT_EQ(stats->ports.size(), 2u);
    EXPECT_TRUE(client.remove_port("n"));
    const Status gone = client.remove_port("n");
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ErrorCode::kNotFound);
    stats = client.stats();
    ASSERT_TRUE(stats);
    ASSERT_EQ(stats->ports.size(), 1u);
    EXPECT_EQ(stats->ports[0].name, "r");
    EXPECT_TRUE(client.fdb());
  });
}

TEST_F(SwitchTest, StatisticsStayReadableAfterTheEnd) {
  add("n=null:");
  run_beside([](const control::Client&) {});
  const SwitchSnapshot last = switch_->snapshot();
  ASSERT_EQ(last.ports.size(), 1u);
  EXPECT_EQ(last.ports[0].info.kind, "null");
  EXPECT_GE(last.uptime, Nanos(0));
  EXPECT_EQ(access(config_.control_socket.c_str(), F_OK), -1) << "the socket is gone";
}

TEST_F(SwitchTest, NamesAreMadeUpWhereNoneIsGiven) {
  create();
  ASSERT_TRUE(switch_->start());
  EXPECT_EQ(*switch_->add_port("port1", "null:"), "port1");
  EXPECT_EQ(*switch_->add_port("", "null:"), "port0");
  EXPECT_EQ(*switch_->add_port("", "null:"), "port2");
}

TEST_F(SwitchTest, AWrongPortEndsTheStart) {
  add("good=null:");
  add("bad=null:,colour=red");
  create();
  const Status started = switch_->start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(started.error().what.find("bad"), std::string::npos);
  EXPECT_EQ(started.error().what.find('\n'), std::string::npos);
}

TEST_F(SwitchTest, TwoOnOneControlSocketAreTold) {
  create();
  ASSERT_TRUE(switch_->start());
  auto second = Switch::create(config_);
  ASSERT_TRUE(second);
  const Status started = (*second)->start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, ErrorCode::kAlreadyExists);
  EXPECT_NE(started.error().what.find("--control"), std::string::npos);
}

TEST_F(SwitchTest, ACpuThatIsNotThereIsAnError) {
  config_.engine.cpus = {4000};
  const auto made = Switch::create(config_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(SwitchTest, EndsAfterATime) {
  create();
  ASSERT_TRUE(switch_->start());
  ASSERT_TRUE(switch_->stop_after(std::chrono::milliseconds(1)));
  EXPECT_TRUE(switch_->run());
}

TEST_F(SwitchTest, SeveralInOneProcess) {
  config_.control_socket.clear();
  std::vector<std::unique_ptr<Switch>> switches;
  for (int i = 0; i < 3; ++i) {
    auto made = Switch::create(config_);
    ASSERT_TRUE(made);
    ASSERT_TRUE((*made)->start());
    ASSERT_TRUE((*made)->add_port("a", "ring:same-name")) << "rings are the program's own";
    ASSERT_TRUE((*made)->add_port("b", "ring:same-name"));
    switches.push_back(std::move(*made));
  }
}

}  // namespace
}  // namespace pollux
