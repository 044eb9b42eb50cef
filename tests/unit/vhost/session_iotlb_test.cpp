// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "tests/support/iommu_session.hpp"

namespace pollux::test {
namespace {

using Iommu = IommuSession;

TEST_F(Iommu, ARingStartsWhenItsAddressesAreKnown) {
  bring_up();
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(why(0), "the IOMMU has not said yet where its descriptor table at 0x40000000 lies");
  // Descriptors and available ring are read, the used ring is read and written: one page, two
  // questions, each once.
  EXPECT_EQ(questions(), (std::vector<Question>{{kIova, 1}, {kIova + 2048, 3}}));
  EXPECT_EQ(map(0), 0);
  ASSERT_TRUE(runs(0)) << why(0);
  const auto* page = device.running[0].memory->regions()[0].host;
  EXPECT_EQ(reinterpret_cast<const std::byte*>(split_layout(0).used), page + 2048);
  EXPECT_TRUE(device.running[0].iotlb);
  EXPECT_TRUE(questions().empty());
  answer(0);
  answer(0);
  EXPECT_TRUE(closed.empty()) << closed;
  EXPECT_EQ(counters().misses, 2U);
}

TEST_F(Iommu, MappingsMayComeFirst) {
  negotiate();
  give_channel();
  share();
  EXPECT_EQ(map(0, 4), 0);
  set_ring(1);
  EXPECT_TRUE(runs(1)) << why(1);
  EXPECT_TRUE(questions().empty());
}

TEST_F(Iommu, ARingOverSeveralPagesAsksForAllOfThemAtOnce) {
  negotiate();
  give_channel();
  share();
  say(make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, 512}));  // 2, 1 and 2 pages
  say(make_request(VHOST_USER_SET_VRING_ADDR,
                   vhost_vring_addr{0, 0, kIova, kIova + 3 * kPage, kIova + 2 * kPage, 0}));
  const UniqueFd kick = make_event();
  say(make_request(VHOST_USER_SET_VRING_KICK, uint64_t{0}), {kick.get()});
  EXPECT_EQ(questions(), (std::vector<Question>{{kIova, 1},
                                                {kIova + kPage, 1},
                                                {kIova + 2 * kPage, 1},
                                                {kIova + 3 * kPage, 3},
                                                {kIova + 4 * kPage, 3}}));
  for (uint64_t page = 0; page < 4; ++page) EXPECT_EQ(map(page), 0);
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(map(4), 0);
  EXPECT_TRUE(runs(0)) << why(0);
}

TEST_F(Iommu, InvalidationStopsARingBeforeItIsAnswered) {
  bring_up();
  map(0, 2);
  ASSERT_TRUE(runs(0));
  device.progress[0] = 5;
  device.calls.clear();
  (void)questions();
  EXPECT_EQ(unmap(0), 0);
  EXPECT_FALSE(runs(0));
  EXPECT_EQ(device.calls, (std::vector<std::string>{"stop 0", "mappings changed"}));
  EXPECT_EQ(questions().size(), 2U) << "asked for anew";
  EXPECT_EQ(map(0), 0);
  ASSERT_TRUE(runs(0));
  EXPECT_EQ(device.running[0].base, 5U) << "goes on where it was";
}

TEST_F(Iommu, InvalidationElsewhereOnlyWaitsForTheWorkers) {
  bring_up();
  map(0, 8);
  device.calls.clear();
  EXPECT_EQ(unmap(4), 0);
  EXPECT_TRUE(runs(0));
  EXPECT_EQ(device.calls, (std::vector<std::string>{"mappings changed"}));
  EXPECT_EQ(unmap(4), 0);
  EXPECT_EQ(device.calls.size(), 1U) << "nothing was there any more";
}

TEST_F(Iommu, AMissOfAWorkerIsAskedForOnce) {
  bring_up();
  map(0);
  (void)questions();
  auto& reader = *device.running[0].iotlb;
  PeerView view = device.running[0].view();
  view.refresh();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(view.translate(kIova + 2 * kPage + 8, 64, MemoryAccess::kWrite).status,
              TranslationStatus::kMiss);
  }
  spin();
  EXPECT_EQ(questions(), (std::vector<Question>{{kIova + 2 * kPage + 8, 2}}));
  EXPECT_EQ(map(9), 0);  // another table: the worker reports again what it still misses
  view.refresh();
  (void)view.translate(kIova + 2 * kPage + 8, 64, MemoryAccess::kWrite);
  spin();
  EXPECT_TRUE(questions().empty()) << "it is on its way";
  EXPECT_EQ(map(2), 0);
  view.refresh();
  EXPECT_EQ(view.translate(kIova + 2 * kPage + 8, 64, MemoryAccess::kWrite).status,
            TranslationStatus::kOk);
  IotlbMiss none;
  EXPECT_FALSE(reader.take(none));
}

// A driver unmaps a buffer as soon as it has it back. What was asked for before may be refused
// then, and means nothing for the buffer that gets the same address next.
TEST_F(Iommu, AMissFromBeforeAnInvalidationIsNoFault) {
  bring_up();
  map(0);
  answer(0);
  answer(0);
  (void)questions();
  PeerView view = device.running[0].view();
  const auto look = [&] {
    view.refresh();
    const auto found = view.translate(kIova + 2 * kPage, 64, MemoryAccess::kWrite).status;
    spin();
    return found;
  };
  EXPECT_EQ(look(), TranslationStatus::kMiss);
  EXPECT_EQ(questions().size(), 1U);
  unmap(2);
  EXPECT_EQ(look(), TranslationStatus::kMiss);
  EXPECT_EQ(questions().size(), 1U) << "who still wants it says so again";
  answer(1);
  EXPECT_EQ(counters().faults, 0U);
  EXPECT_EQ(look(), TranslationStatus::kMiss);
  EXPECT_EQ(map(2), 0);
  EXPECT_EQ(look(), TranslationStatus::kOk);
  answer(0);
  EXPECT_EQ(counters().faults, 0U);
}

TEST_F(Iommu, AsksForNoLessThanWasGranted) {
  bring_up();
  map(0);
  map(3, 1, VHOST_ACCESS_RO);
  (void)questions();
  PeerView view = device.running[0].view();
  view.refresh();
  EXPECT_EQ(view.translate(kIova + 3 * kPage, 64, MemoryAccess::kWrite).status,
            TranslationStatus::kMiss);
  spin();
  EXPECT_EQ(questions(), (std::vector<Question>{{kIova + 3 * kPage, 3}}));
}

TEST_F(Iommu, WithoutAChannelItWaitsAndSaysSo) {
  negotiate();
  share();
  set_ring(0);
  EXPECT_NE(why(0).find("no channel to ask on"), std::string::npos) << why(0);
  give_channel();
  EXPECT_EQ(questions().size(), 2U);
  back.reset();
  spin();
  EXPECT_EQ(connection->session().channel(), nullptr);
  give_channel();
  EXPECT_EQ(questions().size(), 2U) << "asked again on the next one";
  EXPECT_EQ(map(0), 0);
  EXPECT_TRUE(runs(0));
}

TEST_F(Iommu, WithoutAcknowledgementsToo) {
  negotiate(VHOST_USER_PROTOCOL_F_BACKEND_REQ);
  give_channel();
  share();
  set_ring(0);
  const auto got = receive_raw(back.get());
  EXPECT_EQ(got.bytes.size(), 2 * (sizeof(VhostUserHeader) + sizeof(vhost_iotlb_msg)));
  EXPECT_EQ(static_cast<unsigned>(got.bytes[4]), 1U) << "no reply wanted";
  EXPECT_EQ(map(0), 0);
  EXPECT_TRUE(runs(0));
}

TEST_F(Iommu, MappingsMoveWithTheMemory) {
  bring_up();
  map(0, 4);
  ASSERT_TRUE(runs(0));
  device.progress[0] = 3;
  (void)questions();
  share();
  ASSERT_TRUE(runs(0)) << why(0);
  EXPECT_EQ(device.running[0].base, 3U);
  EXPECT_TRUE(questions().empty());
  EXPECT_EQ(reinterpret_cast<const std::byte*>(split_layout(0).desc),
            device.running[0].memory->regions()[0].host);
}

TEST_F(Iommu, StoppedRingsForgetWhatNobodyWillTakeBack) {
  bring_up();
  set_ring(1);
  map(0, 4);
  ASSERT_TRUE(runs(0) && runs(1));
  say(make_request(VHOST_USER_GET_VRING_BASE, vhost_vring_state{0, 0}));
  EXPECT_EQ(connection->session().iotlb()->runs(), 1U) << "ring 1 still runs";
  say(make_request(VHOST_USER_GET_VRING_BASE, vhost_vring_state{1, 0}));
  EXPECT_EQ(connection->session().iotlb()->runs(), 0U);
}

TEST_F(Iommu, OtherFeaturesBeginAnew) {
  bring_up();
  map(0, 4);
  const auto before = connection->session().iotlb();
  say(make_request(VHOST_USER_SET_FEATURES, kIommuFeatures));
  EXPECT_EQ(connection->session().iotlb(), before) << "the same ones do not";
  say(make_request(VHOST_USER_SET_FEATURES, kIommuFeatures | VIRTIO_F_INDIRECT_DESC));
  EXPECT_EQ(connection->session().iotlb()->runs(), 0U);
  answer(0);  // to a question of before
  EXPECT_TRUE(closed.empty()) << closed;
}

TEST_F(Iommu, ManyPagesAreNotQuadratic) {
  constexpr uint64_t kPages = 8000;
  negotiate();
  give_channel();
  Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
  table.put(region_at(0, 2 * kPages * kPage));
  const UniqueFd memory = make_memory(2 * kPages * kPage);
  say(table, {memory.get()});
  for (uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(map(2 * page), 0);
  EXPECT_EQ(connection->session().iotlb()->runs(), kPages);
  EXPECT_EQ(connection->session().iotlb()->evicted(), 0U);
  for (uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(map(2 * page + 1), 0);
  EXPECT_EQ(connection->session().iotlb()->runs(), 1U) << "they have grown together";
}

TEST_F(Iommu, TheDirtyLogSpeaksOfTheGuestsMemory) {
  device.offering.protocol_features = ~uint64_t{0};
  say(make_request(VHOST_USER_SET_PROTOCOL_FEATURES,
                   kIommuProtocol | VHOST_USER_PROTOCOL_F_LOG_SHMFD));
  say(make_request(VHOST_USER_SET_FEATURES, kIommuFeatures | VHOST_F_LOG_ALL));
  give_channel();
  share();
  const UniqueFd log = make_memory(kPage);
  say(make_request(VHOST_USER_SET_LOG_BASE, VhostUserLog{kPage, 0}), {log.get()});
  say(make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{0, kRingSize}));
  auto logged = ring_at(0, kIova);
  logged.flags = VHOST_VRING_F_LOG;
  logged.log_guest_addr = logged.used_user_addr;  // as QEMU has it: behind the IOMMU
  say(make_request(VHOST_USER_SET_VRING_ADDR, logged));
  const UniqueFd kick = make_event();
  say(make_request(VHOST_USER_SET_VRING_KICK, uint64_t{0}), {kick.get()});
  map(0, 1);
  ASSERT_TRUE(runs(0)) << why(0);
  const RingStart& start = device.running[0];
  ASSERT_TRUE(start.log);
  const auto* used = std::get<ring::SplitLayout>(start.layout).used;
  start.log->note_ring(&used->idx, sizeof used->idx);
  uint8_t bits = 0;
  constexpr uint64_t kGuestPage = kGuest / kPage;
  ASSERT_EQ(pread(log.get(), &bits, 1, kGuestPage / 8), 1);
  EXPECT_EQ(bits, 1U << (kGuestPage % 8));
}

// Hand-over ---------------------------------------------------------------------------------------

struct HandedOverIommu : IommuSession {
  Status hand_over() {
    nlohmann::json values;
    FdParcel lent;
    if (auto ok = connection->save(values, lent); !ok) return ok;
    std::vector<UniqueFd> fds;
    for (const int fd : lent.lent()) fds.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    connection.reset();
    FdParcel came(std::move(fds));
    auto adopted = BackendConnection::adopt(*loop, values, came, device, {},
                                            [this](const Error& error) { closed = error.what; });
    if (!adopted) return forward(adopted);
    connection = std::move(*adopted);
    return {};
  }
};

TEST_F(HandedOverIommu, KnowsWhatItWasTold) {
  bring_up();
  map(0, 4);
  iotlb(VHOST_IOTLB_UPDATE, kIova + 8 * kPage, kPage, kUser + 5 * kPage, 1);
  (void)questions();
  answer(0);
  answer(0);
  device.progress[0] = 5;
  ASSERT_TRUE(hand_over());
  ASSERT_TRUE(runs(0)) << why(0);
  EXPECT_EQ(device.running[0].base, 5U);
  EXPECT_TRUE(device.running[0].iotlb);
  EXPECT_TRUE(questions().empty()) << "asks nothing that was answered";
  const IotlbTable& table = *connection->session().iotlb()->table();
  const auto* host = device.running[0].memory->regions()[0].host;
  EXPECT_EQ(table.translate(kIova + 8 * kPage, 1, MemoryAccess::kRead).data, host + 5 * kPage);
  EXPECT_EQ(table.translate(kIova + 8 * kPage, 1, MemoryAccess::kWrite).status,
            TranslationStatus::kMiss);
  EXPECT_EQ(counters().updates, 2U);
  EXPECT_EQ(counters().misses, 2U);
  EXPECT_EQ(unmap(0), 0);
  EXPECT_FALSE(runs(0)) << "and still listens";
  EXPECT_EQ(questions().size(), 2U);
}

TEST_F(HandedOverIommu, ReportsMisses) {
  bring_up();
  map(0, 4);
  (void)questions();
  answer(0);
  answer(0);
  ASSERT_TRUE(hand_over());
  ASSERT_TRUE(runs(0));
  device.running[0].iotlb->report(kIova + 10 * kPage, MemoryAccess::kRead);
  spin();
  EXPECT_EQ(questions(), (std::vector<Question>{{kIova + 10 * kPage, 1}}));
}

TEST_F(HandedOverIommu, WaitsForAnswers) {
  bring_up();
  EXPECT_EQ(questions().size(), 2U);
  const Status early = hand_over();
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, ErrorCode::kTimeout);
  map(0);
  EXPECT_TRUE(runs(0)) << "it is still served";
  answer(0);
  answer(0);
  EXPECT_TRUE(hand_over());
  EXPECT_TRUE(runs(0));
}

}  // namespace
}  // namespace pollux::test
