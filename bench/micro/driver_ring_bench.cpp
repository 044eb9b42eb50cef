// SPDX-License-Identifier: Apache-2.0
// The driver side of virtqueues with a device that returns at once what it is given, on one core:
// what our code costs, without lines travelling between cores. "cycles" counts time stamp counter
// ticks for one buffer, or packet, to go out and come back.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pollux/base/tsc.hpp"
#include "pollux/packet/fill.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"

namespace pollux {
namespace {

constexpr uint32_t kRingSize = 1024;
constexpr size_t kBurst = 32;

using Memory = std::unique_ptr<std::byte, decltype(&std::free)>;

Memory zeroed(size_t bytes) {
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(64, bytes)), std::free);
  std::memset(memory.get(), 0, bytes);
  return memory;
}

/// A queue in memory and the least that a device does.
struct Split {
  using Ring = ring::SplitDriverRing<>;

  /// Returns `count` chains, in order, as if `len` bytes had been written to each.
  void use(size_t count, uint32_t len) {
    uint16_t idx = layout.used->idx;
    for (size_t i = 0; i < count; ++i, ++idx) {
      layout.used->ring[idx % kRingSize] = {layout.avail->ring[idx % kRingSize], len};
    }
    layout.used->idx = idx;
  }

  Memory memory = zeroed(ring::split_bytes(kRingSize));
  ring::SplitLayout layout = ring::place_split(memory.get(), kRingSize);
};

struct Packed {
  using Ring = ring::PackedDriverRing<>;

  void use(size_t count, uint32_t len) {
    for (size_t i = 0; i < count; ++i) {
      layout.desc[at.index].len = len;
      layout.desc[at.index].flags = ring::packed_used_flags(at.wrap);
      at = at.advanced(1, kRingSize);
    }
  }

  Memory memory = zeroed(ring::packed_bytes(kRingSize));
  ring::PackedLayout layout = ring::place_packed(memory.get(), kRingSize);
  ring::PackedCursor at;
};

/// What the benchmarks' second argument says.
ring::DriverRingOptions options(const benchmark::State& state) {
  return {.event_idx = true, .in_order = state.range(1) != 0};
}

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

template <typename Queue>
void ring_readable(benchmark::State& state) {
  Queue queue;
  typename Queue::Ring ring(queue.layout, options(state));
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

template <typename Queue>
struct Net {
  std::unique_ptr<Pool> pool = std::move(Pool::create({.pages = HugePages::kTry}).value());
  PoolCache cache{*pool};
  Queue queue;
  QueueCounters counters;
  virtio::NetDriverConfig config{
      .window = {pool->region().data(), pool->region().size(), 0x100000000},
      .features = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF};
};

template <typename Queue>
void net_tx(benchmark::State& state) {
  using Ring = typename Queue::Ring;
  Net<Queue> net;
  const auto size = static_cast<size_t>(state.range(0));
  virtio::NetDriverTx<Ring> tx(Ring(net.queue.layout, options(state)), *net.pool, net.config);
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

template <typename Queue>
void net_rx(benchmark::State& state) {
  using Ring = typename Queue::Ring;
  Net<Queue> net;
  const auto size = static_cast<uint32_t>(state.range(0));
  virtio::NetDriverRx<Ring> rx(Ring(net.queue.layout, options(state)), *net.pool, net.config);
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

constexpr std::array kSizes{64, 192, 1514};

template <typename Queue>
void with_all(const std::string& format) {
  const auto add = [&](const char* what, void (*run)(benchmark::State&)) {
    return benchmark::RegisterBenchmark(("driver_ring/" + format + "/" + what).c_str(), run)
        ->ArgNames({"bytes", "in_order"});
  };
  auto* readable = add("readable", ring_readable<Queue>);
  auto* tx = add("net_tx", net_tx<Queue>);
  auto* rx = add("net_rx", net_rx<Queue>);
  for (const int in_order : {0, 1}) {
    readable->Args({76, in_order});
    for (const int size : kSizes) {
      tx->Args({size, in_order});
      rx->Args({size, in_order});
    }
  }
}

[[maybe_unused]] const bool kRegistered = [] {
  with_all<Split>("split");
  with_all<Packed>("packed");
  return true;
}();

}  // namespace
}  // namespace pollux
