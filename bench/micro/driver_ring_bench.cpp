// SPDX-License-Identifier: Apache-2.0
// The driver side of split virtqueues with a device that returns at once what it is given, on one
// core: what our code costs, without lines travelling between cores. "cycles" counts time stamp
// counter ticks for one buffer, or packet, to go out and come back.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "pollux/base/tsc.hpp"
#include "pollux/packet/fill.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"

namespace pollux {
namespace {

constexpr uint32_t kRingSize = 1024;
constexpr size_t kBurst = 32;

/// A queue in memory and the least that a device does.
struct Queue {
  Queue()
      : memory(static_cast<std::byte*>(std::aligned_alloc(64, ring::split_bytes(kRingSize))),
               std::free),
        layout(ring::place_split(memory.get(), kRingSize)) {
    std::memset(memory.get(), 0, ring::split_bytes(kRingSize));
  }

  /// Returns `count` chains, in order, as if `len` bytes had been written to each.
  void use(size_t count, uint32_t len) {
    uint16_t idx = layout.used->idx;
    for (size_t i = 0; i < count; ++i, ++idx) {
      layout.used->ring[idx % kRingSize] = {layout.avail->ring[idx % kRingSize], len};
    }
    layout.used->idx = idx;
  }

  std::unique_ptr<std::byte, decltype(&std::free)> memory;
  ring::SplitLayout layout;
};

class Cycles {
 public:
  explicit Cycles(benchmark::State& state) : state_(state) {}
  ~Cycles() {
    const auto elements = static_cast<double>(state_.iterations()) * kBurst;
    state_.counters["cycles"] = static_cast<double>(read_tsc() - start_) / elements;
  }

 private:
  benchmark::State& state_;
  uint64_t start_ = read_tsc();
};

void ring_readable(benchmark::State& state) {
  Queue queue;
  ring::SplitDriverRing<> ring(queue.layout, {.event_idx = state.range(0) != 0});
  std::array<ring::UsedChain, kBurst> used;
  const Cycles cycles(state);
  for (auto _ : state) {
    ring.add_readable(
        kBurst, [](size_t i, uint16_t) { return ring::DriverBuffer{0x10000 + i * 2304, 76}; });
    benchmark::DoNotOptimize(ring.publish());
    queue.use(kBurst, 0);
    benchmark::DoNotOptimize(ring.poll_used(used.data(), kBurst));
  }
}

struct Net {
  std::unique_ptr<Pool> pool = std::move(Pool::create({.pages = HugePages::kTry}).value());
  PoolCache cache{*pool};
  Queue queue;
  QueueCounters counters;
  virtio::NetDriverConfig config{
      .window = {pool->region().data(), pool->region().size(), 0x100000000},
      .features = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF};
};

void net_tx(benchmark::State& state) {
  Net net;
  const auto size = static_cast<size_t>(state.range(0));
  virtio::NetDriverTx<ring::SplitDriverRing<>> tx(ring::SplitDriverRing<>(net.queue.layout),
                                                  *net.pool, net.config);
  const std::vector<std::byte> frame(size, std::byte{0x55});
  std::array<Packet*, kBurst> packets;
  {
    const Cycles cycles(state);
    for (auto _ : state) {
      Burst burst(net.cache);
      (void)net.cache.allocate(packets.data(), kBurst);
      for (Packet* packet : packets) {
        (void)fill(*packet, net.cache, frame);
        burst.push(packet);
      }
      (void)tx.send(burst, net.counters);
      benchmark::DoNotOptimize(tx.publish());
      net.queue.use(kBurst, 0);
    }
  }
  tx.stop(net.cache);
}

void net_rx(benchmark::State& state) {
  Net net;
  const auto size = static_cast<uint32_t>(state.range(0));
  virtio::NetDriverRx<ring::SplitDriverRing<>> rx(ring::SplitDriverRing<>(net.queue.layout),
                                                  *net.pool, net.config);
  // The device's headers: num_buffers is 1.
  for (BufferIndex i = 0; i < net.pool->buffer_count(); ++i) {
    net.pool->buffer_data(i)[-2] = std::byte{1};
  }
  (void)rx.fill(net.cache);
  {
    const Cycles cycles(state);
    for (auto _ : state) {
      net.queue.use(kBurst, 12 + size);
      Burst burst(net.cache);
      benchmark::DoNotOptimize(rx.poll(burst, net.counters));
      if (burst.size() != kBurst) state.SkipWithError("frames are missing");
    }
  }
  rx.stop(net.cache);
}

BENCHMARK(ring_readable)->Name("driver_ring/readable")->ArgName("event_idx")->Arg(0)->Arg(1);
BENCHMARK(net_tx)->Name("driver_ring/net_tx")->ArgName("bytes")->Arg(64)->Arg(192)->Arg(1514);
BENCHMARK(net_rx)->Name("driver_ring/net_rx")->ArgName("bytes")->Arg(64)->Arg(192)->Arg(1514);

}  // namespace
}  // namespace pollux
