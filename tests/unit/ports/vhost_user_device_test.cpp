// SPDX-License-Identifier: Apache-2.0
// The vhost-user port's device without a socket: a front end in memory starts and stops rings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pollux/base/peer_fd.hpp"
#include "pollux/engine/engine.hpp"
#include "pollux/ports/vhost_user/device.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux::vhost_user {
namespace {

using test::Bytes;
using test::DriverImage;
using test::Guest;
using test::kWrite;
using test::pattern;
using testing::HasSubstr;

constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF;
constexpr uint32_t kHdr = 12;

/// Plays the workers while control waits for them.
class PlayedWorkers final : public Quiescence {
 public:
  std::function<void()> finish_turns = [] {};
  bool come_by = true;
  unsigned waits = 0;

  bool synchronize(Nanos) noexcept override {
    ++waits;
    finish_turns();
    return come_by;
  }
};

vhost::SharedFd event(unsigned initial = 0) {
  return std::make_shared<const UniqueFd>(eventfd(initial, EFD_NONBLOCK));
}
uint64_t count_of(const vhost::SharedFd& fd) {
  uint64_t value = 0;
  return eventfd_read(fd->get(), &value) == 0 ? value : 0;
}

/// One guest's memory and one of its rings.
struct GuestRing {
  explicit GuestRing(uint32_t size = 64) : image(size), guest(256 << 10) {}

  void offer_frame(const Bytes& frame) {
    Bytes all(kHdr);
    all.insert(all.end(), frame.begin(), frame.end());
    const uint64_t addr = guest.place(all);
    image.desc(next, addr, static_cast<uint32_t>(kHdr + frame.size()));
    image.offer(next++);
  }
  void post(uint32_t size) {
    image.desc(next, guest.allocate(size), size, kWrite);
    image.offer(next++);
  }
  [[nodiscard]] vhost::RingStart start(uint16_t index, bool enabled = true,
                                       uint64_t features = kFeatures) const {
    vhost::RingStart start;
    start.index = index;
    start.layout = image.layout();
    start.features = features;
    start.controls.enabled = enabled;
    start.memory = guest.shared_memory();
    return start;
  }

  DriverImage image;
  Guest guest;
  uint16_t next = 0;
};

class VhostUserDevice : public testing::Test {
 protected:
  explicit VhostUserDevice(uint16_t pairs = 2, unsigned senders = 1,
                           std::chrono::milliseconds enable_grace = {})
      : device_({.queue_pairs = pairs,
                 .senders = senders,
                 .queue_size = 256,
                 .features = kFeatures,
                 .enable_grace = enable_grace},
                workers_, log()),
        rx_(device_.rx_queues()),
        tx_(device_.tx_queues()) {}

  Log log() {
    return Log([this](LogLevel, std::string_view text) { said_.emplace_back(text); });
  }
  std::vector<Bytes> poll(const RxQueue& queue, bool complete = true) {
    Burst burst(pool_.cache());
    queue.poll(queue.self, burst);
    std::vector<Bytes> frames;
    for (const Packet* packet : burst.packets()) frames.push_back(test::bytes_of(*packet));
    burst.clear();
    if (complete) queue.complete(queue.self);
    return frames;
  }
  /// What is left of `count` frames of 60 bytes, and why.
  struct Left {
    size_t count;
    DropReason reason;
  };
  Left send(const TxQueue& queue, unsigned count = 1, bool flush = true) {
    Burst burst(pool_.cache());
    for (unsigned i = 0; i < count; ++i) burst.push(pool_.packet_of(pattern(60, i)));
    const DropReason reason = queue.send(queue.self, burst);
    if (flush) queue.flush(queue.self);
    return {burst.size(), reason};
  }

  test::LeakChecked pool_;
  std::vector<std::string> said_;
  PlayedWorkers workers_;
  NetDevice device_;
  std::vector<RxQueue> rx_;
  std::vector<TxQueue> tx_;
};

TEST_F(VhostUserDevice, OffersItsQueues) {
  const vhost::DeviceOffer offer = device_.offer();
  EXPECT_EQ(offer.vrings, 4);
  EXPECT_EQ(offer.queue_num, 2u);
  EXPECT_EQ(offer.features, kFeatures);
  EXPECT_EQ(rx_.size(), 2u);
  EXPECT_EQ(tx_.size(), 2u);
}

TEST_F(VhostUserDevice, WithoutAPeerNothingComesAndTheReceiverIsDown) {
  EXPECT_TRUE(poll(rx_[0]).empty());
  const Left left = send(tx_[0], 3);
  EXPECT_EQ(left.count, 3u);
  EXPECT_EQ(left.reason, DropReason::receiver_down);
}

TEST_F(VhostUserDevice, RingsCarryAndStop) {
  GuestRing sends;
  GuestRing receives;
  sends.offer_frame(pattern(100));
  receives.post(2000);
  ASSERT_TRUE(device_.start_ring(sends.start(1)));
  ASSERT_TRUE(device_.start_ring(receives.start(0)));
  EXPECT_EQ(poll(rx_[0]), std::vector<Bytes>{pattern(100)});
  EXPECT_EQ(send(tx_[0], 2).count, 1u);  // one buffer was posted
  EXPECT_EQ(sends.image.used_idx(), 1);
  EXPECT_EQ(receives.image.used_idx(), 1);
  EXPECT_EQ(sends.image.used_flags(), 1);  // polled: no notifications wanted
  EXPECT_EQ(device_.stop_ring(1).value(), 1u);
  EXPECT_EQ(device_.stop_ring(0).value(), 1u);
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(send(tx_[0]).reason, DropReason::receiver_down);
  EXPECT_EQ(rx_[0].counters->packets.value(), 1u);  // counters outlive the peer
}

TEST_F(VhostUserDevice, OffloadsThatTheDriverTurnedOffStayOffInANewRing) {
  constexpr uint64_t kOffloads = kFeatures | spec::VIRTIO_NET_F_GUEST_CSUM |
                                 spec::VIRTIO_NET_F_CTRL_VQ |
                                 spec::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
  const auto flags = [&] {
    GuestRing receives;
    const uint64_t addr = receives.guest.allocate(2000);
    receives.image.desc(0, addr, 2000, kWrite);
    receives.image.offer(0);
    EXPECT_TRUE(device_.start_ring(receives.start(0, true, kOffloads)));
    Burst burst(pool_.cache());
    burst.push(pool_.packet_of(pattern(60)));
    burst[0].meta.csum_valid = true;
    (void)tx_[0].send(tx_[0].self, burst);
    tx_[0].flush(tx_[0].self);
    EXPECT_EQ(receives.image.used_idx(), 1);
    EXPECT_TRUE(device_.stop_ring(0));
    return receives.guest.read(addr, 1);
  };
  device_.features_changed(kOffloads);
  EXPECT_EQ(flags(), Bytes{std::byte{spec::VIRTIO_NET_HDR_F_DATA_VALID}});
  virtio::NetControlState off;
  off.guest_offloads = 0;
  device_.begin_adoption(off);
  device_.features_changed(kOffloads);
  device_.end_adoption();
  EXPECT_EQ(flags(), Bytes{std::byte{0}});
}

// Control does not wait for a worker for ever.
TEST_F(VhostUserDevice, ALongTurnEndsWithTheReceiveqsThatItBeganWith) {
  constexpr uint64_t kMany = kFeatures | spec::VIRTIO_NET_F_MQ;
  std::array<GuestRing, 4> receives;
  const auto start = [&](size_t first) {
    for (size_t pair = 0; pair < 2; ++pair) {
      for (int i = 0; i < 4; ++i) receives[first + pair].post(2000);
      const auto ring = receives[first + pair].start(static_cast<uint16_t>(2 * pair), true, kMany);
      ASSERT_TRUE(device_.start_ring(ring));
    }
  };
  device_.features_changed(kMany);
  start(0);
  EXPECT_EQ(send(tx_[0], 1, false).count, 0U);
  workers_.come_by = false;
  EXPECT_FALSE(device_.stop_ring(0));
  EXPECT_FALSE(device_.stop_ring(2));
  start(2);
  EXPECT_EQ(send(tx_[0], 1, true).count, 0U);
  EXPECT_EQ(receives[0].image.used_idx() + receives[1].image.used_idx(), 2);
  EXPECT_EQ(send(tx_[0], 1, true).count, 0U);
  EXPECT_EQ(receives[2].image.used_idx() + receives[3].image.used_idx(), 1);
}

TEST_F(VhostUserDevice, AnswersGoBesideTheTransmitqThatAsked) {
  constexpr uint64_t kMany = kFeatures | spec::VIRTIO_NET_F_MQ;
  // Neither IP nor one of the driver's own: by Ethernet addresses.
  const auto frame = [](char to, char from) {
    Bytes bytes = pattern(60);
    std::fill_n(bytes.begin(), 14, std::byte{0});
    bytes[5] = std::byte(to);
    bytes[11] = std::byte(from);
    return bytes;
  };
  std::array<GuestRing, 2> sends;
  std::array<GuestRing, 2> receives;
  device_.features_changed(kMany);
  for (uint16_t pair = 0; pair < 2; ++pair) {
    for (int i = 0; i < 8; ++i) receives[pair].post(2000);
    ASSERT_TRUE(device_.start_ring(receives[pair].start(2 * pair, true, kMany)));
    ASSERT_TRUE(device_.start_ring(sends[pair].start(2 * pair + 1, true, kMany)));
  }
  sends[0].offer_frame(frame(9, 1));
  sends[1].offer_frame(frame(9, 2));
  EXPECT_EQ(poll(rx_[0]).size(), 1u);
  EXPECT_EQ(poll(rx_[1]).size(), 1u);
  const auto answer = [&](std::initializer_list<char> to) {
    Burst burst(pool_.cache());
    for (const char mac : to) burst.push(pool_.packet_of(frame(mac, 9)));
    (void)tx_[0].send(tx_[0].self, burst);
    tx_[0].flush(tx_[0].self);
    EXPECT_TRUE(burst.empty());
  };
  answer({1, 2, 2, 1, 2});
  EXPECT_EQ(receives[0].image.used_idx(), 2);
  EXPECT_EQ(receives[1].image.used_idx(), 3);
  // What came last counts, and a ring that has gone is stood in for.
  sends[1].offer_frame(frame(9, 1));
  EXPECT_EQ(poll(rx_[1]).size(), 1u);
  answer({1});
  EXPECT_EQ(receives[1].image.used_idx(), 4);
  EXPECT_TRUE(device_.stop_ring(2));
  answer({1, 2});
  EXPECT_EQ(receives[0].image.used_idx(), 4);
  EXPECT_EQ(receives[1].image.used_idx(), 4);
}

TEST_F(VhostUserDevice, RingsLargerThanAllowedAreRefused) {
  GuestRing large(512);
  const Status refused = device_.start_ring(large.start(1));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("512"));
  EXPECT_TRUE(poll(rx_[0]).empty());
}

TEST_F(VhostUserDevice, GoesOnAtTheUsedIndexWhateverTheBase) {
  GuestRing sends;
  sends.image.start_at(65535);
  sends.image.desc(0, sends.guest.allocate(100), 72);
  sends.image.offer(0);
  sends.image.offer(0);
  auto start = sends.start(1);
  start.base = 7;
  ASSERT_TRUE(device_.start_ring(start));
  EXPECT_EQ(poll(rx_[0]).size(), 2u);
  EXPECT_EQ(sends.image.used_idx(), 1);
  EXPECT_EQ(device_.stop_ring(1).value(), 1u);
}

TEST_F(VhostUserDevice, RingTakenInTheMiddleOfATurnShowsWhatWasUsed) {
  GuestRing sends;
  for (unsigned i = 0; i < 5; ++i) sends.offer_frame(pattern(60 + i));
  auto start = sends.start(1);
  start.controls.call = event();
  ASSERT_TRUE(device_.start_ring(start));
  // A worker has polled, control takes the ring, and the worker ends its turn without finding it.
  EXPECT_EQ(poll(rx_[0], false).size(), 5u);
  workers_.finish_turns = [&] { rx_[0].complete(rx_[0].self); };
  EXPECT_EQ(device_.stop_ring(1).value(), 5u);
  EXPECT_EQ(sends.image.used_idx(), 5);
  EXPECT_EQ(count_of(start.controls.call), 1u);
}

TEST_F(VhostUserDevice, ReceiverTakenInTheMiddleOfATurnShowsWhatWasUsed) {
  GuestRing receives;
  for (int i = 0; i < 8; ++i) receives.post(2000);
  auto start = receives.start(0);
  start.controls.call = event();
  ASSERT_TRUE(device_.start_ring(start));
  EXPECT_EQ(send(tx_[0], 3, false).count, 0u);
  workers_.finish_turns = [&] { tx_[0].flush(tx_[0].self); };
  EXPECT_EQ(device_.stop_ring(0).value(), 3u);
  EXPECT_EQ(receives.image.used_idx(), 3);
  EXPECT_EQ(count_of(start.controls.call), 1u);
}

TEST_F(VhostUserDevice, HandleMovedInTheMiddleOfATurnLeavesNothingBehind) {
  GuestRing first;
  GuestRing second;
  for (int i = 0; i < 8; ++i) first.post(2000);
  for (int i = 0; i < 8; ++i) second.post(2000);
  ASSERT_TRUE(device_.start_ring(first.start(0)));
  ASSERT_TRUE(device_.start_ring(second.start(2, false)));
  EXPECT_EQ(send(tx_[1], 3, false).count, 0u);  // both handles lead to the first
  workers_.finish_turns = [&] { tx_[1].flush(tx_[1].self); };
  vhost::RingControls on;
  on.enabled = true;
  device_.update_ring(2, on);
  EXPECT_EQ(first.image.used_idx(), 3);
  EXPECT_EQ(send(tx_[1]).count, 0u);
  EXPECT_EQ(second.image.used_idx(), 1);
}

TEST_F(VhostUserDevice, HandleMovedToANewRingInTheMiddleOfATurnLeavesNothingBehind) {
  GuestRing first;
  GuestRing second;
  for (int i = 0; i < 8; ++i) first.post(2000);
  ASSERT_TRUE(device_.start_ring(first.start(0)));
  EXPECT_EQ(send(tx_[1], 3, false).count, 0u);
  workers_.finish_turns = [&] { tx_[1].flush(tx_[1].self); };
  ASSERT_TRUE(device_.start_ring(second.start(2)));
  EXPECT_EQ(first.image.used_idx(), 3);
}

TEST_F(VhostUserDevice, HandlesAreSpreadOverTheRingsThatMayBeUsed) {
  GuestRing first;
  GuestRing second;
  for (int i = 0; i < 8; ++i) first.post(2000);
  for (int i = 0; i < 8; ++i) second.post(2000);
  ASSERT_TRUE(device_.start_ring(first.start(0)));
  ASSERT_TRUE(device_.start_ring(second.start(2)));
  (void)send(tx_[0]);
  (void)send(tx_[1]);
  EXPECT_EQ(first.image.used_idx(), 1);
  EXPECT_EQ(second.image.used_idx(), 1);
  ASSERT_TRUE(device_.stop_ring(0));
  (void)send(tx_[0]);
  (void)send(tx_[1]);
  EXPECT_EQ(first.image.used_idx(), 1);
  EXPECT_EQ(second.image.used_idx(), 3);
  ASSERT_TRUE(device_.stop_ring(2));
  EXPECT_EQ(send(tx_[1]).reason, DropReason::receiver_down);
}

/// Two workers that send to the one receiveq of a port.
class VhostUserSharedReceiver : public VhostUserDevice {
 protected:
  VhostUserSharedReceiver() : VhostUserDevice(1, 2) {
    for (int i = 0; i < 16; ++i) receives_.post(2000);
    EXPECT_TRUE(device_.start_ring(receives_.start(0)));
  }
  void begin(size_t worker, unsigned count) {
    EXPECT_EQ(send(tx_[worker], count, false).count, 0u);
  }
  uint16_t end(size_t worker) {
    tx_[worker].flush(tx_[worker].self);
    return receives_.image.used_idx();
  }
  GuestRing receives_;
};

TEST_F(VhostUserSharedReceiver, EachWorkerHasAHandle) {
  ASSERT_EQ(tx_.size(), 2u);
  EXPECT_NE(tx_[0].counters, tx_[1].counters);
}

TEST_F(VhostUserSharedReceiver, OneWorkersEndDoesNotShowWhatTheOtherHasNotFinished) {
  begin(0, 2);
  begin(1, 3);
  EXPECT_EQ(end(1), 0);  // behind entries whose senders still count them as theirs
  EXPECT_EQ(end(0), 5);
}

TEST_F(VhostUserSharedReceiver, WhatLiesBeforeTheOthersTurnIsShown) {
  begin(0, 2);
  begin(1, 3);
  begin(0, 1);
  EXPECT_EQ(end(0), 2);  // its last entry lies behind the other's
  EXPECT_EQ(end(1), 6);
}

TEST_F(VhostUserSharedReceiver, TurnsThatOverlapForEverAreShownNevertheless) {
  begin(0, 1);
  for (uint16_t i = 1; i < 12; ++i) {
    begin(i % 2, 1);
    EXPECT_EQ(end((i + 1) % 2), i);
  }
}

TEST_F(VhostUserDevice, ChangingADescriptorTakesNothingAway) {
  GuestRing receives;
  for (int i = 0; i < 8; ++i) receives.post(2000);
  GuestRing sends;
  sends.offer_frame(pattern(60));
  ASSERT_TRUE(device_.start_ring(receives.start(0)));
  ASSERT_TRUE(device_.start_ring(sends.start(1)));
  Left left{1, {}};
  size_t polled = 0;
  workers_.finish_turns = [&] {
    left = send(tx_[0]);
    polled += poll(rx_[0]).size();
  };
  const unsigned waits = workers_.waits;
  vhost::RingControls controls;
  controls.enabled = true;
  controls.call = event();
  device_.update_ring(0, controls);
  EXPECT_EQ(left.count, 0u);
  EXPECT_EQ(count_of(controls.call), 1u);
  controls.call = event();
  device_.update_ring(1, controls);
  EXPECT_EQ(polled, 1u);
  EXPECT_EQ(workers_.waits - waits, 2u);  // the old descriptors were not freed in use
}

TEST_F(VhostUserDevice, DisabledTransmitqIsEmptiedAndForgotten) {
  GuestRing sends;
  for (int i = 0; i < 3; ++i) sends.offer_frame(pattern(500));
  ASSERT_TRUE(device_.start_ring(sends.start(1, false)));
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(sends.image.used_idx(), 3);
  EXPECT_EQ(rx_[0].counters->drops.value(DropReason::queue_disabled), 3u);
  EXPECT_EQ(rx_[0].counters->packets.value(), 3u);
  vhost::RingControls on;
  on.enabled = true;
  device_.update_ring(1, on);
  sends.offer_frame(pattern(61));
  EXPECT_EQ(poll(rx_[0]), std::vector<Bytes>{pattern(61)});
}

struct PatientVhostUserDevice : VhostUserDevice {
  PatientVhostUserDevice() : VhostUserDevice(2, 1, std::chrono::hours(1)) {}
};

// A front end that takes a switch back starts its rings first and enables them then.
TEST_F(PatientVhostUserDevice, WhatWasSentBeforeARingIsEnabledIsKept) {
  GuestRing sends;
  sends.offer_frame(pattern(500));
  ASSERT_TRUE(device_.start_ring(sends.start(1, false)));
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(sends.image.used_idx(), 0);
  vhost::RingControls on;
  on.enabled = true;
  device_.update_ring(1, on);
  EXPECT_EQ(poll(rx_[0]), std::vector<Bytes>{pattern(500)});
  vhost::RingControls off;
  device_.update_ring(1, off);
  sends.offer_frame(pattern(61));
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(sends.image.used_idx(), 2) << "disabled afterwards: emptied";
}

TEST_F(VhostUserDevice, DisabledReceiveqIsDown) {
  GuestRing receives;
  receives.post(2000);
  ASSERT_TRUE(device_.start_ring(receives.start(0, false)));
  EXPECT_EQ(send(tx_[0]).reason, DropReason::receiver_down);
  EXPECT_EQ(receives.image.used_idx(), 0);
}

TEST_F(VhostUserDevice, BrokenRingsAreReportedOnceToPeerAndPeople) {
  GuestRing sends;
  GuestRing receives;
  auto start = sends.start(1);
  start.controls.err = event();
  ASSERT_TRUE(device_.start_ring(start));
  ASSERT_TRUE(device_.start_ring(receives.start(0)));
  device_.report_broken_rings();
  EXPECT_TRUE(said_.empty());
  sends.image.avail_idx(1000);
  receives.image.offer(64);
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(send(tx_[0]).reason, DropReason::receiver_down);
  device_.report_broken_rings();
  device_.report_broken_rings();
  EXPECT_EQ(said_.size(), 2u);
  EXPECT_EQ(count_of(start.controls.err), 1u);
  PortInfo info;
  device_.describe(info);
  EXPECT_FALSE(info.broken.empty());
  // Set up anew it works again.
  ASSERT_TRUE(device_.stop_ring(1));
  GuestRing anew;
  anew.offer_frame(pattern(60));
  ASSERT_TRUE(device_.start_ring(anew.start(1)));
  EXPECT_EQ(poll(rx_[0]).size(), 1u);
}

TEST_F(VhostUserDevice, CallDescriptorThatIsFullStopsNobody) {
  GuestRing sends;
  sends.offer_frame(pattern(60));
  auto start = sends.start(1);
  start.controls.call = event();
  ASSERT_EQ(eventfd_write(start.controls.call->get(), ~uint64_t{0} - 1), 0);
  ASSERT_TRUE(device_.start_ring(start));
  EXPECT_EQ(poll(rx_[0]).size(), 1u);
  EXPECT_EQ(sends.image.used_idx(), 1);
}

/// One guest's memory and one of its packed rings.
struct PackedGuestRing {
  explicit PackedGuestRing(uint32_t size) : image(size), guest(64 << 10) {}

  void offer_frame(const Bytes& frame, uint16_t id) {
    Bytes all(kHdr);
    all.insert(all.end(), frame.begin(), frame.end());
    image.offer(guest.place(all), static_cast<uint32_t>(all.size()), 0, id);
  }
  void post(uint16_t id) { image.offer(guest.allocate(200), 200, kWrite, id); }
  [[nodiscard]] vhost::RingStart start(uint16_t index, uint32_t base, uint64_t more = 0) const {
    vhost::RingStart start;
    start.index = index;
    start.layout = image.layout();
    start.base = base;
    start.features = kFeatures | spec::VIRTIO_F_RING_PACKED | more;
    start.controls.enabled = true;
    start.memory = guest.shared_memory();
    return start;
  }

  test::PackedImage image;
  Guest guest;
};

TEST_F(VhostUserDevice, PackedRingsCarryFramesAndGoOnWhereTheyWere) {
  PackedGuestRing sends(6);
  PackedGuestRing receives(6);
  uint32_t rx_base = 0x80008000;
  uint32_t tx_base = 0x8000;  // as DPDK says it
  for (unsigned life = 0; life < 5; ++life) {
    ASSERT_TRUE(device_.start_ring(sends.start(1, rx_base)));
    ASSERT_TRUE(device_.start_ring(receives.start(0, tx_base)));
    for (uint16_t i = 0; i < 4; ++i) {
      sends.offer_frame(pattern(60, life + i), i);
      receives.post(i);
    }
    const uint32_t at = receives.image.next;
    EXPECT_EQ(poll(rx_[0]), (std::vector<Bytes>{pattern(60, life), pattern(60, life + 1),
                                                pattern(60, life + 2), pattern(60, life + 3)}));
    EXPECT_EQ(send(tx_[0], 5).count, 1u);
    rx_base = device_.stop_ring(1).value();
    tx_base = device_.stop_ring(0).value();
    // 4 entries further: 0x8004, then 2 in the second lap, and so on; used is the same.
    constexpr std::array kBases{0x80048004U, 0x00020002U, 0x80008000U, 0x80048004U, 0x00020002U};
    EXPECT_EQ(rx_base, kBases[life]);
    EXPECT_EQ(tx_base, kBases[life]);
    EXPECT_EQ(receives.image.id((at + 5) % 6), 3);
    EXPECT_EQ(receives.image.len((at + 5) % 6), kHdr + 60);
  }
}

TEST_F(VhostUserDevice, ChainsTakenAndNotReturnedByAnotherAreTakenAgain) {
  // The back end before us was ahead by two chains that it never returned.
  PackedGuestRing sends(8);
  for (uint16_t i = 0; i < 4; ++i) sends.offer_frame(pattern(60, i), i);
  ASSERT_TRUE(device_.start_ring(sends.start(1, 0x80008002)));
  EXPECT_EQ(poll(rx_[0]).size(), 4u);
}

TEST_F(VhostUserDevice, APackedRingThatRanIsNotBegunAgain) {
  PackedGuestRing sends(8);
  for (uint16_t i = 0; i < 3; ++i) sends.offer_frame(pattern(60, i), i);
  ASSERT_TRUE(device_.start_ring(sends.start(1, 0x80008000)));
  EXPECT_EQ(poll(rx_[0]).size(), 3u);
  ASSERT_TRUE(device_.stop_ring(1));
  vhost::RingStart again = sends.start(1, 0x80008000);
  again.controls.err = event();
  const Status begun = device_.start_ring(again);
  ASSERT_FALSE(begun);
  EXPECT_THAT(begun.error().what, HasSubstr("reset the device"));
  EXPECT_EQ(count_of(again.controls.err), 1u);
  sends.offer_frame(pattern(60, 9), 5);
  ASSERT_TRUE(device_.start_ring(sends.start(1, 0x80038003))) << "whoever knows may go on";
  EXPECT_EQ(poll(rx_[0]), std::vector<Bytes>{pattern(60, 9)});
}

TEST_F(VhostUserDevice, AtTheBeginningOfALapWhatWeKnowCounts) {
  PackedGuestRing sends(4);
  vhost::RingStart start = sends.start(1, 0x80008000);
  ASSERT_TRUE(device_.start_ring(start));
  for (int lap = 0; lap < 2; ++lap) {
    sends.image.offer({{sends.guest.place(Bytes(kHdr)), kHdr}, {sends.guest.place(Bytes(60)), 60}},
                      0);
    for (uint16_t id = 1; id < 3; ++id) sends.offer_frame(pattern(60, id), id);
    EXPECT_EQ(poll(rx_[0]).size(), 3u);
  }
  // The second descriptor of the chain says by its flags that the ring has run.
  ASSERT_EQ(device_.stop_ring(1).value(), 0x80008000);
  EXPECT_FALSE(device_.start_ring(start));
  start.base_ours = true;
  EXPECT_TRUE(device_.start_ring(start));
}

TEST_F(VhostUserDevice, FormatsAndOrdersAreTold) {
  GuestRing split;
  PackedGuestRing packed(10);
  ASSERT_TRUE(device_.start_ring(split.start(0)));
  ASSERT_TRUE(device_.start_ring(split.start(1, true, kFeatures | spec::VIRTIO_F_IN_ORDER)));
  ASSERT_TRUE(device_.start_ring(packed.start(2, 0x80008000)));
  ASSERT_TRUE(device_.start_ring(packed.start(3, 0x80008000, spec::VIRTIO_F_IN_ORDER)));
  PortInfo info;
  device_.describe(info);
  std::map<std::string, std::string> formats;
  for (const auto& ring : info.rings) formats[ring.name] = ring.format;
  EXPECT_EQ(formats, (std::map<std::string, std::string>{{"tx0", "split"},
                                                         {"rx0", "split in-order"},
                                                         {"tx1", "packed"},
                                                         {"rx1", "packed in-order"}}));
}

TEST_F(VhostUserDevice, InOrderReturnsABatchOfATransmitqWithOneEntry) {
  GuestRing split;
  PackedGuestRing packed(10);
  for (uint16_t i = 0; i < 3; ++i) {
    split.offer_frame(pattern(60, i));
    packed.offer_frame(pattern(60, i), i);
  }
  ASSERT_TRUE(device_.start_ring(split.start(1, true, kFeatures | spec::VIRTIO_F_IN_ORDER)));
  ASSERT_TRUE(device_.start_ring(packed.start(3, 0x80008000, spec::VIRTIO_F_IN_ORDER)));
  EXPECT_EQ(poll(rx_[0]).size(), 3u);
  EXPECT_EQ(poll(rx_[1]).size(), 3u);
  EXPECT_EQ(split.image.used_idx(), 3);
  EXPECT_EQ(split.image.used_id(0), 2u);
  EXPECT_EQ(packed.image.id(0), 2);
  EXPECT_TRUE(packed.image.used(0));
  EXPECT_FALSE(packed.image.used(1));
}

TEST_F(VhostUserDevice, InOrderReturnsEachBufferOfAReceiveqWithItsLength) {
  PackedGuestRing receives(10);
  for (uint16_t i = 0; i < 3; ++i) receives.post(i);
  ASSERT_TRUE(device_.start_ring(receives.start(0, 0x80008000, spec::VIRTIO_F_IN_ORDER)));
  EXPECT_EQ(send(tx_[0], 3).count, 0u);
  for (uint16_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(receives.image.used(i));
    EXPECT_EQ(receives.image.id(i), i);
    EXPECT_EQ(receives.image.len(i), kHdr + 60);
  }
}

// The front end holds the same file description: it makes it blocking again, and fills the counter.
TEST_F(VhostUserDevice, CallDescriptorThatIsFullAndBlockingStopsNobody) {
  if (!signals_without_waiting()) GTEST_SKIP() << "no asynchronous I/O on this kernel";
  GuestRing ring;
  auto start = ring.start(1);
  const auto call = std::make_shared<const UniqueFd>(eventfd(0, 0));
  ASSERT_EQ(eventfd_write(call->get(), 0xfffffffffffffffe), 0);
  start.controls.call = call;
  ASSERT_TRUE(device_.start_ring(start));
  for (int i = 0; i < 5; ++i) {
    ring.offer_frame(pattern(60));
    EXPECT_EQ(poll(rx_[0]).size(), 1U);  // hangs here if the worker writes
  }
  ASSERT_TRUE(device_.stop_ring(1));
}

TEST_F(VhostUserDevice, AnnouncementIsAReverseArpRequest) {
  device_.send_rarp({2, 3, 4, 5, 6, 7});
  const auto frames = poll(rx_[0]);
  ASSERT_EQ(frames.size(), 1u);
  // RFC 903: hardware type 1, protocol 0x0800, lengths 6 and 4, operation 3; sender and target are
  // the address itself, protocol addresses are 0.
  Bytes expected(60);
  std::fill_n(expected.begin(), 6, std::byte{0xff});
  const std::vector<uint8_t> rest{2, 3, 4, 5, 6, 7, 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3,
                                  2, 3, 4, 5, 6, 7, 0,    0,    0, 0, 2, 3, 4, 5, 6, 7};
  for (size_t i = 0; i < rest.size(); ++i) expected[6 + i] = std::byte{rest[i]};
  EXPECT_EQ(frames[0], expected);
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(rx_[0].counters->packets.value(), 1u);
}

TEST_F(VhostUserDevice, FeaturesDecideWhatMayBeLeftUndone) {
  const auto* offloads = tx_[0].offloads;
  EXPECT_EQ(offloads->load(), 0u);
  device_.features_changed(kFeatures | spec::VIRTIO_NET_F_GUEST_CSUM |
                           spec::VIRTIO_NET_F_GUEST_TSO4);
  EXPECT_EQ(offloads->load(), kTxChecksum | kTxTso4 | kTxJoin);
  EXPECT_EQ(workers_.waits, 1u);  // nobody goes on with the old bits
  const auto* large = rx_[0].large;
  EXPECT_EQ(large->load(), 0u);
  device_.features_changed(kFeatures | spec::VIRTIO_NET_F_CSUM | spec::VIRTIO_NET_F_HOST_TSO6);
  EXPECT_EQ(large->load(), kTxTso6);
  device_.features_changed(0);
  EXPECT_EQ(offloads->load(), 0u);
  EXPECT_EQ(large->load(), 0u);
}

/// Which of a guest's pages are marked; the marks are cleared.
struct GuestLog {
  explicit GuestLog(const GuestRing& ring)
      : write(std::make_shared<const WriteLog>(ring.guest.memory(), log, WriteLog::RingArea{})) {}

  std::vector<uint64_t> take() {
    std::vector<uint64_t> pages;
    for (uint64_t page = 0; page < log->pages(); ++page) {
      const auto byte = std::to_integer<unsigned>(bits[page / 8]);
      if ((byte & (1U << (page % 8))) != 0) pages.push_back(page);
    }
    bits.assign(bits.size(), std::byte{});
    return pages;
  }

  std::vector<std::byte> bits = std::vector<std::byte>(64);
  std::shared_ptr<DirtyLog> log = std::make_shared<DirtyLog>(std::span(bits));
  std::shared_ptr<const WriteLog> write;
};

TEST_F(VhostUserDevice, ALogIsTakenAndLeftWhileTheRingRuns) {
  GuestRing receives;
  GuestLog log(receives);
  for (int i = 0; i < 4; ++i) receives.post(4096);  // a page each, from page 16 on
  ASSERT_TRUE(device_.start_ring(receives.start(0)));
  EXPECT_EQ(send(tx_[0]).count, 0u);
  EXPECT_EQ(log.take(), std::vector<uint64_t>{});
  const unsigned waits = workers_.waits;
  ASSERT_TRUE(device_.update_log(0, log.write));
  EXPECT_EQ(workers_.waits, waits + 1);
  EXPECT_EQ(send(tx_[0]).count, 0u);
  EXPECT_EQ(log.take(), std::vector<uint64_t>{17});
  ASSERT_TRUE(device_.update_log(0, nullptr));
  EXPECT_EQ(log.write.use_count(), 1);
  EXPECT_EQ(send(tx_[0]).count, 0u);
  EXPECT_EQ(log.take(), std::vector<uint64_t>{});
}

TEST_F(VhostUserDevice, ARingStartsWithItsLog) {
  GuestRing receives;
  GuestLog log(receives);
  receives.post(4096);
  auto start = receives.start(0);
  start.log = log.write;
  ASSERT_TRUE(device_.start_ring(start));
  EXPECT_EQ(send(tx_[0]).count, 0u);
  EXPECT_EQ(log.take(), std::vector<uint64_t>{16});
}

TEST_F(VhostUserDevice, WorkerThatDoesNotComeByKeepsTheLog) {
  GuestRing receives;
  GuestLog log(receives);
  auto start = receives.start(0);
  start.log = log.write;
  ASSERT_TRUE(device_.start_ring(start));
  start.log.reset();
  workers_.come_by = false;
  EXPECT_FALSE(device_.update_log(0, nullptr));
  EXPECT_EQ(log.write.use_count(), 2);
  workers_.come_by = true;
}

TEST_F(VhostUserDevice, ImpossibleMtusAreRefused) {
  EXPECT_TRUE(device_.set_mtu(68));
  EXPECT_TRUE(device_.set_mtu(65535));
  EXPECT_FALSE(device_.set_mtu(67));
  EXPECT_FALSE(device_.set_mtu(65536));
  PortInfo info;
  device_.describe(info);
  EXPECT_EQ(info.mtu, 65535);
}

TEST_F(VhostUserDevice, ItsStateMovesToAnotherHost) {
  ASSERT_TRUE(device_.set_mtu(9000));
  const auto state = device_.save_state();
  ASSERT_TRUE(state);
  // "pollux-n", version 1, MTU 9000, nothing; little-endian.
  const std::vector<uint8_t> wanted{'p', 'o', 'l', 'l', 'u',  'x',  '-', 'n',
                                    1,   0,   0,   0,   0x28, 0x23, 0,   0};
  ASSERT_EQ(state->size(), wanted.size());
  EXPECT_EQ(std::memcmp(state->data(), wanted.data(), wanted.size()), 0);
  NetDevice other({.queue_pairs = 1}, workers_, log());
  ASSERT_TRUE(other.load_state(*state));
  PortInfo info;
  other.describe(info);
  EXPECT_EQ(info.mtu, 9000);
}

TEST_F(VhostUserDevice, StatesThatAreNotItsOwnAreRefused) {
  const auto good = *device_.save_state();
  EXPECT_TRUE(device_.load_state(good)) << "no MTU was ever set";
  EXPECT_FALSE(device_.load_state({}));
  EXPECT_FALSE(device_.load_state(std::span(good).first(good.size() - 1)));
  auto later = good;
  later[8] = std::byte{2};
  const auto refused = device_.load_state(later);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("version 2"));
  auto impossible = good;
  impossible[12] = std::byte{1};
  EXPECT_FALSE(device_.load_state(impossible)) << "an MTU of 1";
}

TEST_F(VhostUserDevice, WorkerThatDoesNotComeByKeepsItsRing) {
  auto sends = std::make_unique<GuestRing>();
  sends->offer_frame(pattern(60));
  ASSERT_TRUE(device_.start_ring(sends->start(1)));
  workers_.come_by = false;
  const auto stopped = device_.stop_ring(1);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::kTimeout);
  EXPECT_TRUE(poll(rx_[0]).empty());
  EXPECT_EQ(sends->guest.shared_memory().use_count(), 3);  // ours, the guest's, the ring's
  workers_.come_by = true;
  GuestRing anew;
  anew.offer_frame(pattern(60));
  ASSERT_TRUE(device_.start_ring(anew.start(1)));
  EXPECT_EQ(poll(rx_[0]).size(), 1u);
}

/// The device in an engine, so that real workers use the rings.
class DevicePort final : public Port {
 public:
  DevicePort(std::unique_ptr<NetDevice>& out, Quiescence& quiescence) : device_(out) {
    out = std::make_unique<NetDevice>(
        NetDevice::Config{.queue_pairs = 1, .queue_size = 256, .features = kFeatures}, quiescence,
        Log{});
  }
  Status start() override { return {}; }
  void stop() noexcept override {}
  [[nodiscard]] PortInfo info() const override { return {}; }
  std::vector<RxQueue> rx_queues() override { return device_->rx_queues(); }
  std::vector<TxQueue> tx_queues() override { return device_->tx_queues(); }

 private:
  std::unique_ptr<NetDevice>& device_;
};

TEST(VhostUserDeviceUnderLoad, RingsAndTheirMemoryGoWhileTheyArePolled) {
  auto pool = std::move(
      Pool::create({.name = "test", .packets = 4096, .buffers = 64, .pages = HugePages::kNever})
          .value());
  SteadyClock clock;
  EngineConfig config;
  config.fdb.capacity = 64;
  auto engine = std::move(Engine::create(config, *pool, clock, Log{}).value());
  std::array<std::unique_ptr<NetDevice>, 2> devices;
  ASSERT_TRUE(engine->start());
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(engine->add_port("v" + std::to_string(i),
                                 std::make_unique<DevicePort>(devices[i], *engine)));
  }
  uint64_t sent = 0;
  for (unsigned round = 0; round < 80; ++round) {
    // Nothing of the rings is touched by this thread while the device has them.
    auto sends = std::make_unique<GuestRing>();
    auto receives = std::make_unique<GuestRing>();
    for (unsigned i = 0; i < 64; ++i) {
      Bytes frame = pattern(60 + 17 * i, i);
      std::fill_n(frame.begin(), 6, std::byte{0xff});
      frame[6] = std::byte{2};
      sends->offer_frame(frame);
      receives->post(2000);
    }
    ASSERT_TRUE(devices[0]->start_ring(sends->start(1)));
    ASSERT_TRUE(devices[1]->start_ring(receives->start(0)));
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(5 * round));
    const bool sender_first = round % 4 < 2;
    uint32_t taken = 0;
    uint32_t filled = 0;
    if (sender_first) taken = devices[0]->stop_ring(1).value();
    if (sender_first) sends.reset();  // its memory is gone
    filled = devices[1]->stop_ring(0).value();
    if (!sender_first) {
      EXPECT_EQ(receives->image.used_idx(), filled);
      receives.reset();
      taken = devices[0]->stop_ring(1).value();
      EXPECT_EQ(sends->image.used_idx(), taken);
    }
    EXPECT_LE(filled, taken);
    sent += taken;
  }
  engine->stop();
  const auto stats = engine->port_stats();
  EXPECT_EQ(stats[0].queues[0].packets, sent);
  EXPECT_GT(sent, 0u);
  engine.reset();
  EXPECT_EQ(pool->free_packets(), pool->packet_count());
}

}  // namespace
}  // namespace pollux::vhost_user
