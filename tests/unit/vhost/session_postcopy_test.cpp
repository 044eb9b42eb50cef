// SPDX-License-Identifier: Apache-2.0
// A guest that runs here while its pages still come: messages, and when its rings start.
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <filesystem>
#include <thread>

#include "pollux/vhost/backend_session.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using namespace spec;
using test::kPage;
using test::kRingSize;
using test::kSize;
using test::make_event;
using test::make_memory;
using test::open_fds;
using test::RecordingDevice;
using test::region_at;
using test::ring_at;

constexpr uint64_t kFeatures = VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;
constexpr uint64_t kProtocol = VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_PAGEFAULT |
                               VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;

/// Threads of this process.
size_t threads() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

struct Postcopy : testing::Test {
  const size_t threads_before = threads();
  RecordingDevice device;
  std::optional<BackendSession> session{std::in_place, device};
  UniqueFd memory = make_memory(kSize);
  UniqueFd faults;

  void SetUp() override {
    if (auto possible = PageFaults::open(); !possible) GTEST_SKIP() << possible.error().what;
  }
  void TearDown() override {
    faults.reset();
    session.reset();
    wait_for_threads();
  }
  /// The library waits for no thread that waits for a page. Each lets go of what it shares when it
  /// ends, and that is not to happen while a test counts descriptors.
  void wait_for_threads() const {
    for (int i = 0; i < 20'000 && threads() != threads_before; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(threads(), threads_before);
  }
  Result<std::optional<Message>> send(Message message, std::vector<UniqueFd> fds = {}) {
    message.fds = std::move(fds);
    return session->handle(std::move(message));
  }
  template <typename T>
  Result<std::optional<Message>> send(uint32_t request, const T& payload, UniqueFd fd = {}) {
    std::vector<UniqueFd> fds;
    if (fd) fds.push_back(std::move(fd));
    return send(make_request(request, payload), std::move(fds));
  }
  void listen() {
    ASSERT_TRUE(send(VHOST_USER_SET_PROTOCOL_FEATURES, kProtocol));
    ASSERT_TRUE(send(VHOST_USER_SET_FEATURES, kFeatures));
    auto reply = send(make_request(VHOST_USER_POSTCOPY_ADVISE));
    ASSERT_TRUE(reply && *reply) << reply.error().what;
    EXPECT_TRUE((*reply)->payload.empty());
    ASSERT_EQ((*reply)->fds.size(), 1U);
    faults = std::move((*reply)->fds.front());
    ASSERT_TRUE(send(make_request(VHOST_USER_POSTCOPY_LISTEN)));
  }
  /// Shares the region as QEMU does with memory slots; where it lies here.
  uint64_t add_region() {
    auto reply =
        send(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region_at(0)}, test::copy_of(memory));
    if (!reply || !*reply) return 0;
    const auto region = (*reply)->get<VhostUserMemRegMsg>()->region;
    EXPECT_EQ(region.guest_phys_addr, region_at(0).guest_phys_addr);
    EXPECT_EQ(region.memory_size, kSize);
    return region.userspace_addr;
  }
  void set_ring(uint32_t index) {
    ASSERT_TRUE(send(VHOST_USER_SET_VRING_NUM, vhost_vring_state{index, kRingSize}));
    ASSERT_TRUE(send(VHOST_USER_SET_VRING_ADDR, ring_at(index)));
    ASSERT_TRUE(send(VHOST_USER_SET_VRING_KICK, uint64_t{index}, make_event()));
  }
  std::string why(uint16_t index) { return session->state().vrings[index].stopped_because; }

  /// One page fault is taken and, but for that, ignored; the page's number.
  uint64_t next_fault(uint64_t base) {
    pollfd wanted{faults.get(), POLLIN, 0};
    if (::poll(&wanted, 1, 20'000) != 1) return ~uint64_t{0};
    uffd_msg message{};
    EXPECT_EQ(read(faults.get(), &message, sizeof message), ssize_t{sizeof message});
    return (message.arg.pagefault.address - base) / kPage;
  }
  void bring(uint64_t base, uint64_t page) {
    const char content = 0;
    ASSERT_EQ(pwrite(memory.get(), &content, 1, static_cast<off_t>(page * kPage)), 1);
    uffdio_range range{base + page * kPage, kPage};
    (void)ioctl(faults.get(), UFFDIO_WAKE, &range);
  }
  void wait_for_arrival() {
    pollfd wanted{session->absent_pages()->arrivals(), POLLIN, 0};
    ASSERT_EQ(::poll(&wanted, 1, 20'000), 1);
    session->pages_arrived();
  }
};

TEST_F(Postcopy, RingsStartOnceTheirPagesHaveCome) {
  listen();
  const uint64_t base = add_region();
  ASSERT_NE(base, 0U);
  EXPECT_EQ(session->memory(), nullptr) << "not touched before the front end is ready";
  set_ring(1);
  EXPECT_EQ(why(1), "no memory is shared yet");
  ASSERT_TRUE(send(VHOST_USER_ADD_MEM_REG, uint64_t{0}));
  ASSERT_NE(session->memory(), nullptr);
  EXPECT_EQ(why(1), "not all of its pages have come yet");
  EXPECT_EQ(next_fault(base), 1U) << "the ring's page, and by no thread of ours that matters";
  bring(base, 1);
  wait_for_arrival();
  ASSERT_TRUE(device.running.contains(1)) << why(1);
  EXPECT_EQ(
      device.running[1].memory->translate(GuestAddr{test::kGuest}, 8, MemoryAccess::kRead).status,
      TranslationStatus::kMiss);
  device.progress[1] = 3;
  auto end = send(make_request(VHOST_USER_POSTCOPY_END));
  ASSERT_TRUE(end && *end);
  EXPECT_EQ((*end)->get<uint64_t>(), 0U);
  EXPECT_EQ(session->absent_pages(), nullptr);
  ASSERT_TRUE(device.running.contains(1));
  EXPECT_EQ(device.running[1].base, 3U) << "it goes on where it was";
  EXPECT_EQ(
      device.running[1].memory->translate(GuestAddr{test::kGuest}, 8, MemoryAccess::kRead).status,
      TranslationStatus::kOk);
}

TEST_F(Postcopy, ATableIsAnsweredWithItsPlacesHere) {
  listen();
  Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{2});
  table.put(region_at(0));
  table.put(region_at(1));
  std::vector<UniqueFd> fds;
  fds.push_back(test::copy_of(memory));
  fds.push_back(make_memory(kSize));
  auto reply = send(std::move(table), std::move(fds));
  ASSERT_TRUE(reply && *reply) << reply.error().what;
  EXPECT_EQ((*reply)->payload.size(), 72U);
  EXPECT_EQ((*reply)->get<uint32_t>(), 2U);
  const auto first = *(*reply)->get<VhostUserMemoryRegion>(8);
  const auto second = *(*reply)->get<VhostUserMemoryRegion>(40);
  EXPECT_EQ(second.guest_phys_addr, region_at(1).guest_phys_addr);
  ASSERT_TRUE(send(VHOST_USER_SET_MEM_TABLE, uint64_t{0}));
  const auto regions = session->memory()->regions();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(regions[0].host), first.userspace_addr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(regions[1].host), second.userspace_addr);
}

TEST_F(Postcopy, AFrontEndThatGoesLeavesNobodyWaiting) {
  listen();
  const uint64_t base = add_region();
  ASSERT_TRUE(send(VHOST_USER_ADD_MEM_REG, uint64_t{0}));
  set_ring(0);
  EXPECT_EQ(next_fault(base), 0U);
  session->end();
  EXPECT_EQ(session->absent_pages(), nullptr);
  // Nothing was put into the guest's memory in place of what did not come.
  struct stat st{};
  ASSERT_EQ(fstat(memory.get(), &st), 0);
  EXPECT_EQ(st.st_blocks, 0);
}

TEST_F(Postcopy, ARegionMayGoWhileItsPagesAreWaitedFor) {
  listen();
  const uint64_t base = add_region();
  ASSERT_TRUE(send(VHOST_USER_ADD_MEM_REG, uint64_t{0}));
  set_ring(0);
  EXPECT_EQ(next_fault(base), 0U);
  ASSERT_TRUE(send(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region_at(0)}));
  EXPECT_TRUE(session->state().slots.empty());
  EXPECT_FALSE(device.running.contains(0));
}

TEST_F(Postcopy, OutOfOrderIsRefused) {
  ASSERT_TRUE(send(VHOST_USER_SET_PROTOCOL_FEATURES, kProtocol));
  EXPECT_FALSE(send(make_request(VHOST_USER_POSTCOPY_LISTEN)));
  EXPECT_FALSE(send(VHOST_USER_ADD_MEM_REG, uint64_t{0})) << "no post-copy, no such message";
  ASSERT_TRUE(
      send(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region_at(0)}, test::copy_of(memory)));
  ASSERT_TRUE(send(make_request(VHOST_USER_POSTCOPY_ADVISE)));
  auto late = send(make_request(VHOST_USER_POSTCOPY_LISTEN));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().what, "POSTCOPY_LISTEN: memory was shared already, and maybe used");
}

TEST_F(Postcopy, LeavesNothingBehind) {
  const size_t fds = open_fds();
  listen();
  (void)add_region();
  ASSERT_TRUE(send(VHOST_USER_ADD_MEM_REG, uint64_t{0}));
  faults.reset();
  session->end();
  wait_for_threads();
  EXPECT_EQ(open_fds(), fds);
  EXPECT_EQ(test::mappings_of("peer-memory"), 0U);
}

}  // namespace
}  // namespace pollux::vhost
