// SPDX-License-Identifier: Apache-2.0
// The classic: two ports, and what comes in by one goes out by the other with new MAC addresses.
//
//     l2fwd vhost-user:/tmp/v0.sock vhost-user:/tmp/v1.sock
//
// Everything in one thread: it polls the ports, and serves their control events now and then.
// `pollux l2fwd` does the same for any number of ports, with drain times and statistics.
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "pollux/base/clock.hpp"
#include "pollux/base/event_loop.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/port/port.hpp"
#include "pollux/port/spec.hpp"
#include "pollux/port/turn_quiescence.hpp"
#include "pollux/ports/kinds.hpp"
#include "pollux/ports/ring/registry.hpp"
#include "pollux/stage/offload.hpp"

namespace {

volatile std::sig_atomic_t stopped = 0;

struct Side {
  std::unique_ptr<pollux::Port> port;
  pollux::RxQueue rx;
  pollux::TxQueue tx;
};

std::optional<Side> open_side(const char* text, const pollux::PortContext& context) {
  auto spec = pollux::PortSpec::parse(text);
  auto port = spec ? pollux::make_port(*spec, context) : pollux::forward(spec);
  pollux::Status started = port ? (*port)->start() : pollux::forward(port);
  if (started && ((*port)->rx_queues().empty() || (*port)->tx_queues().empty())) {
    started = pollux::fail(pollux::ErrorCode::kInvalidArgument, "a port with both directions");
  }
  if (!started) {
    std::fprintf(stderr, "l2fwd: %s: %s\n", text, started.error().what.c_str());
    return std::nullopt;
  }
  const pollux::RxQueue rx = (*port)->rx_queues()[0];
  const pollux::TxQueue tx = (*port)->tx_queues()[0];
  return Side{std::move(*port), rx, tx};
}

/// Destination 02:00:00:00:00:N, source 02:00:00:00:01:N. The head is private: nobody else sees it.
void rewrite_macs(pollux::Burst& burst, uint8_t number) {
  const std::array<uint8_t, 12> macs{2, 0, 0, 0, 0, number, 2, 0, 0, 0, 1, number};
  for (pollux::Packet* packet : burst.packets()) {
    std::memcpy(packet->head(), macs.data(), macs.size());
  }
}

/// One turn in one direction; every packet is sent or counted as dropped. Returns how many came.
size_t forward(Side& from, Side& to, uint8_t number, pollux::PoolCache& cache) {
  pollux::Burst burst(cache);
  pollux::Burst ready(cache);
  pollux::Burst held(cache);  // originals that segments borrow from, until the turn ends
  from.rx.poll(from.rx.self, burst);
  const size_t count = burst.size();
  rewrite_macs(burst, number);
  const auto drop = [&](pollux::DropReason reason, size_t n) {
    to.tx.counters->drops.add(reason, n);
  };
  const auto send = [&](pollux::Burst& out) -> std::optional<pollux::DropReason> {
    const pollux::DropReason reason = to.tx.send(to.tx.self, out);
    if (out.empty()) return std::nullopt;
    drop(reason, out.size());
    return reason;
  };
  // Checksums and segments that the sender left undone are made here if the receiver does not.
  const uint32_t offloads = to.tx.offloads != nullptr ? to.tx.offloads->load() : 0;
  pollux::stage::finalize(burst, offloads, ready, held, send, drop);
  if (from.rx.complete != nullptr) from.rx.complete(from.rx.self);
  if (to.tx.flush != nullptr) to.tx.flush(to.tx.self);
  return count;
}

void print(const char* name, const Side& side) {
  std::printf("%s: in %lu, out %lu packets\n", name, side.rx.counters->packets.value(),
              side.tx.counters->packets.value());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: l2fwd SPEC SPEC\n");
    return 2;
  }
  std::signal(SIGINT, [](int) { stopped = 1; });
  std::signal(SIGTERM, [](int) { stopped = 1; });

  auto pool = pollux::Pool::create({});
  auto loop = pollux::EventLoop::create();
  if (!pool || !loop) return 1;
  pollux::PoolCache cache(**pool);
  pollux::RingRegistry rings;
  pollux::TurnQuiescence quiescence;
  pollux::SteadyClock clock;
  const pollux::PortContext context{**pool, **loop, quiescence, clock, rings, {}};

  auto a = open_side(argv[1], context);
  auto b = a ? open_side(argv[2], context) : std::nullopt;
  if (!b) return 2;
  for (unsigned turn = 0; stopped == 0; ++turn) {
    size_t count = 0;
    {
      const pollux::TurnQuiescence::Turn busy(quiescence);  // control waits until it ends
      count = forward(*a, *b, 1, cache) + forward(*b, *a, 0, cache);
    }
    // Control events wait for an idle moment, or for a while at most.
    if (count == 0) {
      (void)(*loop)->run_once(std::chrono::microseconds(100));
    } else if (turn % 1024 == 0) {
      (void)(*loop)->run_once(pollux::Nanos(0));
    }
  }
  a->port->stop();
  b->port->stop();
  print(argv[1], *a);
  print(argv[2], *b);
}
