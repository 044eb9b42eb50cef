// SPDX-License-Identifier: Apache-2.0
// Rings of pointers, on one core and between two. "cycles" counts time stamp counter ticks for one
// element to go in and out.
#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <thread>

#include "pollux/base/tsc.hpp"
#include "pollux/ring/mpmc_ring.hpp"
#include "pollux/ring/spsc_ring.hpp"

namespace pollux {
namespace {

constexpr size_t kRingSize = 1024;
constexpr size_t kMostBulk = 256;

template <typename Ring>
void one_core(benchmark::State& state) {
  Ring ring(kRingSize);
  const auto bulk = static_cast<size_t>(state.range(0));
  std::array<void*, kMostBulk> values{};
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    benchmark::DoNotOptimize(ring.push_bulk(values.data(), bulk));
    benchmark::DoNotOptimize(ring.pop_bulk(values.data(), bulk));
    benchmark::ClobberMemory();
  }
  const auto elements = static_cast<double>(state.iterations()) * static_cast<double>(bulk);
  state.counters["cycles"] = static_cast<double>(read_tsc() - start) / elements;
}

template <typename Ring>
void two_cores(benchmark::State& state) {
  Ring ring(kRingSize);
  const auto bulk = static_cast<size_t>(state.range(0));
  std::atomic<bool> stop{false};
  std::jthread consumer([&] {
    std::array<void*, kMostBulk> values{};
    while (!stop.load(std::memory_order_relaxed)) {
      benchmark::DoNotOptimize(ring.pop_burst(values.data(), bulk));
    }
  });
  std::array<void*, kMostBulk> values{};
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    while (!ring.push_bulk(values.data(), bulk)) {
    }
  }
  const auto elements = static_cast<double>(state.iterations()) * static_cast<double>(bulk);
  state.counters["cycles"] = static_cast<double>(read_tsc() - start) / elements;
  stop = true;
}

BENCHMARK(one_core<SpscRing<void*>>)->Name("ring/spsc/one_core")->Arg(1)->Arg(8)->Arg(32)->Arg(128);
BENCHMARK(one_core<MpmcRing<void*>>)->Name("ring/mpmc/one_core")->Arg(1)->Arg(8)->Arg(32)->Arg(128);
BENCHMARK(two_cores<SpscRing<void*>>)->Name("ring/spsc/two_cores")->Arg(32)->UseRealTime();
BENCHMARK(two_cores<MpmcRing<void*>>)->Name("ring/mpmc/two_cores")->Arg(32)->UseRealTime();

}  // namespace
}  // namespace pollux
