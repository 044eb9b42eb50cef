// SPDX-License-Identifier: Apache-2.0
// The device side of net queues against a driver in the same memory, on one core with warm caches:
// what a packet costs the switch between ring and packet. "cycles" counts time stamp counter ticks
// a packet, the driver's two or three stores a burst included.
#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "pollux/base/tsc.hpp"
#include "pollux/packet/fill.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"

namespace pollux {
namespace {

constexpr uint32_t kQueue = 256;
constexpr size_t kBurst = 32;
constexpr size_t kSlot = 2048;  // bytes a buffer
constexpr uint64_t kGuest = uint64_t{1} << 32;
constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF;

using Ring = ring::SplitDeviceRing<>;

/// A driver whose chains stay where they are: one descriptor each, offered again and again.
class Driver {
 public:
  Driver(uint32_t len, bool writable)
      : ring_memory_(ring::split_bytes(kQueue) + 64), buffers_(kQueue * kSlot) {
    auto* at = ring_memory_.data();
    at += (64 - reinterpret_cast<uintptr_t>(at) % 64) % 64;
    layout_ = ring::place_split(at, kQueue);
    for (uint32_t i = 0; i < kQueue; ++i) {
      layout_.desc[i] = {kGuest + i * kSlot, len, writable ? spec::VIRTQ_DESC_F_WRITE : uint16_t{0},
                         0};
      layout_.avail->ring[i] = static_cast<uint16_t>(i);
    }
    layout_.avail->flags = spec::VIRTQ_AVAIL_F_NO_INTERRUPT;
    memory_ =
        PeerMemory::create({{GuestAddr{kGuest}, {}, buffers_.size(), buffers_.data(), nullptr}})
            .value();
  }

  /// Offers the next `count` chains, used ones again.
  void offer(uint16_t count) {
    idx_ = static_cast<uint16_t>(idx_ + count);
    __atomic_store_n(&layout_.avail->idx, idx_, __ATOMIC_RELEASE);
  }

  [[nodiscard]] Ring device() const { return Ring({layout_, 0, false, false}, PeerView(*memory_)); }

 private:
  std::vector<std::byte> ring_memory_;
  std::vector<std::byte> buffers_;
  ring::SplitLayout layout_;
  std::shared_ptr<const PeerMemory> memory_;
  uint16_t idx_ = 0;
};

std::unique_ptr<Pool> make_pool() {
  return std::move(Pool::create({.name = "bench", .packets = 4096, .buffers = 4096}).value());
}

void report(benchmark::State& state, uint64_t start) {
  const auto packets = static_cast<double>(state.iterations()) * static_cast<double>(kBurst);
  state.counters["cycles"] = static_cast<double>(read_tsc() - start) / packets;
  state.SetItemsProcessed(static_cast<int64_t>(packets));
}

void device_rx(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  Driver driver(static_cast<uint32_t>(state.range(0)) + 12, false);
  virtio::NetDeviceRx<Ring> rx(driver.device(), kFeatures);
  QueueCounters counters;
  Burst burst(cache);
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    driver.offer(kBurst);
    rx.poll(burst, counters);
    burst.clear();
    benchmark::DoNotOptimize(rx.complete());
  }
  report(state, start);
}

void device_tx(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  Driver driver(kSlot, true);
  virtio::NetDeviceTx<Ring> tx(driver.device(), kFeatures);
  QueueCounters counters;
  const std::vector<std::byte> frame(static_cast<size_t>(state.range(0)));
  std::array<Packet*, kBurst> originals;
  for (Packet*& packet : originals) {
    packet = cache.allocate();
    if (!fill(*packet, cache, frame)) return state.SkipWithError("the pool is too small");
  }
  Burst burst(cache);
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    driver.offer(kBurst);
    for (Packet* packet : originals) burst.push(cache.clone_borrowing(*packet));
    tx.send(burst, counters);
    benchmark::DoNotOptimize(tx.publish());
  }
  report(state, start);
  for (Packet* packet : originals) cache.release(packet);
}

/// Out of one guest's memory and into the other's: the whole way but for the stages between.
void device_to_device(benchmark::State& state) {
  const auto pool = make_pool();
  PoolCache cache(*pool);
  Driver sender(static_cast<uint32_t>(state.range(0)) + 12, false);
  Driver receiver(static_cast<uint32_t>(state.range(1)), true);
  virtio::NetDeviceRx<Ring> rx(sender.device(), kFeatures);
  virtio::NetDeviceTx<Ring> tx(receiver.device(), kFeatures);
  QueueCounters in;
  QueueCounters out;
  Burst burst(cache);
  const uint64_t buffers =
      (static_cast<uint64_t>(state.range(0)) + 12 + static_cast<uint64_t>(state.range(1)) - 1) /
      static_cast<uint64_t>(state.range(1));
  const uint64_t start = read_tsc();
  for (auto _ : state) {
    sender.offer(kBurst);
    receiver.offer(static_cast<uint16_t>(kBurst * buffers));
    rx.poll(burst, in);
    tx.send(burst, out);
    benchmark::DoNotOptimize(rx.complete());
    benchmark::DoNotOptimize(tx.publish());
  }
  report(state, start);
  if (out.packets.value() != in.packets.value()) state.SkipWithError("packets were left over");
}

BENCHMARK(device_rx)->Name("device_ring/rx")->Arg(64)->Arg(512)->Arg(1518);
BENCHMARK(device_tx)->Name("device_ring/tx_with_clone")->Arg(64)->Arg(512)->Arg(1518);
BENCHMARK(device_to_device)
    ->Name("device_ring/rx_to_tx")
    ->ArgNames({"frame", "buffer"})
    ->Args({64, 2048})
    ->Args({512, 2048})
    ->Args({1518, 2048})
    ->Args({1518, 512});  // spread over three mergeable buffers

}  // namespace
}  // namespace pollux
