// SPDX-License-Identifier: Apache-2.0
// What a guest sends, from virtio-net header to the last byte on the wire: parsing, offload
// requests, hashing, checksums and segmentation of any frame, its head and tail split anywhere.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "pollux/net/flow_hash.hpp"
#include "pollux/net/parse.hpp"
#include "pollux/stage/offload.hpp"
#include "pollux/virtio/net_offload.hpp"

namespace {

using pollux::Burst;
using pollux::DropReason;
using pollux::Packet;
using pollux::PoolCache;

void require(bool condition) {
  if (!condition) std::abort();
}

struct Input {
  pollux::spec::virtio_net_hdr header;
  uint8_t offloads;
  uint8_t head;  ///< bytes of the frame in the head, at most
  uint8_t cut;   ///< length of the tail's segments
};

void check_parse(std::span<const std::byte> frame) {
  const auto headers = pollux::net::parse(frame);
  require(headers.l3_offset <= frame.size() && headers.l4_offset <= frame.size());
  require(headers.payload_offset <= frame.size());
  require(headers.l4_offset == 0 || headers.l4_offset > headers.l3_offset);
  require(headers.payload_offset == 0 || headers.payload_offset > headers.l4_offset);
  require(pollux::net::flow_hash(frame, headers, 1) != 0);
}

/// The tail lies in pieces of exactly their size, so that the sanitizer sees a step outside.
Packet* make_packet(PoolCache& cache, const Input& input, std::span<const std::byte> frame,
                    std::vector<std::unique_ptr<std::byte[]>>& lent) {
  Packet* packet = cache.allocate();
  const size_t head = std::min<size_t>({input.head, frame.size(), Packet::kHeadCapacity});
  std::copy_n(frame.begin(), head, packet->head());
  packet->set_head_size(static_cast<uint32_t>(head));
  std::span<const std::byte> tail = frame.subspan(head);
  while (!tail.empty()) {
    const bool last = packet->tail().size() + 1 == Packet::kMaxSegments;
    const size_t size = last ? tail.size() : std::min<size_t>(tail.size(), input.cut + size_t{1});
    lent.push_back(std::make_unique<std::byte[]>(size));
    std::copy_n(tail.begin(), size, lent.back().get());
    packet->append({lent.back().get(), static_cast<uint32_t>(size), pollux::kBorrowed});
    tail = tail.subspan(size);
  }
  return packet;
}

void check_offloads(PoolCache& cache, const Input& input, std::span<const std::byte> frame) {
  std::vector<std::unique_ptr<std::byte[]>> lent;
  Packet* packet = make_packet(cache, input, frame, lent);
  if (!pollux::virtio::apply_offload(*packet, input.header)) {
    cache.release(packet);
    return;
  }
  Burst burst(cache);
  Burst out(cache);
  Burst held(cache);
  const bool whole = pollux::stage::ready_for(packet->meta, input.offloads);
  const bool cut = packet->meta.gso != pollux::GsoType::kNone;
  const uint16_t gso_size = packet->meta.gso_size;
  const size_t payload = packet->size() - packet->meta.payload_offset;
  size_t packets = 0;
  burst.push(packet);
  pollux::stage::finalize(
      burst, input.offloads, out, held,
      [&](Burst& ready) -> std::optional<DropReason> {
        for (const Packet* made : ready.packets()) {
          require(pollux::stage::ready_for(made->meta, input.offloads));
          require(whole || made->size() <= frame.size());
          ++packets;
        }
        return std::nullopt;
      },
      [](DropReason reason, size_t) { require(reason == DropReason::no_buffers); });
  if (cut && !whole) require(packets == (payload + gso_size - 1) / gso_size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto pool = std::move(
      *pollux::Pool::create({.packets = 1024, .buffers = 64, .pages = pollux::HugePages::kNever}));
  static PoolCache cache(*pool);
  Input input;
  if (size < sizeof(input)) return 0;
  std::memcpy(&input, data, sizeof(input));
  const auto frame = std::as_bytes(std::span(data + sizeof(input), size - sizeof(input)));
  check_parse(frame);
  check_offloads(cache, input, frame);
  return 0;
}
