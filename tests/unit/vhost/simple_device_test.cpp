// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/simple_device.hpp"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <optional>

#include "tests/support/guest.hpp"

namespace pollux::vhost {
namespace {

using test::Bytes;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::pattern;

/// A device that answers with what it was asked, and the driver of its only queue.
struct Echo : testing::Test {
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  test::DriverImage image{64};
  test::Guest guest{256 << 10};
  SharedFd kick = std::make_shared<const UniqueFd>(eventfd(0, EFD_NONBLOCK));
  SharedFd call = std::make_shared<const UniqueFd>(eventfd(0, EFD_NONBLOCK));
  SharedFd err = std::make_shared<const UniqueFd>(eventfd(0, EFD_NONBLOCK));
  SimpleDevice device{*loop, {.queues = 1}, [](uint16_t, Chain& chain) {
                        Bytes bytes(chain.readable());
                        EXPECT_EQ(chain.read(bytes), bytes.size());
                        (void)chain.write(bytes);
                      }};

  void start(uint64_t features = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_INDIRECT_DESC) {
    RingStart ring;
    ring.layout = image.layout();
    ring.features = features;
    ring.controls = {.enabled = true, .kick = kick, .call = call, .err = err};
    ring.memory = guest.shared_memory();
    ASSERT_TRUE(device.start_ring(ring));
  }
  void notify() {
    ASSERT_EQ(eventfd_write(kick->get(), 1), 0);
    while (*loop->run_once(Nanos(0))) {
    }
  }
  static bool signalled(const SharedFd& fd) {
    uint64_t value = 0;
    return eventfd_read(fd->get(), &value) == 0;
  }
};

TEST_F(Echo, AnswersAChainOfSeveralPieces) {
  start();
  const Bytes question = pattern(50);
  image.desc(0, guest.place({question.begin(), question.begin() + 20}), 20, kNext, 1);
  image.desc(1, guest.place({question.begin() + 20, question.end()}), 30, kNext, 2);
  const uint64_t first = guest.allocate(7);
  const uint64_t second = guest.allocate(100);
  image.desc(2, first, 7, kWrite | kNext, 3);
  image.desc(3, second, 100, kWrite);
  image.offer(0);
  notify();
  ASSERT_EQ(image.used_idx(), 1);
  EXPECT_EQ(image.used_id(0), 0U);
  EXPECT_EQ(image.used_len(0), 50U);
  EXPECT_EQ(guest.read(first, 7), Bytes(question.begin(), question.begin() + 7));
  EXPECT_EQ(guest.read(second, 43), Bytes(question.begin() + 7, question.end()));
  EXPECT_TRUE(signalled(call));
}

TEST_F(Echo, AnswersMoreThanATurnHolds) {
  start();
  for (uint16_t i = 0; i < 200; ++i) {
    image.desc(i % 64, guest.allocate(1), 1, kWrite);
    image.offer(i % 64);
    if (i % 64 == 63) notify();
  }
  notify();
  EXPECT_EQ(image.used_idx(), 200);
  EXPECT_EQ(*device.stop_ring(0), 200U);
}

TEST_F(Echo, TakesWhatWasThereBeforeItStarted) {
  image.desc(0, guest.allocate(8), 8, kWrite);
  image.offer(0);
  start();
  EXPECT_EQ(image.used_idx(), 1);
}

TEST_F(Echo, AsksForTheNextNotification) {
  start(spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_EVENT_IDX);
  EXPECT_EQ(image.avail_event(), 0);
  for (uint16_t i = 0; i < 3; ++i) {
    image.used_event(i);
    image.desc(i, guest.allocate(8), 8, kWrite);
    image.offer(i);
    notify();
    EXPECT_EQ(image.used_idx(), i + 1);
    EXPECT_EQ(image.avail_event(), i + 1) << "of the next chain";
    EXPECT_TRUE(signalled(call));
  }
}

TEST_F(Echo, ADisabledQueueRests) {
  start();
  device.update_ring(0, {.enabled = false, .kick = kick, .call = call, .err = err});
  image.desc(0, guest.allocate(8), 8, kWrite);
  image.offer(0);
  notify();
  EXPECT_EQ(image.used_idx(), 0);
  device.update_ring(0, {.enabled = true, .kick = kick, .call = call, .err = err});
  EXPECT_EQ(image.used_idx(), 1);
}

TEST_F(Echo, AChainThatBreaksTheRulesStopsItsQueue) {
  const auto cases = {+[](Echo& e) { e.image.desc(0, 8, 8, kWrite); },  // not the guest's
                      +[](Echo& e) { e.image.desc(0, e.guest.allocate(8), 8, kNext, 0); },  // loop
                      +[](Echo& e) { e.image.desc(0, e.guest.allocate(8), 8, kNext, 64); },
                      +[](Echo& e) {  // room before bytes
                        e.image.desc(0, e.guest.allocate(8), 8, kWrite | kNext, 1);
                        e.image.desc(1, e.guest.allocate(8), 8);
                      },
                      +[](Echo& e) { e.image.desc(0, e.guest.allocate(8), 8, kIndirect); }};
  for (const auto& make : cases) {
    image.start_at(0);
    start();
    make(*this);
    image.offer(0);
    notify();
    EXPECT_EQ(image.used_idx(), 0);
    EXPECT_TRUE(signalled(err));
    notify();
    EXPECT_FALSE(signalled(err)) << "said once";
    ASSERT_TRUE(device.stop_ring(0));
  }
}

TEST_F(Echo, OffersWhatItCanDo) {
  const DeviceOffer offer = device.offer();
  EXPECT_EQ(offer.features,
            spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_INDIRECT_DESC | spec::VIRTIO_F_EVENT_IDX);
  EXPECT_EQ(offer.vrings, 1);
  EXPECT_EQ(offer.protocol_features & spec::VHOST_USER_PROTOCOL_F_LOG_SHMFD, 0U);
}

}  // namespace
}  // namespace pollux::vhost
