// SPDX-License-Identifier: Apache-2.0
// A running control queue and the descriptors that its front end gives, keeps and replaces.
#include "pollux/ports/vhost_user/control_queue.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/guest.hpp"

namespace pollux::vhost_user {
namespace {

using test::Bytes;
using test::DriverImage;
using test::Guest;
using test::kNext;
using test::kWrite;

vhost::SharedFd copy_of(const UniqueFd& fd) {
  return std::make_shared<const UniqueFd>(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

class ControlQueueTest : public testing::Test {
 protected:
  vhost::RingStart start(const UniqueFd& kick) {
    vhost::RingStart start;
    start.index = 2;
    start.layout = image_.layout();
    start.features = spec::VIRTIO_F_VERSION_1;
    start.controls.enabled = true;
    start.controls.kick = copy_of(kick);
    start.memory = guest_.shared_memory();
    return start;
  }
  void offer_command() {
    image_.desc(0, guest_.place(Bytes(3)), 3, kNext, 1);
    image_.desc(1, guest_.allocate(1), 1, kWrite);
    image_.offer(0);
  }
  bool kick(const UniqueFd& fd) {
    EXPECT_EQ(eventfd_write(fd.get(), 1), 0);
    return *loop_->run_once(Nanos(0));
  }

  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  DriverImage image_{16};
  Guest guest_{64 << 10};
  unsigned commands_ = 0;
  LiveControl::Execute execute_ = [this](auto) { return ++commands_ != 0; };
};

TEST_F(ControlQueueTest, AKickCarriesOutWhatIsThere) {
  const UniqueFd fd(eventfd(0, EFD_NONBLOCK));
  ControlQueue queue(*loop_, start(fd), {}, execute_);
  offer_command();
  EXPECT_TRUE(kick(fd));
  EXPECT_EQ(commands_, 1U);
  EXPECT_EQ(image_.used_idx(), 1);
}

// What we close lives on with the front end, and with it a watch that was not ended before.
TEST_F(ControlQueueTest, ADescriptorThatWasReplacedIsNotWatchedAnyMore) {
  const UniqueFd before(eventfd(0, EFD_NONBLOCK));
  const UniqueFd after(eventfd(0, EFD_NONBLOCK));
  ControlQueue queue(*loop_, start(before), {}, execute_);
  queue.update(start(after).controls);
  offer_command();
  EXPECT_FALSE(kick(before));
  EXPECT_EQ(commands_, 0U);
  EXPECT_TRUE(kick(after));
  EXPECT_EQ(commands_, 1U);
}

TEST_F(ControlQueueTest, TheDriverIsToldOnceThatItsRingBroke) {
  const UniqueFd fd(eventfd(0, EFD_NONBLOCK));
  const UniqueFd err(eventfd(0, EFD_NONBLOCK));
  auto ring = start(fd);
  ring.controls.err = copy_of(err);
  ControlQueue queue(*loop_, ring, {}, execute_);
  std::vector<std::string> said;
  const Log log([&](LogLevel, std::string_view text) { said.emplace_back(text); });
  queue.report_if_broken(log);
  EXPECT_TRUE(said.empty());
  image_.offer(16);  // there are 16 descriptors
  EXPECT_TRUE(kick(fd));
  for (int i = 0; i < 2; ++i) queue.report_if_broken(log);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_THAT(said[0], testing::HasSubstr("the control queue is stopped"));
  eventfd_t count = 0;
  EXPECT_EQ(eventfd_read(err.get(), &count), 0);
  EXPECT_EQ(count, 1U);
}

}  // namespace
}  // namespace pollux::vhost_user
