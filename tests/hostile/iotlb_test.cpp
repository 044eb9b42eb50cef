// SPDX-License-Identifier: Apache-2.0
// What front ends may say of an IOMMU that makes no sense, or comes at a bad moment. Whatever
// comes: nothing outside of the shared memory is reached, nothing that was taken back is used, and
// nobody else is concerned.
#include "tests/support/iommu_session.hpp"

namespace pollux::test {
namespace {

using HostileIommu = IommuSession;

TEST_F(HostileIommu, AScatteredRingIsRefused) {
  bring_up();
  say(make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{1, 512}));
  say(make_request(VHOST_USER_SET_VRING_ADDR,
                   vhost_vring_addr{1, 0, kIova, kIova + 3 * kPage, kIova + 2 * kPage, 0}));
  const UniqueFd kick = make_event();
  say(make_request(VHOST_USER_SET_VRING_KICK, uint64_t{1}), {kick.get()});
  map(0);
  iotlb(VHOST_IOTLB_UPDATE, kIova + kPage, 4 * kPage, kUser + 7 * kPage);
  EXPECT_NE(why(1).find("scattered"), std::string::npos) << why(1);
}

TEST_F(HostileIommu, InvalidationOfEverything) {
  bring_up();
  map(0, 8);
  EXPECT_EQ(iotlb(VHOST_IOTLB_INVALIDATE, 0, 0), 0) << "2^64 bytes";
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(connection->session().iotlb()->runs(), 0U);
  map(0, 8);
  ASSERT_TRUE(runs(0));
  EXPECT_EQ(iotlb(VHOST_IOTLB_INVALIDATE, 0xfef00000, kEnd - 0xfef00000 + 1), 0);
  EXPECT_TRUE(runs(0));
  EXPECT_EQ(iotlb(VHOST_IOTLB_INVALIDATE, kIova, kEnd), 0) << "wraps: to the end";
  EXPECT_FALSE(runs(0));
}

TEST_F(HostileIommu, AnUpdateThatMovesARunningRing) {
  bring_up();
  map(0);
  ASSERT_TRUE(runs(0));
  device.calls.clear();
  EXPECT_EQ(iotlb(VHOST_IOTLB_UPDATE, kIova, kPage, kUser + 3 * kPage), 0);
  EXPECT_EQ(device.calls, (std::vector<std::string>{"stop 0", "mappings changed", "start 0"}));
  const auto* page = device.running[0].memory->regions()[0].host + 3 * kPage;
  EXPECT_EQ(reinterpret_cast<const std::byte*>(split_layout(0).desc), page);
}

TEST_F(HostileIommu, AnUpdateThatGrantsLessThanARingNeeds) {
  bring_up();
  map(0);
  ASSERT_TRUE(runs(0));
  EXPECT_EQ(map(0, 1, VHOST_ACCESS_RO), 0);
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(questions().back(), (Question{kIova + 2048, 3})) << "the used ring is written";
  EXPECT_EQ(map(0, 1, VHOST_ACCESS_RO), 0) << "and that is all that there is";
  EXPECT_NE(why(0).find("refuses"), std::string::npos) << why(0);
  EXPECT_EQ(map(0), 0);
  EXPECT_TRUE(runs(0)) << why(0);
}

TEST_F(HostileIommu, RefusesWhatMakesNoSense) {
  bring_up();
  map(0);
  ASSERT_TRUE(runs(0));
  device.calls.clear();
  EXPECT_EQ(iotlb(VHOST_IOTLB_UPDATE, 0, 0, kUser), 1) << "empty";
  EXPECT_EQ(iotlb(VHOST_IOTLB_UPDATE, kEnd - 100, kPage, kUser), 1) << "wraps";
  EXPECT_EQ(iotlb(VHOST_IOTLB_UPDATE, 0, kPage, kUser + kSize), 1) << "not its memory";
  EXPECT_EQ(iotlb(VHOST_IOTLB_UPDATE, 0, 2 * kSize, kUser), 1) << "more than its memory";
  EXPECT_EQ(iotlb(VHOST_IOTLB_UPDATE, 0, kPage, kUser, 4), 1) << "no permission";
  EXPECT_EQ(iotlb(VHOST_IOTLB_MISS, 0, kPage, kUser), 1) << "ours to send";
  EXPECT_EQ(iotlb(0, 0, kPage, kUser), 1);
  EXPECT_EQ(iotlb(255, 0, kPage, kUser), 1);
  EXPECT_EQ(counters().refused, 8U);
  EXPECT_TRUE(runs(0));
  EXPECT_TRUE(device.calls.empty());
  EXPECT_TRUE(closed.empty()) << closed;
}

TEST_F(HostileIommu, WithoutItTheMessageIsRefused) {
  say(make_request(VHOST_USER_SET_PROTOCOL_FEATURES, kIommuProtocol));
  say(make_request(VHOST_USER_SET_FEATURES, kIommuFeatures & ~VIRTIO_F_ACCESS_PLATFORM));
  EXPECT_EQ(connection->session().iotlb(), nullptr);
  iotlb(VHOST_IOTLB_UPDATE, 0, kPage, kUser);
  EXPECT_NE(closed.find("not negotiated"), std::string::npos) << closed;
}

TEST_F(HostileIommu, ARefusedMissIsAFault) {
  bring_up();
  map(0);
  answer(0);
  answer(0);
  PeerView view = device.running[0].view();
  view.refresh();
  (void)view.translate(kIova + 5 * kPage, 64, MemoryAccess::kRead);
  spin();
  answer(1);
  view.refresh();
  EXPECT_EQ(view.translate(kIova + 5 * kPage, 64, MemoryAccess::kRead).status,
            TranslationStatus::kFault);
  EXPECT_EQ(counters().faults, 1U);
  EXPECT_EQ(map(5), 0);
  view.refresh();
  EXPECT_EQ(view.translate(kIova + 5 * kPage, 64, MemoryAccess::kRead).status,
            TranslationStatus::kOk);
  (void)view.translate(kIova + 6 * kPage, 64, MemoryAccess::kRead);
  spin();
  EXPECT_EQ(iotlb(VHOST_IOTLB_ACCESS_FAIL, kIova + 6 * kPage, kPage), 0);
  view.refresh();
  EXPECT_EQ(view.translate(kIova + 6 * kPage, 64, MemoryAccess::kRead).status,
            TranslationStatus::kFault);
}

TEST_F(HostileIommu, AFloodOfMissesIsBounded) {
  bring_up();
  map(0);
  answer(0);
  answer(0);
  (void)questions();
  PeerView view = device.running[0].view();
  size_t asked = 0;
  for (uint64_t round = 0; round < 10; ++round) {
    const_cast<Iotlb&>(*connection->session().iotlb()).ask_again();
    const_cast<Iotlb&>(*connection->session().iotlb()).publish();
    view.refresh();
    for (uint64_t page = 0; page < 64; ++page) {
      (void)view.translate((round * 64 + page) * kPage, 64, MemoryAccess::kRead);
    }
    spin();
    asked += questions().size();
  }
  EXPECT_EQ(asked, 32U) << "no more before some are answered";
  answer(1);
  EXPECT_EQ(questions().size(), 1U);
}

TEST_F(HostileIommu, AWorkerThatDoesNotLetGoEndsTheSession) {
  bring_up();
  map(0, 4);
  device.stop_failure = "a worker is stuck";
  EXPECT_EQ(unmap(3), -1) << "nothing can be promised";
  EXPECT_NE(closed.find("a worker is stuck"), std::string::npos) << closed;
}

}  // namespace
}  // namespace pollux::test
