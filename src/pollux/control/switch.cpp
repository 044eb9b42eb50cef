// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/switch.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <map>
#include <optional>
#include <utility>

#include "pollux/control/hand_over.hpp"
#include "pollux/control/loop_gate.hpp"
#include "pollux/control/server.hpp"
#include "pollux/control/take_over.hpp"
#include "pollux/ports/kinds.hpp"
#include "pollux/ports/ring/registry.hpp"
#include "pollux/version.hpp"

namespace pollux {
namespace {

constexpr auto kRequestDeadline = std::chrono::seconds(10);
constexpr auto kAgeingPeriod = std::chrono::seconds(1);
constexpr auto kFinishedPeriod = std::chrono::milliseconds(10);
/// Seconds in which ageing goes once round the table of addresses.
constexpr size_t kAgeingRound = 8;
constexpr size_t kFdbWays = 4;
/// Twice the size of a thread's cache of the pool.
constexpr size_t kPoolPerWorker = 1024;

uint32_t seconds(Nanos t) {
  return static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(t).count());
}

Result<uint64_t> random_seed() {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != static_cast<ssize_t>(sizeof seed)) {
    return fail_errno(errno, "the system gave no random number");
  }
  return seed;
}

/// What the control server sees of a switch: everything happens on the control thread.
class GatedTarget final : public control::Target {
 public:
  GatedTarget(Switch& owner, control::LoopGate& gate, control::HandOver& hand_over)
      : owner_(owner), gate_(gate), hand_over_(hand_over) {}

  Result<SwitchSnapshot> snapshot() override {
    return through<Result<SwitchSnapshot>>([this] { return owner_.snapshot(); });
  }
  Result<std::vector<FdbRow>> fdb() override {
    return through<Result<std::vector<FdbRow>>>([this] { return owner_.fdb(); });
  }
  Status add_port(const NamedPortSpec& port) override {
    return through<Status>([&]() -> Status {
      auto added = owner_.add_port(port);
      if (!added) return forward(added);
      return {};
    });
  }
  Status remove_port(const std::string& name) override {
    return through<Status>([&] { return owner_.remove_port(name); });
  }
  Status hand_over(const std::string& socket, uint32_t version) override {
    return through<Status>([&] { return hand_over_.begin(socket, version); });
  }
  Status set_queue_mode(const std::string& port, std::optional<unsigned> queue,
                        QueueMode mode) override {
    return through<Status>([&] { return owner_.engine().set_queue_mode(port, queue, mode); });
  }

 private:
  template <typename R, typename Work>
  R through(Work work) {
    R result = fail(ErrorCode::kSystem, "");
    Status done = gate_.call([&] { result = work(); }, kRequestDeadline);
    if (!done) return forward(done);
    return result;
  }

  Switch& owner_;
  control::LoopGate& gate_;
  control::HandOver& hand_over_;
};

}  // namespace

struct Switch::Impl {
  Impl(SwitchConfig wanted, Log sink, const Clock* given)
      : config(std::move(wanted)),
        log(std::move(sink)),
        clock(given != nullptr ? *given : steady_clock) {}

  // In the order in which they need each other: destroyed last to first.
  SwitchConfig config;
  Log log;
  SteadyClock steady_clock;
  const Clock& clock;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Pool> pool;
  RingRegistry rings;
  std::unique_ptr<Engine> engine;
  std::map<std::string, PortSpec> specs;  // of the ports, by name
  std::vector<EventLoop::Watch> watches;
  std::optional<control::HandOver> hand_over;
  std::unique_ptr<control::LoopGate> gate;
  std::unique_ptr<control::Target> target;
  std::unique_ptr<control::Server> server;

  Nanos started{0};
  Nanos ended{0};
  bool stopped = false;
  bool handed_over = false;
  std::optional<Nanos> take_over_pause;
  unsigned next_number = 0;
  std::map<std::string, PortInfo> last_infos;  // by port name, from just before the stop

  /// Keeps a watch, or passes its error on.
  Status keep(Result<EventLoop::Watch> watch) {
    if (!watch) return forward(watch);
    watches.push_back(std::move(*watch));
    return {};
  }

  /// What another process needs when it takes this switch over.
  void prepare_hand_over(Switch& self) {
    hand_over.emplace(control::HandedSwitch{*loop, clock, *engine, config, specs,
                                            [&self] { return self.snapshot(); },
                                            [this] {
                                              handed_over = true;
                                              if (server) server->disown();
                                              loop->stop();
                                            },
                                            log});
  }

  Status bind_control(Switch& self, const std::string& path) {
    if (path.empty()) return {};
    prepare_hand_over(self);
    target = std::make_unique<GatedTarget>(self, *gate, *hand_over);
    auto bound = control::Server::bind(path, config.control_mode, *target, log.named("control"));
    if (!bound) {
      Error error = bound.error();
      error.what =
          fmt::format("control socket: {} (--control PATH, or --control none)", error.what);
      return std::unexpected(std::move(error));
    }
    server = std::move(*bound);
    log.info(fmt::format("control socket: {}", config.control_socket));
    return {};
  }

  PortContext context_of(const std::string& name) {
    const size_t workers = std::max<size_t>(1, config.engine.cpus.size());
    return {*pool,
            *loop,
            *engine,
            clock,
            rings,
            log.named(name),
            static_cast<unsigned>(workers),
            config.state_dir};
  }

  Status age_addresses() {
    const size_t buckets = engine->fdb().capacity() / kFdbWays;
    const size_t a_second = std::max<size_t>(1, buckets / kAgeingRound);
    return keep(loop->every(
        kAgeingPeriod, [this, a_second] { engine->fdb().expire(seconds(clock.now()), a_second); }));
  }

  bool taken(const std::string& name) const {
    const auto ports = engine->port_stats();
    return std::ranges::any_of(ports, [&](const PortStats& port) { return port.name == name; });
  }

  std::string make_name() {
    std::string name;
    do name = fmt::format("port{}", next_number++);
    while (taken(name));
    return name;
  }
};

Result<std::unique_ptr<Switch>> Switch::create(const SwitchConfig& config, Log log,
                                               const Clock* clock) {
  auto impl = std::make_unique<Impl>(config, std::move(log), clock);
  auto loop = EventLoop::create();
  if (!loop) return forward(loop);
  impl->loop = std::move(*loop);
  impl->gate = std::make_unique<control::LoopGate>(*impl->loop);

  auto pool = Pool::create(config.pool);
  if (!pool) return forward(pool);
  impl->pool = std::move(*pool);
  impl->log.info(fmt::format("memory: {} for {} buffers of {} bytes",
                             impl->pool->region().describe(), impl->pool->buffer_count(),
                             impl->pool->buffer_size()));

  // What caches hold back, others can not have: with less than this a busy worker starves the rest.
  const size_t workers = std::max<size_t>(1, config.engine.cpus.size());
  if (std::min(config.pool.packets, config.pool.buffers) < workers * kPoolPerWorker) {
    impl->log.warn(
        fmt::format("the pool is small for {} workers: {} packets and buffers or more "
                    "let none of them run short",
                    workers, workers * kPoolPerWorker));
  }

  EngineConfig engine_config = config.engine;
  auto seed = config.seed ? Result<uint64_t>(*config.seed) : random_seed();
  if (!seed) return forward(seed);
  engine_config.fdb.seed = *seed;
  impl->config.seed = *seed;
  auto engine = Engine::create(engine_config, *impl->pool, impl->clock, impl->log);
  if (!engine) return forward(engine);
  impl->engine = std::move(*engine);
  return std::unique_ptr<Switch>(new Switch(std::move(impl)));
}

Switch::Switch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Switch::~Switch() { stop(); }

Status Switch::stop_on_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM}) sigaddset(&signals, signal);
  if (const int err = pthread_sigmask(SIG_BLOCK, &signals, nullptr); err != 0) {
    return fail_errno(err, "can not block signals");
  }
  for (const int signal : {SIGINT, SIGTERM}) {
    auto watch = impl_->loop->on_signal(signal, [this](int) { impl_->loop->stop(); });
    if (Status ok = impl_->keep(std::move(watch)); !ok) return ok;
  }
  return {};
}

Status Switch::start() {
  impl_->started = impl_->clock.now();
  if (Status ok = impl_->bind_control(*this, impl_->config.control_socket); !ok) return ok;
  const std::string cpus = control::format_cpus(impl_->config.engine.cpus);
  impl_->log.info(fmt::format("workers: {}, idle policy {}",
                              cpus.empty() ? "one, on any CPU" : "on CPUs " + cpus,
                              control::idle_name(impl_->config.engine.idle)));
  if (Status ok = impl_->age_addresses(); !ok) return ok;
  // Before the workers: what a capture file delivers is to find all other ports there.
  for (const NamedPortSpec& port : impl_->config.ports) {
    auto added = add_port(port);
    if (!added) return forward(added);
  }
  if (Status ok = impl_->engine->start(); !ok) return ok;
  if (impl_->server) impl_->server->start();
  return {};
}

bool Switch::handed_over() const { return impl_->handed_over; }

Result<std::string> Switch::add_port(const std::string& name, const std::string& spec) {
  auto parsed = PortSpec::parse(spec);
  if (!parsed) return forward(parsed);
  return add_port(NamedPortSpec{name, std::move(*parsed)});
}

Result<std::string> Switch::add_port(const NamedPortSpec& wanted) {
  const std::string name = wanted.name.empty() ? impl_->make_name() : wanted.name;
  const auto in_context = [&](Error error) {
    error.what = fmt::format("port {}: {}", name, error.what);
    return std::unexpected(std::move(error));
  };
  // Before the port is made: two ports of one name may want the same socket, too.
  if (impl_->taken(name)) {
    return fail(ErrorCode::kAlreadyExists,
                fmt::format("there is a port {} already: choose another name", name));
  }
  auto port = make_port(wanted.spec, impl_->context_of(name));
  if (!port) return in_context(port.error());
  auto added = impl_->engine->add_port(name, std::move(*port));
  if (!added) return in_context(added.error());
  impl_->specs[name] = wanted.spec;
  impl_->log.info(fmt::format("port {}: {}", name, wanted.spec.to_string()));
  return name;
}

Status Switch::remove_port(const std::string& name) {
  Status removed = impl_->engine->remove_port(name);
  if (removed || removed.error().code != ErrorCode::kNotFound) impl_->specs.erase(name);
  return removed;
}

/// What can be made before the running switch rests is made before it is told to; what must be done
/// while it rests is the least.
Status Switch::take_over(control::TakeOver& from) {
  struct Taken {
    const control::TakeOver::Seat& seat;
    std::unique_ptr<Port> port;
  };
  const auto about = [](const Taken& taken, Status& bad) {
    return fail(bad.error().code,
                fmt::format("port {}: {}", taken.seat.port.name, bad.error().what));
  };
  std::vector<Taken> ports;
  for (const auto& seat : from.ports()) {
    auto port = make_port(seat.port.spec, impl_->context_of(seat.port.name));
    if (!port) return forward(port);
    ports.push_back({seat, std::move(*port)});
  }
  const std::string path = impl_->config.control_socket;
  if (Status ok = impl_->bind_control(*this, fmt::format("{}.new", path)); !ok) return ok;
  if (Status ok = impl_->age_addresses(); !ok) return ok;

  Status state = from.take_state();
  if (!state && state.error().code == ErrorCode::kDisconnected) {
    impl_->log.warn("the running switch died before it handed over: starting its ports anew");
    for (const auto& seat : from.ports()) impl_->config.ports.push_back(seat.port);
    ports.clear();
    impl_->server.reset();
    impl_->watches.pop_back();
    return start();
  }
  if (!state) return state;
  const SwitchSnapshot& was = from.snapshot();
  for (Taken& taken : ports) {
    const std::string& name = taken.seat.port.name;
    if (Status ok = from.adopt(name, *taken.port); !ok) return about(taken, ok);
    Status ok = impl_->engine->add_started_port(taken.seat.index, name, std::move(taken.port));
    if (!ok) return about(taken, ok);
    impl_->specs[name] = taken.seat.port.spec;
  }
  impl_->engine->add_counters(was.ports, was.workers);
  impl_->engine->fdb().restore(from.addresses(),
                               {was.fdb.learned, was.fdb.moved, was.fdb.evicted, was.fdb.expired});
  impl_->started = from.paused_at() - was.uptime;
  if (Status ok = from.take(); !ok) return ok;
  if (Status ok = impl_->engine->start(); !ok) return ok;
  impl_->take_over_pause = impl_->clock.now() - from.paused_at();
  if (impl_->server) {
    if (Status ok = impl_->server->move_to(path); !ok) impl_->log.error(ok.error().what);
    impl_->server->start();
  }
  impl_->log.info(
      fmt::format("took over from pid {}: packets waited {:.2f} ms", from.from(),
                  std::chrono::duration<double, std::milli>(*impl_->take_over_pause).count()));
  return {};
}

Status Switch::stop_when_finished() {
  return impl_->keep(impl_->loop->every(kFinishedPeriod, [this] {
    if (impl_->engine->finished()) impl_->loop->stop();
  }));
}

Status Switch::stop_after(Nanos time) {
  return impl_->keep(impl_->loop->after(time, [this] { impl_->loop->stop(); }));
}

Status Switch::run() {
  Status result = impl_->loop->run();
  stop();
  return result;
}

void Switch::request_stop() { impl_->loop->stop(); }

void Switch::stop() {
  if (std::exchange(impl_->stopped, true)) return;
  impl_->gate->close();
  impl_->server.reset();
  for (PortStats& port : impl_->engine->port_stats()) {
    impl_->last_infos[port.name] = std::move(port.info);
  }
  impl_->engine->stop();
  impl_->watches.clear();
  impl_->ended = impl_->clock.now();
}

SwitchSnapshot Switch::snapshot() const {
  SwitchSnapshot s;
  s.version = version();
  s.pid = getpid();
  s.uptime = (impl_->stopped ? impl_->ended : impl_->clock.now()) - impl_->started;
  s.idle = control::idle_name(impl_->config.engine.idle);
  s.take_over_pause = impl_->take_over_pause;

  Pool& pool = *impl_->pool;
  const size_t page_size = pool.region().page_size();
  s.pool = {.packets = pool.packet_count(),
            .packets_free = static_cast<uint32_t>(pool.free_packets()),
            .buffers = pool.buffer_count(),
            .buffers_free = static_cast<uint32_t>(pool.free_buffers()),
            .buffer_size = pool.buffer_size(),
            .memory = pool.region().describe(),
            .page_size = page_size,
            .huge_pages = page_size > static_cast<size_t>(sysconf(_SC_PAGESIZE))};

  const stage::Fdb& fdb = impl_->engine->fdb();
  const stage::FdbCounters counters = fdb.counters();
  s.fdb = {.entries = fdb.size(),
           .capacity = fdb.capacity(),
           .max_age_s = fdb.max_age_s(),
           .learned = counters.learned,
           .moved = counters.moved,
           .evicted = counters.evicted,
           .expired = counters.expired};

  s.ports = impl_->engine->port_stats();
  for (PortStats& port : s.ports) {
    const auto last = impl_->last_infos.find(port.name);
    if (last != impl_->last_infos.end()) port.info = last->second;
  }
  s.workers = impl_->engine->worker_stats();
  return s;
}

std::vector<FdbRow> Switch::fdb() const {
  std::vector<FdbRow> rows;
  const uint32_t now_s = seconds(impl_->clock.now());
  for (const stage::FdbEntry& entry : impl_->engine->fdb().snapshot()) {
    rows.push_back({.mac = entry.mac.to_text(),
                    .vlan = entry.vlan,
                    .port = impl_->engine->port_name(entry.port),
                    .age_s = now_s - std::min(now_s, entry.last_seen_s)});
  }
  std::ranges::sort(rows, {}, [](const FdbRow& row) { return std::pair(row.mac, row.vlan); });
  return rows;
}

EventLoop& Switch::loop() { return *impl_->loop; }
Engine& Switch::engine() { return *impl_->engine; }
Pool& Switch::pool() { return *impl_->pool; }

}  // namespace pollux
