// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/tcp_frame.hpp"
#include "tests/unit/engine/fake_port.hpp"

namespace pollux {
namespace {

using namespace std::chrono_literals;
using test::FakePort;
using test::Totals;
using Frame = FakePort::Frame;
using testing::HasSubstr;

/// The CPUs that this program may use, at most `most`.
std::vector<int> cpus(size_t most) {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  std::vector<int> found;
  for (int cpu = 0; cpu < CPU_SETSIZE && found.size() < most; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) found.push_back(cpu);
  }
  return found;
}

class EngineTest : public testing::Test {
 protected:
  static PoolConfig pool_config() {
    return {.name = "test", .packets = 8192, .buffers = 64, .pages = HugePages::kNever};
  }
  std::unique_ptr<Engine> make(size_t workers, IdlePolicy idle = IdlePolicy::kAdaptive) {
    EngineConfig config;
    config.cpus = cpus(workers);
    config.idle = idle;
    config.fdb.capacity = 1024;
    return std::move(Engine::create(config, *pool_, clock_, Log{}).value());
  }
  std::unique_ptr<FakePort> quiet(const std::string& name) {
    return std::make_unique<FakePort>(FakePort::Config{.name = name}, test::silent());
  }

  std::unique_ptr<Pool> pool_ = std::move(Pool::create(pool_config()).value());
  SteadyClock clock_;
};

TEST_F(EngineTest, WrongCpusAreRefused) {
  const auto refusal = [&](std::vector<int> wrong) {
    EngineConfig config;
    config.cpus = std::move(wrong);
    auto engine = Engine::create(config, *pool_, clock_, Log{});
    return engine ? std::string() : engine.error().what;
  };
  EXPECT_THAT(refusal({-1}), HasSubstr("CPU -1"));
  EXPECT_THAT(refusal({100000}), HasSubstr("CPU 100000"));
  const int cpu = cpus(1)[0];
  EXPECT_THAT(refusal({cpu, cpu}), HasSubstr("twice"));
}

TEST_F(EngineTest, NamesOfPortsAreCheckedAndUnique) {
  auto engine = make(1);
  for (const std::string& name : {std::string(), std::string("a b"), std::string("a/b"),
                                  std::string(64, 'x'), std::string("a\n")}) {
    EXPECT_FALSE(engine->add_port(name, quiet("x"))) << name;
  }
  EXPECT_EQ(engine->add_port(std::string(63, 'x'), quiet("x")).value(), 0);
  EXPECT_EQ(engine->add_port("a-b_c.1", quiet("x")).value(), 1);
  const auto again = engine->add_port("a-b_c.1", quiet("x"));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kAlreadyExists);
  const auto gone = engine->remove_port("nobody");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ErrorCode::kNotFound);
}

TEST_F(EngineTest, IndicesOfPortsThatWentAreUsedAgain) {
  auto engine = make(1);
  ASSERT_TRUE(engine->start());
  EXPECT_EQ(engine->add_port("a", quiet("a")).value(), 0);
  EXPECT_EQ(engine->add_port("b", quiet("b")).value(), 1);
  EXPECT_EQ(engine->add_port("c", quiet("c")).value(), 2);
  EXPECT_TRUE(engine->remove_port("b"));
  EXPECT_EQ(engine->port_name(1), "");
  EXPECT_EQ(engine->add_port("d", quiet("d")).value(), 1);
  EXPECT_EQ(engine->port_name(1), "d");
  EXPECT_EQ(engine->port_stats().size(), 3u);
}

TEST_F(EngineTest, PortThatDoesNotStartIsNotAdded) {
  class Broken final : public Port {
   public:
    Status start() override { return fail(ErrorCode::kResource, "no"); }
    void stop() noexcept override {}
    [[nodiscard]] PortInfo info() const override { return {}; }
    std::vector<RxQueue> rx_queues() override { return {}; }
    std::vector<TxQueue> tx_queues() override { return {}; }
  };
  auto engine = make(1);
  EXPECT_FALSE(engine->add_port("a", std::make_unique<Broken>()));
  EXPECT_TRUE(engine->port_stats().empty());
}

/// Sends bursts of all kinds as fast as it is polled, from address 10 + `index`.
FakePort::Source busy(uint8_t index, unsigned seed, std::atomic<bool>& go) {
  // A generator for each queue, as each may have a worker of its own.
  auto generators = std::make_shared<std::array<std::mt19937, 3>>();
  for (auto& generator : *generators) generator.seed(++seed);
  return [index, &go, generators](unsigned queue, size_t room) {
    std::mt19937& random = (*generators)[queue];
    std::vector<Frame> frames;
    if (!go.load(std::memory_order_relaxed)) return frames;
    const auto from = static_cast<uint8_t>(10 + index);
    for (size_t n = random() % 8; n != 0 && frames.size() < room; --n) {
      const auto to = static_cast<uint8_t>(10 + random() % 8);
      const unsigned kind = random() % 8;
      if (kind == 0) {
        frames.push_back({test::broadcast(from, 300)});
      } else if (kind == 1) {
        PacketMeta meta;
        meta.needs_csum = true;
        meta.csum_start = 34;
        meta.csum_offset = 16;
        meta.gso = GsoType::kTcp4;
        meta.gso_size = 500;
        frames.push_back({test::tcp_frame(1800, false, to, from), meta});
      } else {
        frames.push_back({test::ethernet(to, from, 60 + random() % 400)});
      }
    }
    return frames;
  };
}

struct Load {
  const char* name;
  size_t workers;
  IdlePolicy idle;
};

class EngineUnderLoad : public EngineTest, public testing::WithParamInterface<Load> {};

TEST_P(EngineUnderLoad, PortsComeAndGoAndNoPacketIsMiscounted) {
  auto totals = std::make_shared<Totals>();
  std::atomic<bool> go{true};
  auto engine = make(GetParam().workers, GetParam().idle);
  ASSERT_TRUE(engine->start());
  const auto add = [&](uint8_t i, unsigned seed) {
    FakePort::Config config{.name = "p" + std::to_string(i), .queues = 1U + i % 3};
    config.offloads = i % 2 == 0 ? 0 : kTxChecksum | kTxTso4;
    config.totals = totals;
    config.takes = [seed](size_t offered) { return offered * (seed % 5) / 4; };
    auto port = std::make_unique<FakePort>(std::move(config), busy(i, seed, go));
    ASSERT_TRUE(engine->add_port("p" + std::to_string(i), std::move(port)));
  };
  for (uint8_t i = 0; i < 6; ++i) add(i, i);
  for (unsigned round = 0; round < 30; ++round) {
    const auto i = static_cast<uint8_t>(round % 6);
    ASSERT_TRUE(engine->remove_port("p" + std::to_string(i)));
    (void)engine->port_stats();
    (void)engine->worker_stats();
    add(i, 100 + round);
  }
  uint64_t accepted = 0;
  while (accepted < 5000) {  // some real traffic at least
    accepted = 0;
    for (const WorkerStats& stats : engine->worker_stats()) accepted += stats.packets;
    std::this_thread::yield();
  }
  go = false;
  engine->stop();
  uint64_t expected = 0;
  for (const WorkerStats& stats : engine->worker_stats()) {
    expected += stats.made();
  }
  engine.reset();  // the ports tell what they counted
  EXPECT_GT(totals->accepted, 0u);
  EXPECT_EQ(totals->accepted + expected, totals->fates);
  EXPECT_EQ(pool_->free_packets(), pool_->packet_count());
  EXPECT_EQ(pool_->free_buffers(), pool_->buffer_count());
}

/// Something that control takes away and frees as soon as `synchronize` says so. Each use is two
/// plain writes in different calls of one turn; a premature return is a data race, a use after
/// free, or a value that changed within the turn.
class SynchronizeUnderLoad : public EngineTest, public testing::WithParamInterface<Load> {};

TEST_P(SynchronizeUnderLoad, NothingUnpublishedIsInUseAfterwards) {
  struct Thing {
    uint64_t uses = 0;
  };
  std::vector<std::unique_ptr<std::atomic<Thing*>>> published;
  auto engine = make(GetParam().workers, GetParam().idle);
  ASSERT_TRUE(engine->start());
  std::atomic<uint64_t> rounds{0};
  for (unsigned i = 0; i < 4; ++i) {
    published.push_back(std::make_unique<std::atomic<Thing*>>(nullptr));
    auto* slot = published.back().get();
    auto port = std::make_unique<FakePort>(FakePort::Config{.name = "p" + std::to_string(i)},
                                           [slot, &rounds](unsigned, size_t) {
                                             std::vector<Frame> none;
                                             rounds.fetch_add(1, std::memory_order_relaxed);
                                             Thing* thing = slot->load();
                                             if (thing == nullptr) return none;
                                             const uint64_t before = thing->uses;
                                             thing->uses = before + 1;
                                             for (int spin = 0; spin < 50; ++spin)
                                               std::atomic_signal_fence(std::memory_order_seq_cst);
                                             EXPECT_EQ(thing->uses, before + 1);
                                             thing->uses = before + 2;
                                             return none;
                                           });
    ASSERT_TRUE(engine->add_port("p" + std::to_string(i), std::move(port)));
  }
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    auto& slot = *published[random() % published.size()];
    auto thing = std::make_unique<Thing>();
    slot.store(thing.get());
    if (round % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    slot.store(nullptr);
    ASSERT_TRUE(engine->synchronize(60s));
    EXPECT_EQ(thing->uses % 2, 0u);
    thing->uses = 1;
  }
  EXPECT_GT(rounds.load(), 0u);
  engine->stop();
  EXPECT_TRUE(engine->synchronize(0s));  // nobody is left who could use anything
}

constexpr std::array kLoads{Load{"one_worker_adaptive", 1, IdlePolicy::kAdaptive},
                            Load{"two_workers_adaptive", 2, IdlePolicy::kAdaptive},
                            Load{"two_workers_yield", 2, IdlePolicy::kYield},
                            Load{"two_workers_poll", 2, IdlePolicy::kPoll}};
const auto kLoadName = [](const auto& load) { return std::string(load.param.name); };
INSTANTIATE_TEST_SUITE_P(Engine, EngineUnderLoad, testing::ValuesIn(kLoads), kLoadName);
INSTANTIATE_TEST_SUITE_P(Engine, SynchronizeUnderLoad, testing::ValuesIn(kLoads), kLoadName);

/// A clock by which each look at it takes a tenth of a second: deadlines pass, tests do not wait.
class HastyClock final : public Clock {
 public:
  [[nodiscard]] Nanos now() const noexcept override {
    return std::chrono::milliseconds(100 * looks_.fetch_add(1));
  }

 private:
  mutable std::atomic<int64_t> looks_{0};
};

TEST_F(EngineTest, StuckWorkerIsNotWaitedForForEver) {
  HastyClock clock;
  EngineConfig config;
  config.fdb.capacity = 1024;
  auto engine = std::move(Engine::create(config, *pool_, clock, Log{}).value());
  std::atomic<bool> stuck{false};
  std::atomic<bool> release{false};
  auto port = std::make_unique<FakePort>(FakePort::Config{.name = "a"}, [&](unsigned, size_t) {
    while (stuck.load() && !release.load()) std::this_thread::yield();
    return std::vector<Frame>{};
  });
  FakePort* raw = port.get();
  ASSERT_TRUE(engine->start());
  ASSERT_TRUE(engine->add_port("a", std::move(port)));
  stuck = true;
  while (engine->synchronize(1s)) {  // until the worker has come to the place
  }
  const Status removed = engine->remove_port("a");
  ASSERT_FALSE(removed);
  EXPECT_EQ(removed.error().code, ErrorCode::kTimeout);
  EXPECT_TRUE(raw->started());  // kept as long as the worker might use it
  EXPECT_TRUE(engine->port_stats().empty());
  EXPECT_TRUE(engine->add_port("a", quiet("a")));
  release = true;
  engine->stop();
}

TEST_F(EngineTest, AnIdleWorkerSleepsUnlessAQueueIsToBePolled) {
  auto engine = make(1);
  ASSERT_TRUE(engine->add_port("a", quiet("a")));
  ASSERT_TRUE(engine->start());
  const auto sleeps = [&] { return engine->worker_stats()[0].sleeps; };
  const auto turns = [&] { return engine->worker_stats()[0].empty_turns; };
  const auto sleeps_on = [&] {
    for (const uint64_t before = sleeps(); sleeps() < before + 3;) std::this_thread::yield();
  };
  sleeps_on();
  ASSERT_TRUE(engine->set_queue_mode("a", 0, QueueMode::kPoll));
  EXPECT_EQ(engine->port_stats()[0].queues[0].mode, QueueMode::kPoll);
  // The mode is published; what sleep there was has ended with it.
  const uint64_t before = sleeps();
  for (const uint64_t polled = turns(); turns() < polled + 10'000;) std::this_thread::yield();
  EXPECT_LE(sleeps(), before + 1);
  ASSERT_TRUE(engine->set_queue_mode("a", {}, QueueMode::kAdaptive));
  sleeps_on();
  EXPECT_EQ(engine->set_queue_mode("b", {}, QueueMode::kPoll).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(engine->set_queue_mode("a", 9, QueueMode::kPoll).error().code, ErrorCode::kNotFound);
  engine->stop();
}

TEST_F(EngineTest, StopsWhileTrafficRuns) {
  auto totals = std::make_shared<Totals>();
  std::atomic<bool> go{true};
  for (int round = 0; round < 10; ++round) {
    auto engine = make(2);
    for (uint8_t i = 0; i < 3; ++i) {
      FakePort::Config config{.name = "p" + std::to_string(i)};
      config.totals = totals;
      ASSERT_TRUE(engine->add_port("p" + std::to_string(i),
                                   std::make_unique<FakePort>(std::move(config), busy(i, i, go))));
    }
    ASSERT_TRUE(engine->start());
    std::this_thread::yield();
    engine->stop();
    engine->stop();
    uint64_t expected = 0;
    for (const WorkerStats& stats : engine->worker_stats()) {
      expected += stats.made();
    }
    EXPECT_EQ(engine->port_stats().size(), 3u);
    engine.reset();
    EXPECT_EQ(totals->accepted + expected, totals->fates);
    *totals = {};
    EXPECT_EQ(pool_->free_packets(), pool_->packet_count());
  }
}

}  // namespace
}  // namespace pollux
