// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/engine.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <thread>
#include <utility>

#include "pollux/engine/topology.hpp"
#include "pollux/engine/worker.hpp"

namespace pollux {
namespace {

constexpr auto kRemoveDeadline = std::chrono::seconds(5);
constexpr size_t kMaxNameLength = 63;

Status check_cpus(const std::vector<int>& cpus) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return fail_errno(errno, "can not ask which CPUs may be used");
  }
  for (size_t i = 0; i < cpus.size(); ++i) {
    const int cpu = cpus[i];
    if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(static_cast<size_t>(cpu), &allowed)) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("CPU {} does not exist or may not be used here: name others", cpu));
    }
    if (std::find(cpus.begin(), cpus.begin() + static_cast<std::ptrdiff_t>(i), cpu) !=
        cpus.begin() + static_cast<std::ptrdiff_t>(i)) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("CPU {} is named twice: each worker needs one of its own", cpu));
    }
  }
  return {};
}

Status check_name(const std::string& name) {
  const bool good = !name.empty() && name.size() <= kMaxNameLength &&
                    std::all_of(name.begin(), name.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
                    });
  if (good) return {};
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("'{}' is no port name: use 1 to {} letters, digits, '-', '_' or '.'",
                          name, kMaxNameLength));
}

}  // namespace

struct Engine::Impl {
  /// A port and what the engine keeps beside it.
  struct PortSlot {
    std::string name;
    std::unique_ptr<Port> port;
    std::vector<RxQueue> rx;
    std::vector<TxQueue> tx;
    std::vector<unsigned> rx_worker;  ///< which worker polls rx[i]
    std::vector<QueueMode> rx_mode;
  };

  Impl(Pool& a_pool, const Clock& a_clock, Log a_log, std::unique_ptr<stage::Fdb> a_fdb)
      : pool(a_pool), clock(a_clock), log(std::move(a_log)), fdb(std::move(a_fdb)) {}

  Pool& pool;
  const Clock& clock;
  Log log;
  std::unique_ptr<stage::Fdb> fdb;
  std::vector<std::unique_ptr<PortSlot>> ports;  // by index; null: free
  std::unique_ptr<const Topology> topology;
  std::atomic<const Topology*> published{nullptr};
  std::vector<std::unique_ptr<Worker>> workers;
  /// Topologies and ports that a worker may still use because it missed a deadline.
  std::vector<std::unique_ptr<const Topology>> stranded_topologies;
  std::vector<std::unique_ptr<PortSlot>> stranded_ports;
  bool stopped = false;

  PortSlot* find(const std::string& name) const {
    for (const auto& slot : ports) {
      if (slot && slot->name == name) return slot.get();
    }
    return nullptr;
  }

  size_t free_index() const {
    const auto free = std::find(ports.begin(), ports.end(), nullptr);
    return static_cast<size_t>(free - ports.begin());
  }

  /// Gives a started port's queues to workers, as of the next publish().
  void place(size_t index, std::string name, std::unique_ptr<Port> port) {
    auto slot = std::make_unique<PortSlot>();
    slot->name = std::move(name);
    slot->rx = port->rx_queues();
    slot->rx_mode.assign(slot->rx.size(), QueueMode::kAdaptive);
    slot->tx = port->tx_queues();
    slot->port = std::move(port);
    if (index >= ports.size()) ports.resize(index + 1);
    PortSlot& added = *slot;
    ports[index] = std::move(slot);
    for (size_t q = 0; q < added.rx.size(); ++q) added.rx_worker.push_back(least_loaded());
  }

  /// The worker with the fewest queues so far.
  unsigned least_loaded() const {
    std::vector<unsigned> load(workers.size());
    for (const auto& slot : ports) {
      if (!slot) continue;
      for (const unsigned worker : slot->rx_worker) ++load[worker];
    }
    return static_cast<unsigned>(std::min_element(load.begin(), load.end()) - load.begin());
  }

  std::unique_ptr<const Topology> build() const {
    auto next = std::make_unique<Topology>();
    next->sources.resize(workers.size());
    next->outputs.resize(ports.size());
    for (size_t index = 0; index < ports.size(); ++index) {
      const PortSlot* slot = ports[index].get();
      if (slot == nullptr) continue;
      for (size_t q = 0; q < slot->rx.size(); ++q) {
        next->sources[slot->rx_worker[q]].push_back(
            {slot->rx[q], static_cast<uint16_t>(index), slot->rx_mode[q]});
      }
      if (slot->tx.empty()) continue;
      PortOutput& output = next->outputs[index];
      output.present = true;
      for (size_t w = 0; w < workers.size(); ++w) {
        output.by_worker.push_back(slot->tx[w % slot->tx.size()]);
      }
      next->flood_ports.push_back(static_cast<uint16_t>(index));
    }
    return next;
  }

  void warn_of_late_worker(std::string_view news) const {
    log.warn(fmt::format("a worker did not take notice of {} in time: is its CPU taken?", news));
  }

  /// Publishes what the ports are now. False when a worker still uses the topology before.
  bool publish(Engine& engine) {
    auto next = build();
    published.store(next.get());
    std::swap(topology, next);
    if (next == nullptr || engine.synchronize(kRemoveDeadline)) return true;
    stranded_topologies.push_back(std::move(next));
    return false;
  }
};

Result<std::unique_ptr<Engine>> Engine::create(const EngineConfig& config, Pool& pool,
                                               const Clock& clock, Log log) {
  if (auto ok = check_cpus(config.cpus); !ok) return forward(ok);
  auto fdb = stage::Fdb::create(config.fdb);
  if (!fdb) return forward(fdb);
  auto impl = std::make_unique<Impl>(pool, clock, std::move(log), std::move(*fdb));
  const size_t count = std::max<size_t>(1, config.cpus.size());
  for (size_t i = 0; i < count; ++i) {
    const Worker::Config worker{static_cast<unsigned>(i), config.cpus.empty() ? -1 : config.cpus[i],
                                config.idle};
    impl->workers.push_back(
        std::make_unique<Worker>(worker, impl->published, pool, *impl->fdb, clock));
  }
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Engine::~Engine() { stop(); }

Status Engine::start() {
  if (impl_->topology == nullptr) (void)impl_->publish(*this);
  for (auto& worker : impl_->workers) {
    if (auto ok = worker->start(); !ok) return ok;
  }
  return {};
}

void Engine::pause() {
  for (auto& worker : impl_->workers) worker->stop();
}

void Engine::stop() {
  if (std::exchange(impl_->stopped, true)) return;
  for (auto& worker : impl_->workers) worker->stop();
  for (auto& slot : impl_->ports) {
    if (slot) slot->port->stop();
  }
}

Result<PortIndex> Engine::add_port(std::string name, std::unique_ptr<Port> port) {
  if (auto ok = check_name(name); !ok) return forward(ok);
  if (impl_->find(name) != nullptr) {
    return fail(ErrorCode::kAlreadyExists,
                fmt::format("there is a port '{}' already: choose another name", name));
  }
  const size_t index = impl_->free_index();
  if (index >= kMaxPorts) {
    return fail(ErrorCode::kResource, fmt::format("there are {} ports already", kMaxPorts));
  }
  if (auto ok = port->start(); !ok) return forward(ok);
  impl_->place(index, std::move(name), std::move(port));
  if (!impl_->publish(*this)) impl_->warn_of_late_worker("a new port");
  return static_cast<PortIndex>(index);
}

Status Engine::add_started_port(PortIndex index, std::string name, std::unique_ptr<Port> port) {
  if (auto ok = check_name(name); !ok) return ok;
  const bool there = index < impl_->ports.size() && impl_->ports[index] != nullptr;
  if (index >= kMaxPorts || there || impl_->find(name) != nullptr) {
    return fail(ErrorCode::kAlreadyExists, fmt::format("there is a port '{}' already", name));
  }
  impl_->place(index, std::move(name), std::move(port));
  (void)impl_->publish(*this);
  return {};
}

void Engine::add_counters(const std::vector<PortStats>& ports,
                          const std::vector<WorkerStats>& workers) {
  const auto add = [](const QueueStats& stats, QueueCounters& counters) {
    counters.packets.add(stats.packets);
    counters.bytes.add(stats.bytes);
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      counters.drops.add(static_cast<DropReason>(r), stats.drops[r]);
    }
  };
  for (const PortStats& stats : ports) {
    Impl::PortSlot* slot = impl_->find(stats.name);
    if (slot == nullptr) continue;
    for (const QueueStats& queue : stats.queues) {
      for (size_t q = 0; q < slot->rx.size(); ++q) {
        if (queue.name != fmt::format("rx{}", q)) continue;
        add(queue, *slot->rx[q].counters);
        slot->rx_mode[q] = queue.mode;
      }
      for (size_t q = 0; q < slot->tx.size(); ++q) {
        if (queue.name == fmt::format("tx{}", q)) add(queue, *slot->tx[q].counters);
      }
    }
  }
  for (size_t i = 0; i < std::min(workers.size(), impl_->workers.size()); ++i) {
    impl_->workers[i]->add_stats(workers[i]);
  }
  (void)impl_->publish(*this);
}

void Engine::for_each_port(
    const std::function<void(PortIndex, const std::string&, Port&)>& visit) const {
  for (size_t index = 0; index < impl_->ports.size(); ++index) {
    const auto& slot = impl_->ports[index];
    if (slot) visit(static_cast<PortIndex>(index), slot->name, *slot->port);
  }
}

Status Engine::remove_port(const std::string& name) {
  Impl::PortSlot* found = impl_->find(name);
  if (found == nullptr) {
    return fail(ErrorCode::kNotFound, fmt::format("there is no port '{}'", name));
  }
  const auto at = std::find_if(impl_->ports.begin(), impl_->ports.end(),
                               [&](const auto& slot) { return slot.get() == found; });
  const auto index = static_cast<uint16_t>(at - impl_->ports.begin());
  std::unique_ptr<Impl::PortSlot> slot = std::move(*at);
  const bool quiet = impl_->publish(*this);
  impl_->fdb->forget_port(index);
  if (!quiet) {
    // Never unmap under a worker: the port stays allocated, out of everybody's sight.
    impl_->stranded_ports.push_back(std::move(slot));
    return fail(ErrorCode::kTimeout,
                fmt::format("port '{}' was taken away, but a worker may still use it, so that its "
                            "resources are kept: is the worker's CPU taken?",
                            name));
  }
  slot->port->stop();
  return {};
}

bool Engine::synchronize(Nanos deadline) noexcept {
  std::vector<uint64_t> tickets;
  for (const auto& worker : impl_->workers) {
    tickets.push_back(worker->ticket());
    worker->wake();
  }
  const Nanos end = impl_->clock.now() + deadline;
  for (size_t i = 0; i < tickets.size(); ++i) {
    while (!impl_->workers[i]->passed(tickets[i])) {
      if (impl_->clock.now() > end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
  }
  return true;
}

Status Engine::set_queue_mode(const std::string& port, std::optional<unsigned> queue,
                              QueueMode mode) {
  Impl::PortSlot* slot = impl_->find(port);
  if (slot == nullptr) {
    return fail(ErrorCode::kNotFound, fmt::format("there is no port '{}'", port));
  }
  if (queue && *queue >= slot->rx_mode.size()) {
    return fail(ErrorCode::kNotFound,
                fmt::format("port '{}' has queues rx0 to rx{}", port, slot->rx_mode.size() - 1));
  }
  for (unsigned q = 0; q < slot->rx_mode.size(); ++q) {
    if (!queue || *queue == q) slot->rx_mode[q] = mode;
  }
  if (!impl_->publish(*this)) impl_->warn_of_late_worker("a queue's new mode");
  return {};
}

std::vector<PortStats> Engine::port_stats() const {
  const auto add = [](const QueueStats& from, QueueStats& to) {
    to.packets += from.packets;
    to.bytes += from.bytes;
    for (size_t r = 0; r < kDropReasonCount; ++r) to.drops[r] += from.drops[r];
  };
  const auto queue_stats = [](std::string name, int worker, const QueueCounters& counters) {
    QueueStats stats;
    stats.name = std::move(name);
    stats.worker = worker;
    stats.packets = counters.packets.value();
    stats.bytes = counters.bytes.value();
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      stats.drops[r] = counters.drops.value(static_cast<DropReason>(r));
    }
    return stats;
  };
  std::vector<PortStats> all;
  for (size_t index = 0; index < impl_->ports.size(); ++index) {
    const Impl::PortSlot* slot = impl_->ports[index].get();
    if (slot == nullptr) continue;
    PortStats stats{static_cast<PortIndex>(index), slot->name, slot->port->info(), {}};
    for (size_t q = 0; q < slot->rx.size(); ++q) {
      stats.queues.push_back(queue_stats(
          fmt::format("rx{}", q), static_cast<int>(slot->rx_worker[q]), *slot->rx[q].counters));
      stats.queues.back().mode = slot->rx_mode[q];
    }
    const size_t first = stats.queues.size();
    for (size_t q = 0; q < slot->tx.size(); ++q) {
      // A port that has more handles than queues is one of few queues to people.
      const size_t queue = stats.info.tx_queues == 0 ? q : q % stats.info.tx_queues;
      QueueStats handle = queue_stats(fmt::format("tx{}", queue), -1, *slot->tx[q].counters);
      if (q == queue) {
        stats.queues.push_back(std::move(handle));
      } else {
        add(handle, stats.queues[first + queue]);
      }
    }
    all.push_back(std::move(stats));
  }
  return all;
}

std::vector<WorkerStats> Engine::worker_stats() const {
  std::vector<WorkerStats> all;
  for (size_t i = 0; i < impl_->workers.size(); ++i) {
    all.push_back(impl_->workers[i]->stats());
    if (impl_->topology) {
      all.back().rx_queues = static_cast<unsigned>(impl_->topology->sources[i].size());
    }
  }
  return all;
}

stage::Fdb& Engine::fdb() { return *impl_->fdb; }

std::string Engine::port_name(PortIndex index) const {
  const bool there = index < impl_->ports.size() && impl_->ports[index] != nullptr;
  return there ? impl_->ports[index]->name : std::string();
}

bool Engine::finished() const {
  bool any = false;
  for (const auto& slot : impl_->ports) {
    if (!slot || !slot->port->can_finish()) continue;
    if (!slot->port->finished()) return false;
    any = true;
  }
  return any;
}

}  // namespace pollux
