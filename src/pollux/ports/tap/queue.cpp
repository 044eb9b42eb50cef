// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/tap/queue.hpp"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>

#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/net_header.hpp"
#include "pollux/virtio/net_offload.hpp"

namespace pollux {
namespace {

constexpr size_t kMinFrame = 14;
constexpr size_t kLongestFrame = 65535 + 18;  // an IP packet with Ethernet header and VLAN tag

/// Buffers for the longest frame. With very small ones a long GSO packet does not fit, and the
/// kernel fails the read.
size_t buffers_needed(uint32_t buffer_size) {
  const size_t rest = kLongestFrame - Packet::kHeadCapacity;
  return std::min<size_t>((rest + buffer_size - 1) / buffer_size, Packet::kMaxSegments);
}

}  // namespace

TapQueue::TapQueue(Pool& pool)
    : pool_(pool), buffer_count_(buffers_needed(pool.buffer_size())), missing_(buffer_count_) {}

void TapQueue::attach(UniqueFd fd, uint32_t offloads) {
  fd_ = std::move(fd);
  offloads_.store(offloads, std::memory_order_relaxed);
}

void TapQueue::detach() noexcept {
  fd_.reset();
  PoolCache cache(pool_);
  for (; missing_ < buffer_count_; ++missing_) cache.release_buffer(buffers_[missing_]);
}

void TapQueue::poll(void* self, Burst& burst) noexcept {
  auto& queue = *static_cast<TapQueue*>(self);
  if (queue.gone_.load(std::memory_order_relaxed)) return;
  const size_t most = std::min(burst.room(), kMaxPoll);
  for (size_t i = 0; i < most && queue.lay_ready(burst.cache()); ++i) {
    if (!queue.read_one(burst)) break;
  }
}

Wake TapQueue::arm(void* self) noexcept {
  const auto& queue = *static_cast<TapQueue*>(self);
  if (queue.gone_.load(std::memory_order_relaxed)) return {Wake::kNever};
  return {Wake::kSignal, queue.fd_.get()};
}

/// False when the pool is empty: then nothing is read, and the kernel keeps or drops its packets.
bool TapQueue::lay_ready(PoolCache& cache) noexcept {
  while (missing_ != 0) {
    if (!cache.allocate_buffer(buffers_[missing_ - 1])) return false;
    --missing_;
    pieces_[2 + missing_] = {pool_.buffer_data(buffers_[missing_]), pool_.buffer_size()};
  }
  return true;
}

/// False when there is nothing more to read.
bool TapQueue::read_one(Burst& burst) noexcept {
  Packet* packet = burst.cache().allocate();
  if (packet == nullptr) return false;
  spec::virtio_net_hdr header{};
  pieces_[0] = {&header, spec::kNetHdrSize};
  pieces_[1] = {packet->head(), Packet::kHeadCapacity};
  const ssize_t got = ::readv(fd_.get(), pieces_.data(), static_cast<int>(2 + buffer_count_));
  if (got < 0) {
    burst.cache().release(packet);
    if (errno == EFAULT) {  // longer than everything that lay ready; the kernel has dropped it
      rx_counters_.packets.add(1);
      rx_counters_.drops.add(DropReason::receive_truncated);
      return true;
    }
    if (errno == EBADFD || errno == ENODEV) gone_.store(true, std::memory_order_relaxed);
    return false;
  }
  rx_counters_.packets.add(1);
  const size_t size = static_cast<size_t>(got) - std::min<size_t>(got, spec::kNetHdrSize);
  rx_counters_.bytes.add(size);
  if (size < kMinFrame) {
    rx_counters_.drops.add(DropReason::runt);
    burst.cache().release(packet);
    return true;
  }
  fill_in(*packet, size);
  packet->meta.csum_valid = (header.flags & spec::VIRTIO_NET_HDR_F_DATA_VALID) != 0;
  if (!virtio::is_plain(header) && !virtio::apply_offload(*packet, header)) {
    rx_counters_.drops.add(DropReason::bad_net_header);
    burst.cache().release(packet);
    return true;
  }
  burst.push(packet);
  return true;
}

/// Makes a packet of what was read: the buffers that were filled go with it.
void TapQueue::fill_in(Packet& packet, size_t size) noexcept {
  packet.set_head_size(static_cast<uint32_t>(std::min(size, Packet::kHeadCapacity)));
  for (size_t rest = size - packet.head_size(); rest != 0; ++missing_) {
    const size_t n = std::min<size_t>(rest, pool_.buffer_size());
    const BufferIndex index = buffers_[missing_];
    packet.append({pool_.buffer_data(index), static_cast<uint32_t>(n), index});
    rest -= n;
  }
}

DropReason TapQueue::send(void* self, Burst& burst) noexcept {
  auto& queue = *static_cast<TapQueue*>(self);
  if (queue.gone_.load(std::memory_order_relaxed)) return DropReason::receiver_down;
  const std::lock_guard guard(queue.tx_lock_);
  DropReason left = DropReason::receiver_ring_full;
  size_t done = 0;
  while (done < burst.size() && queue.write_one(burst[done], left)) ++done;
  burst.release_front(done);
  return left;
}

/// False when the packet is to be left with the caller, for the reason `left`.
bool TapQueue::write_one(const Packet& packet, DropReason& left) noexcept {
  spec::virtio_net_hdr header{};
  if (!virtio::is_plain(packet.meta)) header = virtio::to_header(packet.meta);
  std::array<iovec, kMaxSentPieces> pieces;
  pieces[0] = {&header, spec::kNetHdrSize};
  pieces[1] = {const_cast<std::byte*>(packet.head()), packet.head_size()};
  int count = 2;
  for (const Segment& segment : packet.tail()) pieces[count++] = {segment.data, segment.len};

  if (::writev(fd_.get(), pieces.data(), count) >= 0) {
    tx_counters_.packets.add(1);
    tx_counters_.bytes.add(packet.size());
    return true;
  }
  switch (errno) {
    case EAGAIN:  // the socket's send buffer
    case ENOBUFS:
    case ENOMEM:
      return false;
    case EIO:  // the interface is down
      left = DropReason::receiver_down;
      return false;
    case EBADFD:
    case ENODEV:
      gone_.store(true, std::memory_order_relaxed);
      left = DropReason::receiver_down;
      return false;
    default:
      tx_counters_.drops.add(DropReason::receiver_error);
      return true;
  }
}

}  // namespace pollux
