// SPDX-License-Identifier: Apache-2.0
// Checksums, parsing and segmentation. "cycles" counts time stamp counter ticks for one call.
#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "pollux/base/tsc.hpp"
#include "pollux/net/checksum.hpp"
#include "pollux/net/flow_hash.hpp"
#include "pollux/net/parse.hpp"
#include "pollux/net/wire.hpp"
#include "pollux/stage/offload.hpp"

namespace pollux {
namespace {

void report(benchmark::State& state, uint64_t start) {
  state.counters["cycles"] =
      static_cast<double>(read_tsc() - start) / static_cast<double>(state.iterations());
}

template <uint16_t (*kSum)(std::span<const std::byte>) noexcept>
void sum(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<size_t>(state.range(0)), std::byte{0x5a});
  const uint64_t start = read_tsc();
  for (auto _ : state) benchmark::DoNotOptimize(kSum(bytes));
  report(state, start);
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

/// Ethernet, IPv4, TCP without options; the pseudo header's sum is not right, nor need it be.
std::vector<std::byte> tcp_frame(size_t payload) {
  std::vector<std::byte> frame(net::kEthernetHeaderSize + net::kIpv4HeaderSize +
                               net::kTcpHeaderSize + payload);
  net::EthernetHeader ethernet{};
  ethernet.ether_type.set(net::kEtherTypeIpv4);
  net::Ipv4Header ip{};
  ip.version_ihl = 0x45;
  ip.total_length.set(static_cast<uint16_t>(frame.size() - net::kEthernetHeaderSize));
  ip.protocol = net::kIpProtoTcp;
  net::TcpHeader tcp{};
  tcp.data_offset = 0x50;
  (void)net::write_at(std::span(frame), 0, ethernet);
  (void)net::write_at(std::span(frame), 14, ip);
  (void)net::write_at(std::span(frame), 34, tcp);
  return frame;
}

void parse(benchmark::State& state) {
  const auto frame = tcp_frame(10);
  const uint64_t start = read_tsc();
  for (auto _ : state) benchmark::DoNotOptimize(net::parse(frame));
  report(state, start);
}

void flow_hash(benchmark::State& state) {
  const auto frame = tcp_frame(10);
  const auto headers = net::parse(frame);
  const uint64_t start = read_tsc();
  for (auto _ : state) benchmark::DoNotOptimize(net::flow_hash(frame, headers, 1));
  report(state, start);
}

/// A GSO packet of 64 KiB into segments of 1448 bytes.
void segment(benchmark::State& state) {
  PoolConfig config;
  config.packets = 256;
  config.buffers = 64;
  const auto pool = std::move(*Pool::create(config));
  PoolCache cache(*pool);
  auto frame = tcp_frame(65000);
  Packet* packet = cache.allocate();
  std::memcpy(packet->head(), frame.data(), Packet::kHeadCopy);
  packet->set_head_size(Packet::kHeadCopy);
  packet->append({frame.data() + Packet::kHeadCopy,
                  static_cast<uint32_t>(frame.size() - Packet::kHeadCopy), kBorrowed});
  packet->meta.gso = GsoType::kTcp4;
  packet->meta.gso_size = 1448;
  packet->meta.needs_csum = true;
  Burst out(cache);
  const auto offloads = static_cast<uint32_t>(state.range(0));
  const uint64_t start = read_tsc();
  size_t segments = 0;
  for (auto _ : state) {
    stage::Segmenter segmenter(*packet, offloads);
    (void)segmenter.emit(out);
    segments += out.size();
    out.clear();
  }
  state.counters["cycles"] =
      static_cast<double>(read_tsc() - start) / static_cast<double>(segments);
  cache.release(packet);
}

BENCHMARK(sum<net::sum_words>)
    ->Name("checksum/chosen")
    ->Arg(20)
    ->Arg(64)
    ->Arg(128)
    ->Arg(1480)
    ->Arg(65536);
BENCHMARK(sum<net::sum_portable>)
    ->Name("checksum/portable")
    ->Arg(20)
    ->Arg(64)
    ->Arg(128)
    ->Arg(1480)
    ->Arg(65536);
BENCHMARK(parse)->Name("parse/ipv4_tcp");
BENCHMARK(flow_hash)->Name("flow_hash/ipv4_tcp");
BENCHMARK(segment)->Name("segment/1448/checksums")->Arg(0);
BENCHMARK(segment)->Name("segment/1448/left_to_receiver")->Arg(kTxChecksum);

}  // namespace
}  // namespace pollux
