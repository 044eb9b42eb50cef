// SPDX-License-Identifier: Apache-2.0
#include "apps/traffic/runtime.hpp"

#include <fmt/format.h>

#include <chrono>
#include <csignal>

#include "pollux/ports/kinds.hpp"

namespace pollux::apps {

Result<std::unique_ptr<Runtime>> Runtime::create(Log log, HugePages pages) {
  std::unique_ptr<Runtime> self(new Runtime(std::move(log)));
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  auto loop = EventLoop::create();
  if (!loop) return forward(loop);
  self->loop_ = std::move(*loop);
  for (const int signal : {SIGINT, SIGTERM}) {
    auto watch =
        self->loop_->on_signal(signal, [raw = self.get()](int) { raw->interrupted_ = true; });
    if (!watch) return forward(watch);
    self->signals_.push_back(std::move(*watch));
  }
  auto pool = Pool::create({.name = "pollux-traffic", .pages = pages});
  if (!pool) return forward(pool);
  self->pool_ = std::move(*pool);
  self->cache_ = std::make_unique<PoolCache>(*self->pool_);
  return self;
}

Runtime::~Runtime() { stop(); }

Result<DrivenPort*> Runtime::open(const std::string& name, const std::string& spec) {
  auto parsed = PortSpec::parse(spec);
  if (!parsed) return forward(parsed);
  const PortContext context{*pool_, *loop_, quiescence_, clock_, rings_, log_.named(name)};
  auto port = make_port(*parsed, context);
  if (!port) return forward(port);
  if (Status started = (*port)->start(); !started) return forward(started);
  auto driven = std::make_unique<DrivenPort>();
  driven->name = name;
  driven->spec = spec;
  driven->rx = (*port)->rx_queues();
  driven->tx = (*port)->tx_queues();
  driven->port = std::move(*port);
  ports_.push_back(std::move(driven));
  return ports_.back().get();
}

Status Runtime::wait_for_links(Nanos patience) {
  const Nanos until = clock_.now() + patience;
  for (const auto& driven : ports_) {
    for (PortInfo info = driven->port->info(); !info.link_up; info = driven->port->info()) {
      if (interrupted_) return fail(ErrorCode::kDisconnected, "interrupted");
      if (clock_.now() > until) {
        return fail(ErrorCode::kTimeout,
                    fmt::format("port {} ({}) has no peer after {} s: {}", driven->name,
                                driven->spec, patience.count() / 1'000'000'000,
                                info.broken.empty() ? info.state : info.broken));
      }
      (void)loop_->run_once(std::chrono::milliseconds(10));
    }
  }
  return {};
}

void Runtime::stop() {
  if (stopped_) return;
  stopped_ = true;
  for (const auto& driven : ports_) last_info_.push_back(driven->port->info());
  for (const auto& driven : ports_) driven->port->stop();
}

std::vector<PortStats> Runtime::port_stats() const {
  const auto read = [](std::string name, const QueueCounters& counters) {
    QueueStats stats;
    stats.name = std::move(name);
    stats.packets = counters.packets.value();
    stats.bytes = counters.bytes.value();
    for (size_t i = 0; i < kDropReasonCount; ++i) {
      stats.drops[i] = counters.drops.value(static_cast<DropReason>(i));
    }
    return stats;
  };
  std::vector<PortStats> out;
  for (size_t i = 0; i < ports_.size(); ++i) {
    const DrivenPort& driven = *ports_[i];
    PortStats stats;
    stats.index = static_cast<PortIndex>(i);
    stats.name = driven.name;
    stats.info = stopped_ ? last_info_[i] : driven.port->info();
    for (size_t q = 0; q < driven.rx.size(); ++q) {
      stats.queues.push_back(read(fmt::format("rx{}", q), *driven.rx[q].counters));
    }
    for (size_t q = 0; q < driven.tx.size(); ++q) {
      stats.queues.push_back(read(fmt::format("tx{}", q), *driven.tx[q].counters));
    }
    out.push_back(std::move(stats));
  }
  return out;
}

}  // namespace pollux::apps
