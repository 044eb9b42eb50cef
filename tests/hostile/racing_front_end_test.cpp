// SPDX-License-Identifier: Apache-2.0
// What workers use is taken from them while they use it: a front end that changes its mind about
// memory, rings, mappings, log and connection while its guest sends and receives. Workers are real
// threads, rings are full: for ThreadSanitizer as much as for the others.
#include <gtest/gtest.h>
#include <sched.h>

#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "pollux/base/peer_fd.hpp"
#include "pollux/engine/engine.hpp"
#include "tests/support/lying_front_end.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::liar {
namespace {

using vhost::make_request;
using vhost::Message;

constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1 | spec::VHOST_USER_F_PROTOCOL_FEATURES |
                               spec::VIRTIO_F_INDIRECT_DESC | spec::VIRTIO_F_EVENT_IDX |
                               spec::VIRTIO_NET_F_MRG_RXBUF | spec::VIRTIO_NET_F_MQ;
constexpr uint64_t kOffered = kFeatures | spec::VIRTIO_F_RING_PACKED |
                              spec::VIRTIO_F_ACCESS_PLATFORM | spec::VIRTIO_F_IN_ORDER;

/// A device whose rings the engine's workers use.
class DevicePort final : public Port {
 public:
  explicit DevicePort(vhost_user::NetDevice& device) : device_(device) {}
  Status start() override { return {}; }
  void stop() noexcept override {}
  [[nodiscard]] PortInfo info() const override { return {}; }
  std::vector<RxQueue> rx_queues() override { return device_.rx_queues(); }
  std::vector<TxQueue> tx_queues() override { return device_.tx_queues(); }

 private:
  vhost_user::NetDevice& device_;
};

/// CPUs that this program may use, at most two.
std::vector<int> two_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  std::vector<int> found;
  for (int cpu = 0; cpu < CPU_SETSIZE && found.size() < 2; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) found.push_back(cpu);
  }
  return found;
}

/// Two guests on a switch with two workers: number 0 has the restless front end, number 1 none of
/// this.
struct Arena {
  struct Guest {
    vhost_user::NetDevice device;
    FrontEnd front_end;

    Guest(EventLoop& loop, const Descriptors& fds, unsigned which, Engine& engine)
        : device({.queue_pairs = 2, .senders = 2, .features = kOffered}, engine, {}),
          front_end(loop, fds, which, device) {}
  };

  std::unique_ptr<Pool> pool = std::move(
      Pool::create({.name = "test", .packets = 4096, .buffers = 64, .pages = HugePages::kNever})
          .value());
  SteadyClock clock;
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  Descriptors fds;
  std::unique_ptr<Engine> engine;
  std::vector<std::unique_ptr<Guest>> guests;

  Arena() {
    fds.reset();
    EngineConfig config;
    config.cpus = two_cpus();
    config.idle = IdlePolicy::kYield;
    config.fdb.capacity = 64;
    engine = std::move(Engine::create(config, *pool, clock, Log{}).value());
    EXPECT_TRUE(engine->start());
    for (unsigned i = 0; i < 2; ++i) {
      guests.push_back(std::make_unique<Guest>(*loop, fds, i, *engine));
      add_port(i);
    }
  }
  void add_port(unsigned i) {
    EXPECT_TRUE(engine->add_port("guest" + std::to_string(i),
                                 std::make_unique<DevicePort>(guests[i]->device)));
  }
  FrontEnd& liar() { return guests[0]->front_end; }
  FrontEnd& honest() { return guests[1]->front_end; }
};

/// Frames to everybody, and room for the other guest's.
void keep_busy(FrontEnd& guest, uint8_t number) {
  for (size_t i = 0; i < 8; ++i) {
    const size_t at = kBuffers + (i % 4) * 0x800;
    const auto bytes = tcp_packet({}, 200 + 300 * (i % 4), 0xff, number);
    guest.memory().put(at, bytes.data(), bytes.size());
    const Piece sent{guest.address(at), static_cast<uint32_t>(bytes.size())};
    (void)guest.ring(1).offer({&sent, 1}, false, i % 3 == 0, std::nullopt);
    const Piece room{guest.address(kBuffers + 0x2000 + i * 0x600), 0x600};
    (void)guest.ring(0).offer({&room, 1}, true, i % 3 == 1, std::nullopt);
  }
}

/// What the front end does, again and again.
struct Deed {
  const char* name;
  std::function<void(Arena&, unsigned round)> act;
  bool iommu = false;
  bool counts_go = false;  // with the port
  bool packed = false;
};
void PrintTo(const Deed& /*deed*/, std::ostream* out) { *out << "workers let go first"; }

spec::VhostUserMemoryRegion region() { return {kGuest, kMemory, kUser, 0}; }

void share_again(Arena& arena) {
  Message table = make_request(spec::VHOST_USER_SET_MEM_TABLE, uint64_t{1});
  table.put(region());
  (void)arena.liar().say(table, {arena.fds.memory(0)});
}

std::vector<Deed> deeds_of_one_format() {
  using namespace spec;
  return {
      {"memory_removed_and_added",
       [](Arena& a, unsigned) {
         const VhostUserMemRegMsg message{0, region()};
         (void)a.liar().say(make_request(VHOST_USER_REM_MEM_REG, message));
         (void)a.liar().say(make_request(VHOST_USER_ADD_MEM_REG, message), {a.fds.memory(0)});
       }},
      {"memory_replaced", [](Arena& a, unsigned) { share_again(a); }},
      {"rings_stopped_and_started",
       [](Arena& a, unsigned) {
         for (uint32_t ring = 0; ring < 2; ++ring) a.liar().bounce(ring);
       }},
      {"queues_disabled_and_enabled",
       [](Arena& a, unsigned) {
         for (const uint32_t on : {0U, 1U}) {
           for (uint32_t ring = 0; ring < 2; ++ring) {
             (void)a.liar().say(
                 make_request(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{ring, on}));
           }
         }
       }},
      {"device_reset_and_set_up_anew",
       [](Arena& a, unsigned) {
         (void)a.liar().say(make_request(VHOST_USER_RESET_DEVICE));
         a.fds.reset_memory(0);
         a.liar().connect(a.liar().terms());
       }},
      {"status_0",
       [](Arena& a, unsigned) {
         (void)a.liar().say(make_request(VHOST_USER_SET_STATUS, uint64_t{0}));
         for (uint32_t ring = 0; ring < kRings; ++ring) a.liar().kick_off(ring);
       }},
      {"call_descriptor_changed",
       [](Arena& a, unsigned round) {
         for (uint32_t ring = 0; ring < 2; ++ring) {
           const bool none = (round & 1) != 0;
           (void)a.liar().say(
               make_request(VHOST_USER_SET_VRING_CALL,
                            ring | (none ? VHOST_USER_VRING_NOFD_MASK : uint64_t{0})),
               none ? std::vector<int>() : std::vector<int>{a.fds.call()});
         }
       }},
      {"dirty_log_taken_and_left",
       [](Arena& a, unsigned round) {
         a.liar().give_log(kPage, (round & 1) * kPage);
         a.liar().set_features(true);
         keep_busy(a.liar(), 0);
         a.liar().set_features(false);
       }},
      {"in_flight_region_written_over_and_cut_short",
       [](Arena& a, unsigned round) {
         const uint16_t size = 64;
         const size_t bytes =
             kRings * vhost::InflightRegion::queue_bytes(size, vhost::InflightFormat::kPacked);
         spec::VhostUserInflight told{};
         told.mmap_size = bytes;
         told.num_queues = kRings;
         told.queue_size = size;
         const auto bounce_both = [&] {
           for (uint32_t ring = 0; ring < 2; ++ring) a.liar().bounce(ring);
         };
         (void)a.liar().say(make_request(VHOST_USER_SET_INFLIGHT_FD, told), {a.fds.log()});
         bounce_both();
         std::vector<uint8_t> nonsense(bytes);
         for (size_t i = 0; i < 20; ++i) {
           for (uint8_t& byte : nonsense) byte = static_cast<uint8_t>(++round * 7 % 9);
           keep_busy(a.liar(), 0);
           GuestMemory(a.fds.log()).put(0, nonsense.data(), nonsense.size());
         }
         bounce_both();  // from what is said there
         keep_busy(a.liar(), 0);
         EXPECT_EQ(ftruncate(a.fds.log(), 0), 0);
         keep_busy(a.liar(), 0);
         keep_busy(a.honest(), 1);
         a.liar().hang_up();
         a.fds.reset_memory(0);
         a.fds.reset_memory(2);
         a.liar().connect(a.liar().terms());
       }},
      {"mappings_invalidated",
       [](Arena& a, unsigned round) {
         // The rings' own pages in some rounds: then the rings wait, too.
         const uint64_t first = round % 3 == 0 ? 0 : kBuffers;
         a.liar().map(kIova + first, kMemory - first, 0, 0, VHOST_IOTLB_INVALIDATE);
         a.liar().look_after();
       },
       true},
      {"mappings_changed_to_other_pages",
       [](Arena& a, unsigned round) {
         const uint64_t user = kUser + kBuffers + (round & 1) * kPage;
         a.liar().map(kIova + kBuffers, 2 * kPage, user, 3, VHOST_IOTLB_UPDATE);
         a.liar().look_after();
       },
       true},
      {"mappings_that_grant_less",
       [](Arena& a, unsigned round) {
         const auto perm = static_cast<uint8_t>(round % 3);
         a.liar().map(kIova + kBuffers, kMemory - kBuffers, kUser + kBuffers, perm,
                      VHOST_IOTLB_UPDATE);
         a.liar().look_after();
       },
       true},
      {"connection_closed_and_made_anew",
       [](Arena& a, unsigned) {
         a.liar().hang_up();
         a.fds.reset_memory(0);
         a.liar().connect(a.liar().terms());
       }},
      {"port_closed_and_opened",
       [](Arena& a, unsigned) {
         a.liar().hang_up();
         EXPECT_TRUE(a.engine->remove_port("guest0"));
         a.fds.reset_memory(0);
         a.add_port(0);
         a.liar().connect(a.liar().terms());
       },
       false, true},
      {"memory_cut_short",
       [](Arena& a, unsigned) {
         EXPECT_EQ(ftruncate(a.fds.memory(0), 0), 0);
         keep_busy(a.honest(), 1);
         a.liar().look_after();
         a.liar().hang_up();
         a.fds.reset_memory(0);
         a.liar().connect(a.liar().terms());
       }},
  };
}

std::vector<Deed> deeds() {
  std::vector<Deed> all = deeds_of_one_format();
  for (Deed deed : deeds_of_one_format()) {
    deed.packed = true;
    all.push_back(std::move(deed));
  }
  return all;
}

class RacingFrontEnd : public testing::TestWithParam<Deed> {};

/// Everything accepted was carried or counted, once the workers have stopped.
void expect_accounts(const Engine& engine) {
  uint64_t accepted = 0;
  uint64_t fates = 0;
  for (const PortStats& port : engine.port_stats()) {
    for (const QueueStats& queue : port.queues) {
      const bool rx = queue.name.starts_with("rx");
      if (rx) accepted += queue.packets;
      if (!rx) fates += queue.packets;
      for (const uint64_t drops : queue.drops) fates += drops;
    }
  }
  for (const WorkerStats& worker : engine.worker_stats()) accepted += worker.made();
  EXPECT_EQ(accepted, fates);
  EXPECT_GT(fates, 0U);
}

TEST_P(RacingFrontEnd, WhileTheRingsArePolled) {
  const Deed& deed = GetParam();
  signal_event(test::make_event().get());  // a thread's first signal opens what it keeps
  const size_t before = test::open_fds();
  {
    Arena arena;
    Terms terms;
    terms.packed = deed.packed;
    terms.odd_size = deed.packed;
    terms.oblige = true;
    terms.ready = true;
    terms.features = kFeatures | (deed.packed ? spec::VIRTIO_F_RING_PACKED : uint64_t{0});
    arena.honest().connect(terms);
    terms.iommu = deed.iommu;
    if (terms.iommu) terms.features |= spec::VIRTIO_F_ACCESS_PLATFORM;
    arena.liar().connect(terms);
    for (unsigned round = 0; round < 12; ++round) {
      keep_busy(arena.liar(), 0);
      keep_busy(arena.honest(), 1);
      deed.act(arena, round);
      arena.liar().look_after();
      ASSERT_TRUE(arena.liar().open()) << "round " << round;
      ASSERT_TRUE(arena.honest().open()) << "round " << round;
    }
    // Both are served on: the liar after whatever it did last.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    for (FrontEnd* guest : {&arena.honest(), &arena.liar()}) {
      while (!guest->ring(1).idle() && std::chrono::steady_clock::now() < deadline) {
        guest->look_after();
        sched_yield();
      }
      EXPECT_TRUE(guest->ring(1).idle()) << "frames were not taken";
    }
    arena.liar().hang_up();
    arena.honest().hang_up();
    arena.engine->stop();
    if (!deed.counts_go) expect_accounts(*arena.engine);
    arena.engine.reset();
    EXPECT_EQ(arena.pool->free_packets(), arena.pool->packet_count());
    EXPECT_EQ(arena.pool->free_buffers(), arena.pool->buffer_count());
  }
  EXPECT_EQ(test::mappings_of(Descriptors::kName), 0U);
  EXPECT_EQ(test::open_fds(), before);
}

INSTANTIATE_TEST_SUITE_P(Hostile, RacingFrontEnd, testing::ValuesIn(deeds()),
                         [](const testing::TestParamInfo<Deed>& made) {
                           return made.param.name +
                                  std::string(made.param.packed ? "_packed" : "_split");
                         });

}  // namespace
}  // namespace pollux::liar
