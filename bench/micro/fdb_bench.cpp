// SPDX-License-Identifier: Apache-2.0
// The address table, and the stages that use it. "cycles" counts time stamp counter ticks for one
// operation or packet. Addresses are visited in random order, so large tables show their misses.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "pollux/base/tsc.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/stage/addresses.hpp"
#include "pollux/stage/fdb.hpp"
#include "pollux/stage/forward.hpp"
#include "pollux/stage/parse.hpp"

namespace pollux::stage {
namespace {

constexpr uint32_t kNow = 100;

std::vector<uint64_t> addresses_of(size_t count) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> macs(count);
  for (uint64_t& mac : macs) mac = (random() & 0xffff'ffff'ffff & ~uint64_t{1}) | 2;
  return macs;
}

std::unique_ptr<Fdb> filled(const std::vector<uint64_t>& macs) {
  auto fdb = std::move(*Fdb::create({.seed = 1}));
  for (const uint64_t mac : macs) fdb->learn(mac, 0, static_cast<uint16_t>(mac >> 8 & 7), kNow);
  return fdb;
}

void report(benchmark::State& state, uint64_t start, size_t per_iteration) {
  const auto count = static_cast<double>(state.iterations()) * static_cast<double>(per_iteration);
  state.counters["cycles"] = static_cast<double>(read_tsc() - start) / count;
}

void lookup(benchmark::State& state) {
  const auto macs = addresses_of(static_cast<size_t>(state.range(0)));
  const auto fdb = filled(macs);
  size_t i = 0;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    benchmark::DoNotOptimize(fdb->lookup(macs[i], 0));
    if (++i == macs.size()) i = 0;
  }
  report(state, start, 1);
}

void learn_known(benchmark::State& state) {
  const auto macs = addresses_of(static_cast<size_t>(state.range(0)));
  const auto fdb = filled(macs);
  size_t i = 0;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    benchmark::DoNotOptimize(fdb->learn(macs[i], 0, static_cast<uint16_t>(macs[i] >> 8 & 7), kNow));
    if (++i == macs.size()) i = 0;
  }
  report(state, start, 1);
}

void learn_flood(benchmark::State& state) {
  const auto fdb = std::move(*Fdb::create({.seed = 1}));
  uint64_t mac = 2;
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    benchmark::DoNotOptimize(fdb->learn(mac, 0, 1, static_cast<uint32_t>(mac >> 20)));
    mac += 0x1000;
  }
  report(state, start, 1);
}

/// parse, learn and forward over bursts of 32 between so many stations; 1 is one flow.
void burst(benchmark::State& state) {
  constexpr size_t kBurst = 32;
  const auto macs = addresses_of(static_cast<size_t>(state.range(0)));
  const auto fdb = filled(macs);
  PoolConfig config;
  config.packets = 64;
  config.buffers = 64;
  const auto pool = std::move(*Pool::create(config));
  PoolCache cache(*pool);
  Burst packets(cache);
  for (size_t i = 0; i < kBurst; ++i) {
    Packet* packet = cache.allocate();
    packet->set_head_size(60);
    std::fill_n(packet->head(), 60, std::byte{0});
    packets.push(packet);
  }
  Addresses addresses;
  Outputs outputs;
  size_t next = 0;
  const auto place = [&](Packet& packet) {
    std::memcpy(packet.head(), &macs[next], 6);
    std::memcpy(packet.head() + 6, &macs[macs.size() - 1 - next], 6);
    if (++next == macs.size()) next = 0;
  };
  uint64_t cycles = 0;
  for (auto _ : state) {
    for (Packet* packet : packets.packets()) place(*packet);
    const uint64_t start = read_tsc();
    parse(packets);
    addresses.read(packets, *fdb, outputs);
    fdb->learn(addresses.sources(), 0, static_cast<uint16_t>(macs[0] >> 8 & 7), kNow);
    forward(addresses, *fdb, 9, outputs);
    cycles += read_tsc() - start;
    benchmark::DoNotOptimize(outputs);
  }
  state.counters["cycles"] =
      static_cast<double>(cycles) / (static_cast<double>(state.iterations()) * kBurst);
}

BENCHMARK(lookup)->Name("fdb/lookup")->Arg(16)->Arg(1000)->Arg(10000)->Arg(100000);
BENCHMARK(learn_known)->Name("fdb/learn/known")->Arg(16)->Arg(1000)->Arg(10000)->Arg(100000);
BENCHMARK(learn_flood)->Name("fdb/learn/new_each");
BENCHMARK(burst)
    ->Name("stage/parse_learn_forward")
    ->Arg(1)
    ->Arg(2)
    ->Arg(16)
    ->Arg(1000)
    ->Arg(10000)
    ->Arg(100000);

}  // namespace
}  // namespace pollux::stage
