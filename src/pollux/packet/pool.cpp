// SPDX-License-Identifier: Apache-2.0
#include "pollux/packet/pool.hpp"

#include <algorithm>
#include <vector>

namespace pollux {
namespace {

/// Buffers start on a cache line, and an odd number of lines apart, so that the first lines of
/// many buffers do not fall into the same cache set.
uint32_t stride_for(uint32_t buffer_size) {
  const uint32_t lines = (buffer_size + Pool::kBufferHeadRoom + 63) / 64;
  return (lines | 1) * 64;
}

}  // namespace

Result<std::unique_ptr<Pool>> Pool::create(const PoolConfig& config) {
  if (config.packets == 0 || config.buffers == 0 || config.buffer_size < 64 ||
      config.buffer_size > 65536) {
    return fail(ErrorCode::kInvalidArgument,
                "a pool needs packets, buffers, and a buffer size of 64 to 65536 bytes");
  }
  const uint32_t stride = stride_for(config.buffer_size);
  auto region = SharedRegion::create(config.name, size_t{stride} * config.buffers, config.pages);
  if (!region) return forward(region);
  return std::unique_ptr<Pool>(new Pool(config, stride, std::move(*region)));
}

Pool::Pool(const PoolConfig& config, uint32_t stride, SharedRegion region)
    : region_(std::move(region)),
      packet_count_(config.packets),
      buffer_count_(config.buffers),
      buffer_size_(config.buffer_size),
      buffer_stride_(stride),
      buffers_base_(region_.data()),
      packets_(std::make_unique<Packet[]>(config.packets)),
      free_packets_(config.packets),
      free_buffers_(config.buffers) {
  // Highest first, so that the first ones handed out are the lowest: dense in memory.
  std::vector<Packet*> packets(packet_count_);
  for (uint32_t i = 0; i < packet_count_; ++i) packets[i] = &packets_[packet_count_ - 1 - i];
  free_packets_.push(packets.data(), packets.size());
  std::vector<BufferIndex> buffers(buffer_count_);
  for (uint32_t i = 0; i < buffer_count_; ++i) buffers[i] = buffer_count_ - 1 - i;
  free_buffers_.push(buffers.data(), buffers.size());
}

void PoolCache::release_tail(Packet& packet) noexcept {
  for (const Segment& segment : packet.tail()) {
    if (segment.buffer != kBorrowed) buffers_.put(segment.buffer);
  }
  packet.return_tail();
}

bool PoolCache::append_room(Packet& packet, uint32_t len) noexcept {
  const uint32_t size = pool_->buffer_size();
  const size_t need = (size_t{len} + size - 1) / size;
  if (packet.tail().size() + need > Packet::kMaxSegments) return false;
  BufferIndex taken[Packet::kMaxSegments];
  for (size_t i = 0; i < need; ++i) {
    if (buffers_.get(taken[i])) continue;
    buffers_.put_bulk(taken, i);
    return false;
  }
  for (size_t i = 0; i < need; ++i) {
    const uint32_t n = std::min(len, size);
    packet.append({pool_->buffer_data(taken[i]), n, taken[i]});
    len -= n;
  }
  return true;
}

bool PoolCache::make_owned(Packet& packet) noexcept {
  if (!packet.tail_borrowed()) return true;
  Packet* fresh = nullptr;  // lends its segment list while the bytes are moved over
  if (!packets_.get(fresh)) return false;
  fresh->reset();
  const uint32_t len = packet.tail_size();
  if (!append_room(*fresh, len)) {
    packets_.put(fresh);
    return false;
  }
  size_t offset = packet.head_size();
  for (const Segment& segment : fresh->tail()) {
    offset += packet.copy_to(segment.data, offset, segment.len);
  }
  packet.return_tail();
  for (const Segment& segment : fresh->tail()) packet.append(segment);
  fresh->drop_tail();
  packets_.put(fresh);
  return true;
}

Packet* PoolCache::clone_borrowing(const Packet& original) noexcept {
  Packet* clone = allocate();
  if (clone == nullptr) return nullptr;
  clone->meta = original.meta;
  // A head that grew at the front needs its head room in the clone too.
  const size_t fresh = std::min<size_t>(original.head_size(), Packet::kHeadCapacity);
  clone->set_head_size(static_cast<uint32_t>(fresh));
  (void)clone->prepend(original.head_size() - static_cast<uint32_t>(fresh));
  std::memcpy(clone->head(), original.head(), original.head_size());
  if (original.tail().size() > Packet::kMaxSegments) {
    clone->lend_tail(original.tail());
    return clone;
  }
  for (const Segment& segment : original.tail()) {
    clone->append({segment.data, segment.len, kBorrowed});
  }
  return clone;
}

}  // namespace pollux
