// SPDX-License-Identifier: Apache-2.0
// Frames with virtio-net headers, as a hostile guest writes them, through a whole turn of the
// switch: offloads from headers, parsing, learning, forwarding, flooding, checksums and
// segmentation towards receivers that took on all, some or no offloads, and that take all, some or
// nothing. Tails lie in heap blocks of exact sizes and in many pieces.
//
// Beyond what the sanitizers see it is checked that the engine's equation holds to the packet,
// that whatever reaches a receiver is what it agreed to, and that nothing leaks.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "pollux/engine/turn.hpp"
#include "pollux/stage/offload.hpp"
#include "pollux/virtio/net_offload.hpp"

namespace pollux {
namespace {

void require(bool good, const char* what) {
  if (good) return;
  (void)std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

constexpr std::array<uint32_t, 5> kOffloads{
    0, kTxChecksum, kTxChecksum | kTxTso4 | kTxTso6,
    kTxChecksum | kTxTso4 | kTxTso6 | kTxTsoEcn | kTxUso4 | kTxUso6,
    kTxChecksum | kTxTso4 | kTxTso6 | kTxJoin};

/// A port: what the guest sends comes from the input, and so does how much is taken.
struct FuzzPort {
  std::atomic<uint32_t> offloads{0};
  FuzzedDataProvider* input = nullptr;
  QueueCounters in;
  QueueCounters out;
  std::vector<std::unique_ptr<std::byte[]>> lent;
  bool unflushed = false;
  bool completed = false;

  RxQueue rx() { return {this, poll, complete, &in}; }
  TxQueue tx() { return {this, send, flush, &offloads, &out}; }

  /// One frame: its header and bytes, where head and tail meet, and how the tail is cut.
  void make(Burst& burst) {
    spec::virtio_net_hdr hdr{};
    const auto raw = input->ConsumeBytes<uint8_t>(sizeof hdr);
    std::memcpy(&hdr, raw.data(), raw.size());
    size_t size = input->ConsumeIntegralInRange<size_t>(14, 600);
    const bool large = input->ConsumeBool();
    std::vector<uint8_t> frame = input->ConsumeBytes<uint8_t>(size);
    frame.resize(size);
    if (large) {
      frame.resize(size + input->ConsumeIntegralInRange<size_t>(0, 8000), 0x5a);
      size = frame.size();
      agree(frame);
    }
    Packet* packet = burst.cache().allocate();
    if (packet == nullptr) return;
    const size_t head = size <= Packet::kHeadCapacity ? size : Packet::kHeadCopy;
    std::memcpy(packet->head(), frame.data(), head);
    packet->set_head_size(static_cast<uint32_t>(head));
    size_t done = head;
    while (done != size) {
      const size_t left = size - done;
      const bool last = packet->tail().size() + 1 == Packet::kMaxSegments;
      const size_t piece = last ? left : input->ConsumeIntegralInRange<size_t>(1, left);
      lent.push_back(std::make_unique<std::byte[]>(piece));
      std::memcpy(lent.back().get(), frame.data() + done, piece);
      packet->append({lent.back().get(), static_cast<uint32_t>(piece), kBorrowed});
      done += piece;
    }
    in.packets.add(1);
    if (!virtio::apply_offload(*packet, hdr)) {
      require(!packet->meta.needs_csum && packet->meta.gso == GsoType::kNone,
              "offloads left behind by a refused header");
      in.drops.add(DropReason::bad_net_header);
      burst.cache().release(packet);
      return;
    }
    burst.push(packet);
  }

  /// Puts the length that the frame has into its IPv4 or IPv6 header, so that large ones get past
  /// the first check now and then.
  static void agree(std::vector<uint8_t>& frame) {
    const auto put = [&](size_t at, size_t value) {
      frame[at] = static_cast<uint8_t>(value >> 8);
      frame[at + 1] = static_cast<uint8_t>(value);
    };
    if (frame.size() > 60 && frame[12] == 0x08 && frame[13] == 0) put(16, frame.size() - 14);
    if (frame.size() > 80 && frame[12] == 0x86 && frame[13] == 0xdd) put(18, frame.size() - 54);
  }

  static void poll(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<FuzzPort*>(self);
    port.completed = false;
    const auto count = port.input->ConsumeIntegralInRange<unsigned>(1, 4);
    for (unsigned i = 0; i < count && port.input->remaining_bytes() != 0; ++i) port.make(burst);
  }
  static void complete(void* self) noexcept {
    auto& port = *static_cast<FuzzPort*>(self);
    port.lent.clear();
    port.completed = true;
  }
  static DropReason send(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<FuzzPort*>(self);
    size_t taken = burst.size();
    const auto mood = port.input->ConsumeIntegral<uint8_t>();
    if ((mood & 3) == 3) taken = std::min<size_t>(taken, mood >> 2);
    for (size_t i = 0; i < taken; ++i) {
      const Packet& packet = burst[i];
      require(stage::ready_for(packet.meta, port.offloads), "an offload nobody agreed to");
      std::vector<std::byte> bytes(packet.size());
      require(packet.copy_to(bytes.data(), 0, bytes.size()) == bytes.size(), "a packet cut short");
      if (packet.meta.needs_csum) {
        require(uint32_t{packet.meta.csum_start} + packet.meta.csum_offset + 2 <= packet.size(),
                "a checksum field outside of the packet");
      }
    }
    port.out.packets.add(taken);
    burst.release_front(taken);
    port.unflushed = true;
    return DropReason::receiver_ring_full;
  }
  static void flush(void* self) noexcept { static_cast<FuzzPort*>(self)->unflushed = false; }

  [[nodiscard]] uint64_t fates() const {
    uint64_t sum = out.packets.value();
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      sum +=
          in.drops.value(static_cast<DropReason>(r)) + out.drops.value(static_cast<DropReason>(r));
    }
    return sum;
  }
};

Pool& pool() {
  static const std::unique_ptr<Pool> instance = std::move(
      Pool::create({.name = "fuzz", .packets = 192, .buffers = 64, .pages = HugePages::kNever})
          .value());
  return *instance;
}

void turns(FuzzedDataProvider& input) {
  const auto fdb = std::move(stage::Fdb::create({.capacity = 16, .seed = 1}).value());
  PoolCache cache(pool());
  Turn turn(0, cache, *fdb);
  std::array<FuzzPort, 3> ports;
  Topology topology;
  topology.sources.resize(1);
  topology.outputs.resize(ports.size());
  for (uint16_t i = 0; i < ports.size(); ++i) {
    ports[i].input = &input;
    ports[i].offloads = kOffloads[input.ConsumeIntegral<uint8_t>() % kOffloads.size()];
    topology.sources[0].push_back({ports[i].rx(), i});
    topology.outputs[i] = {true, {ports[i].tx()}};
    topology.flood_ports.push_back(i);
  }
  for (uint32_t now = 0; input.remaining_bytes() != 0 && now < 64; ++now) {
    const RxSource& source = topology.sources[0][input.ConsumeIntegral<uint8_t>() % ports.size()];
    (void)turn.run(topology, source, now);
    for (const FuzzPort& port : ports) require(!port.unflushed, "sent and not flushed");
    require(ports[source.port].completed, "polled and not completed");
  }
  uint64_t accepted = 0;
  uint64_t fates = 0;
  for (const FuzzPort& port : ports) {
    accepted += port.in.packets.value();
    fates += port.fates();
  }
  require(accepted + turn.stats().made() == fates, "the accounts");
}

}  // namespace
}  // namespace pollux

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pollux;
  FuzzedDataProvider input(data, size);
  turns(input);
  require(pool().free_packets() == pool().packet_count(), "packets leaked");
  require(pool().free_buffers() == pool().buffer_count(), "buffers leaked");
  return 0;
}
