// SPDX-License-Identifier: Apache-2.0
// Packets out of the pool and back, and what is done to bursts of them. "cycles" counts time stamp
// counter ticks a packet.
#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "pollux/base/tsc.hpp"
#include "pollux/mem/shared_access.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/packet/fill.hpp"

namespace pollux {
namespace {

constexpr size_t kBurst = 32;

std::unique_ptr<Pool> make_pool() {
  return std::move(Pool::create({.name = "bench", .packets = 4096, .buffers = 4096}).value());
}

void report(benchmark::State& state, uint64_t start) {
  const auto packets = static_cast<double>(state.iterations()) * static_cast<double>(kBurst);
  state.counters["cycles"] = static_cast<double>(read_tsc() - start) / packets;
}

void single(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  std::array<Packet*, kBurst> packets;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    for (Packet*& packet : packets) packet = cache.allocate();
    for (Packet* packet : packets) cache.release(packet);
  }
  report(state, start);
}

void bulk(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  std::array<Packet*, kBurst> packets;
  Burst burst(cache);
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    const size_t count = cache.allocate(packets.data(), kBurst);
    for (size_t i = 0; i < count; ++i) burst.push(packets[i]);
    burst.clear();
  }
  report(state, start);
}

/// One side takes and the other gives back, so that every packet passes the shared list.
void through_the_list(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache taker(*pool);
  PoolCache giver(*pool);
  std::array<Packet*, kBurst> packets;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    const size_t count = taker.allocate(packets.data(), kBurst);
    for (size_t i = 0; i < count; ++i) giver.release(packets[i]);
  }
  report(state, start);
}

void buffers(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  std::array<BufferIndex, kBurst> taken;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    const size_t count = cache.allocate_buffers(taken.data(), kBurst);
    for (size_t i = 0; i < count; ++i) cache.release_buffer(taken[i]);
  }
  report(state, start);
}

void fill_packets(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  const std::vector<std::byte> frame(static_cast<size_t>(state.range(0)));
  Burst burst(cache);
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    for (size_t i = 0; i < kBurst; ++i) {
      Packet* packet = cache.allocate();
      benchmark::DoNotOptimize(fill(*packet, cache, frame));
      burst.push(packet);
    }
    burst.clear();
  }
  report(state, start);
}

void clones(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  const std::vector<std::byte> frame(static_cast<size_t>(state.range(0)));
  Packet* original = cache.allocate();
  if (!fill(*original, cache, frame)) return state.SkipWithError("the pool is too small");
  Burst burst(cache);
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    for (size_t i = 0; i < kBurst; ++i) burst.push(cache.clone_borrowing(*original));
    burst.clear();
  }
  report(state, start);
  cache.release(original);
}

void copy(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  std::vector<std::byte> from(kBurst * 2048);
  std::vector<std::byte> to(kBurst * 2048);
  const SharedAccess access;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    for (size_t i = 0; i < kBurst; ++i) access.copy_out(&to[i * 2048], &from[i * 2048], size);
    benchmark::ClobberMemory();
  }
  report(state, start);
}

BENCHMARK(single)->Name("pool/single");
BENCHMARK(bulk)->Name("pool/burst");
BENCHMARK(through_the_list)->Name("pool/through_the_list");
BENCHMARK(buffers)->Name("pool/buffers");
BENCHMARK(fill_packets)->Name("pool/fill")->Arg(64)->Arg(1518);
BENCHMARK(clones)->Name("pool/clone")->Arg(64)->Arg(1518);
BENCHMARK(copy)->Name("copy")->Arg(64)->Arg(128)->Arg(512)->Arg(1518);

}  // namespace
}  // namespace pollux
