// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/worker.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <future>

#include "pollux/base/pin.hpp"
#include "pollux/base/quiet_thread.hpp"
#include "pollux/base/tsc.hpp"

namespace pollux {
namespace {

// Empty rounds before a worker does what its idle policy says: long enough to ride out the gap
// between two bursts of a busy sender.
constexpr unsigned kPatience = 2000;

// Ageing counts seconds: the clock is not needed every round.
constexpr uint64_t kRoundsPerClock = 256;

uint32_t seconds(const Clock& clock) {
  return static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::seconds>(clock.now()).count());
}

}  // namespace

Worker::Worker(const Config& config, const std::atomic<const Topology*>& topology, Pool& pool,
               stage::Fdb& fdb, const Clock& clock)
    : config_(config),
      topology_(topology),
      clock_(clock),
      cache_(pool),
      turn_(config.index, cache_, fdb) {}

Worker::~Worker() { stop(); }

Status Worker::start() {
  stopping_.store(false);
  if (Status opened = sleeper_.open(); !opened) return opened;
  std::promise<Status> started;
  thread_ = start_quiet_thread([this, &started] {
    pthread_setname_np(pthread_self(), fmt::format("pollux-{}", config_.index).c_str());
    Status pinned = config_.cpu >= 0 ? pin_this_thread(config_.cpu) : Status{};
    const bool good = pinned.has_value();
    started.set_value(std::move(pinned));
    if (good) run();
  });
  Status result = started.get_future().get();
  if (!result) thread_.join();
  return result;
}

void Worker::stop() {
  stopping_.store(true);
  sleeper_.wake();
  if (thread_.joinable()) thread_.join();
}

bool Worker::passed(uint64_t ticket) const noexcept {
  if ((ticket & kOffline) != 0) return true;
  const uint64_t now = round_.load();
  return now != ticket;
}

void Worker::run() noexcept {
  unsigned empty_rounds = 0;
  uint64_t number = round_.load() & ~kOffline;
  uint32_t now_s = 0;
  bool slept = false;
  while (!stopping_.load(std::memory_order_relaxed)) {
    // Sequentially consistent, before the round loads anything that control publishes: whoever
    // unpublished something and then still sees the old number waits for the next one.
    round_.exchange(++number);
    if (number % kRoundsPerClock == 1 || slept) now_s = seconds(clock_);
    slept = false;
    const uint64_t start = read_tsc();
    if (round(now_s)) {
      empty_rounds = 0;
      continue;
    }
    if (++empty_rounds > kPatience) {
      slept = config_.idle == IdlePolicy::kAdaptive;
      if (idle()) empty_rounds = 0;
    }
    idle_cycles_.add(read_tsc() - start);
  }
  round_.store(kOffline | number);
}

/// Gives each of this worker's queues a turn; true when any brought packets.
bool Worker::round(uint32_t now_s) noexcept {
  const Topology* topology = topology_.load();
  if (topology == nullptr) return false;
  bool busy = false;
  const auto& sources = topology->sources[config_.index];
  for (size_t i = 0; i < sources.size(); ++i) {
    const RxSource& next = sources[i + 1 == sources.size() ? 0 : i + 1];
    busy |= turn_.run(*topology, sources[i], now_s, &next);
  }
  return busy;
}

std::span<const RxSource> Worker::queues() const noexcept {
  const Topology* topology = topology_.load();
  if (topology == nullptr) return {};
  return topology->sources[config_.index];
}

/// What a worker does that has had nothing for a while. True when something may have come.
bool Worker::idle() noexcept {
  switch (config_.idle) {
    case IdlePolicy::kPoll:
      cpu_relax();
      return false;
    case IdlePolicy::kYield:
      sched_yield();
      return false;
    case IdlePolicy::kAdaptive:
      break;
  }
  return sleep();
}

bool Worker::sleep() noexcept {
  const bool polled =
      std::ranges::any_of(queues(), [](const RxSource& s) { return s.mode == QueueMode::kPoll; });
  if (polled) {
    cpu_relax();
    return false;
  }
  bool woken = true;
  if (sleeper_.arm(queues())) {
    const uint64_t number = round_.load(std::memory_order_relaxed);
    round_.exchange(number | kOffline);
    woken = sleeper_.wait();
    round_.exchange(number);
    sleeps_.add(1);
  }
  sleeper_.disarm(queues());  // may be other ones by now
  return woken;
}

void Worker::add_stats(const WorkerStats& stats) noexcept {
  turn_.add_stats(stats);
  sleeps_.add(stats.sleeps);
  idle_cycles_.add(stats.idle_cycles);
}

WorkerStats Worker::stats() const {
  WorkerStats stats = turn_.stats();
  stats.cpu = config_.cpu;
  stats.sleeps = sleeps_.value();
  stats.idle_cycles = idle_cycles_.value();
  return stats;
}

}  // namespace pollux
