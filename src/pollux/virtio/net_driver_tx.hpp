// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "pollux/base/queue_counters.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/net_driver_config.hpp"
#include "pollux/virtio/net_header.hpp"

namespace pollux::virtio {

/// The driver side of a network device's transmitq (VIRTIO 1.3, 5.1.6.2): gives frames to the
/// device.
///
/// The device only ever sees buffers of the pool. A packet without tail is copied into one behind
/// its header. An owned tail is sent from where it lies: header and head go right in front of it
/// when there is room, so that a packet with one segment is one descriptor. A borrowed tail, or
/// one of another pool, is copied. `Ring` is a driver ring of either format. One thread at a time;
/// everything is noexcept and bounded by the ring's size.
template <typename Ring>
class NetDriverTx {
 public:
  /// The pool, whose region config.window is, outlives the queue, which must be stopped before it
  /// dies.
  NetDriverTx(Ring ring, Pool& pool, const NetDriverConfig& config)
      : ring_(std::move(ring)),
        pool_(&pool),
        config_(config),
        hdr_size_(static_cast<uint32_t>(spec::net_hdr_size(config.features))),
        separate_header_(config.separate_header()),
        first_(std::make_unique<BufferIndex[]>(ring_.size())),
        next_(std::make_unique<BufferIndex[]>(pool.buffer_count())) {}

  [[nodiscard]] const Ring& ring() const noexcept { return ring_; }

  /// Takes packets from the front of the burst as long as they fit, and leaves the rest; returns
  /// why (meaningful only then). A packet that can never be sent here is dropped and counted. The
  /// burst's cache is one of the queue's pool.
  DropReason send(Burst& burst, QueueCounters& counters) noexcept {
    if (&burst.cache().pool() != pool_) return DropReason::receiver_error;
    reclaim(burst.cache());
    Totals totals;
    size_t done = 0;
    while (done < burst.size()) {
      const Step step = leading_singles(burst, done) != 0
                            ? send_singles(burst, done, totals)
                            : send_chain(burst, done, totals, counters);
      done += step.count;
      if (step.stopped) {
        totals.why = step.why;
        break;
      }
    }
    burst.release_front(done);
    counters.packets.add(totals.packets);
    counters.bytes.add(totals.bytes);
    return totals.why;
  }

  /// Shows the device what was sent; true when it wants to be notified.
  [[nodiscard]] bool publish() noexcept { return ring_.publish(); }

  /// Gives the buffers of what the device has finished with back to the pool; `send` does so, too.
  void reclaim(PoolCache& cache) noexcept {
    for (size_t budget = ring_.size() / kBatch + 1; budget != 0; --budget) {
      std::array<ring::UsedChain, kBatch> used;
      const size_t count = ring_.poll_used(used.data(), kBatch);
      for (size_t i = 0; i < count; ++i) release_chain(used[i].id, cache);
      if (count < kBatch) return;
    }
  }

  /// Gives every buffer back to the pool. The device must be gone.
  void stop(PoolCache& cache) noexcept {
    ring_.drain([&](uint16_t id) { release_chain(id, cache); });
  }

 private:
  static constexpr size_t kBatch = 32;
  /// Marks, in first_ and next_, that the chain goes on in another buffer.
  static constexpr BufferIndex kMore = 0x80000000;

  struct Totals {
    uint64_t packets = 0;
    uint64_t bytes = 0;
    DropReason why = DropReason::receiver_ring_full;
  };
  /// How far one step through the burst went.
  struct Step {
    size_t count = 0;
    bool stopped = false;
    DropReason why = DropReason::receiver_ring_full;
  };
  /// The elements of one chain and the buffers that they lie in.
  struct Chain {
    static constexpr size_t kMax = Packet::kMaxSegments + 2;
    std::array<ring::DriverBuffer, kMax> elements;
    std::array<BufferIndex, kMax> buffers;
    size_t element_count = 0;
    size_t buffer_count = 0;
  };

  /// How many more buffers the device may hold. A chain may overdraw it once.
  uint32_t allowance() const noexcept {
    return config_.max_buffers - std::min(in_flight_, config_.max_buffers);
  }

  /// A packet that needs no more than the one descriptor and the one buffer that most need.
  enum class Single : uint8_t { kNo, kFresh, kInPlace };

  Single single(const Packet& packet) const noexcept {
    if (separate_header_ || packet.size() == 0 || !agreed_to(packet.meta)) return Single::kNo;
    if (packet.tail().empty()) [[likely]]
      return Single::kFresh;
    if (!own_tail(packet)) {
      return packet.size() <= pool_->buffer_size() ? Single::kFresh : Single::kNo;
    }
    return packet.tail().size() == 1 && room_before_tail(packet) ? Single::kInPlace : Single::kNo;
  }

  /// True when the tail lies where the device may look.
  bool own_tail(const Packet& packet) const noexcept {
    if (!packet.tail_owned()) return false;
    for (const Segment& segment : packet.tail()) {
      if (!config_.window.holds(segment.data, segment.len)) return false;
    }
    return true;
  }

  /// True when header and head fit between the start of the first segment's buffer and its data.
  bool room_before_tail(const Packet& packet) const noexcept {
    const Segment& first = packet.tail()[0];
    const std::byte* start = pool_->buffer_data(first.buffer) - Pool::kBufferHeadRoom;
    return first.data >= start + hdr_size_ + packet.head_size();
  }

  bool agreed_to(const PacketMeta& meta) const noexcept {
    if (!meta.needs_csum && meta.gso == GsoType::kNone) [[likely]]
      return true;
    if (meta.needs_csum && !config_.has(spec::VIRTIO_NET_F_CSUM)) return false;
    switch (meta.gso) {
      case GsoType::kNone:
        return true;
      case GsoType::kTcp4:
        return agreed_to_tso(spec::VIRTIO_NET_F_HOST_TSO4, meta);
      case GsoType::kTcp6:
        return agreed_to_tso(spec::VIRTIO_NET_F_HOST_TSO6, meta);
      case GsoType::kUdp4:
      case GsoType::kUdp6:
        return config_.has(spec::VIRTIO_NET_F_HOST_USO);
      case GsoType::kUfo4:
      case GsoType::kUfo6:
        return config_.has(spec::VIRTIO_NET_F_HOST_UFO);
    }
    return false;
  }
  bool agreed_to_tso(uint64_t feature, const PacketMeta& meta) const noexcept {
    return config_.has(feature | (meta.gso_ecn ? spec::VIRTIO_NET_F_HOST_ECN : 0));
  }

  /// How many packets from `from` on are of the common kind, up to a batch.
  size_t leading_singles(const Burst& burst, size_t from) noexcept {
    const size_t end = std::min(burst.size(), from + kBatch);
    size_t i = from;
    for (; i < end; ++i) {
      kinds_[i - from] = single(burst[i]);
      if (kinds_[i - from] == Single::kNo) break;
    }
    singles_ = i - from;
    return singles_;
  }

  /// Sends the leading_singles() of the burst, one descriptor each, in one go.
  Step send_singles(Burst& burst, size_t from, Totals& totals) noexcept {
    Step step;
    step.count = std::min({singles_, size_t{ring_.free_descriptors()}, size_t{allowance()}});
    step.stopped = step.count < singles_;
    std::array<BufferIndex, kBatch> fresh;
    uint64_t bytes = 0;
    if (!get_fresh(burst.cache(), fresh.data(), step)) {
      step.stopped = true;
      step.why = DropReason::no_buffers;
    }
    for (size_t i = 0; i < step.count; ++i) bytes += burst[from + i].size();
    const size_t sent = ring_.add_readable(
        step.count, [this, &burst, from, next = fresh.data()](size_t i, uint16_t id) mutable {
          Packet& packet = burst[from + i];
          if (kinds_[i] == Single::kInPlace) {
            first_[id] = packet.tail()[0].buffer;
            return in_place(packet);
          }
          const BufferIndex buffer = *next++;
          first_[id] = buffer;
          return copied(packet, buffer);
        });
    if (sent != step.count) return broken(burst.cache(), fresh.data(), step);
    totals.packets += sent;
    totals.bytes += bytes;
    in_flight_ += static_cast<uint32_t>(sent);
    return step;
  }

  /// Buffers for those of the first step.count packets that need one. False when there are too few;
  /// then step.count is as many as can go.
  bool get_fresh(PoolCache& cache, BufferIndex* fresh, Step& step) noexcept {
    size_t need = 0;
    for (size_t i = 0; i < step.count; ++i) need += kinds_[i] == Single::kFresh;
    size_t got = cache.allocate_buffers(fresh, need);
    for (size_t i = 0; i < got; ++i) {
      const std::byte* data = pool_->buffer_data(fresh[i]);
      ring_.access().prefetch_write(data - hdr_size_);
      ring_.access().prefetch_write(data);
    }
    if (got == need) return true;
    size_t fits = 0;
    for (; kinds_[fits] == Single::kInPlace || got-- != 0; ++fits) continue;
    step.count = fits;
    return false;
  }

  /// The ring took nothing since it is broken.
  Step broken(PoolCache& cache, const BufferIndex* fresh, const Step& step) noexcept {
    for (size_t i = 0; i < step.count; ++i) {
      if (kinds_[i] == Single::kFresh) cache.release_buffer(*fresh++);
    }
    return {0, true, DropReason::receiver_down};
  }

  /// Puts header and head in front of the only segment; the buffer is the ring's from now on.
  ring::DriverBuffer in_place(Packet& packet) noexcept {
    const Segment segment = packet.tail()[0];
    std::byte* at = segment.data - packet.head_size();
    ring_.access().copy_out(at, packet.head(), packet.head_size());
    write_header(at - hdr_size_, packet.meta);
    const ring::DriverBuffer buffer{config_.window.device_addr(at - hdr_size_),
                                    hdr_size_ + packet.size()};
    packet.drop_tail();
    return buffer;
  }

  /// Copies header and packet into a fresh buffer.
  ring::DriverBuffer copied(const Packet& packet, BufferIndex fresh) noexcept {
    std::byte* data = pool_->buffer_data(fresh);
    write_header(data - hdr_size_, packet.meta);
    ring_.access().copy_out(data, packet.head(), packet.head_size());
    uint32_t at = packet.head_size();
    for (const Segment& segment : packet.tail()) {
      ring_.access().copy_out(data + at, segment.data, segment.len);
      at += segment.len;
    }
    return {config_.window.device_addr(data - hdr_size_), hdr_size_ + at};
  }

  void write_header(std::byte* to, const PacketMeta& meta) noexcept {
    spec::virtio_net_hdr hdr{};
    if (meta.needs_csum || meta.gso != GsoType::kNone) [[unlikely]] {
      hdr = to_header(meta);
      // 5.1.6.2.1: num_buffers is 0, DATA_VALID is not the driver's to set.
      hdr.num_buffers = 0;
      hdr.flags &= spec::VIRTIO_NET_HDR_F_NEEDS_CSUM;
    }
    // A size that the compiler knows makes two stores of it.
    if (hdr_size_ == spec::kNetHdrSize) [[likely]] {
      ring_.access().copy_out(to, &hdr, spec::kNetHdrSize);
    } else {
      ring_.access().copy_out(to, &hdr, spec::kLegacyNetHdrSize);
    }
  }

  /// Sends the packet at `at` over several descriptors, or drops it if that can not be.
  Step send_chain(Burst& burst, size_t at, Totals& totals, QueueCounters& counters) noexcept {
    Packet& packet = burst[at];
    const auto drop = [&](DropReason reason) {
      counters.drops.add(reason);
      return Step{1};
    };
    if (packet.size() == 0) return drop(DropReason::runt);
    if (!agreed_to(packet.meta)) return drop(DropReason::receiver_no_offload);
    const bool own = own_tail(packet);
    const size_t need = own ? elements_in_place(packet) : elements_copied(packet);
    if (need > std::min<size_t>(Chain::kMax, ring_.size())) return drop(DropReason::too_long);
    if (ring_.broken()) return {0, true, DropReason::receiver_down};
    if (!ring_.has_room(static_cast<uint32_t>(need)) || allowance() == 0) return {0, true};
    Chain chain;
    if (!(own ? gather(packet, chain, burst.cache()) : copy(packet, chain, burst.cache()))) {
      return {0, true, DropReason::no_buffers};
    }
    ++totals.packets;
    totals.bytes += packet.size();
    if (own) packet.drop_tail();
    remember(chain, ring_.add(std::span(chain.elements).first(chain.element_count), {}));
    return {1};
  }

  size_t elements_in_place(const Packet& packet) const noexcept {
    const size_t segments = packet.tail().size();
    if (segments == 0 || !room_before_tail(packet)) return segments + 1 + separate_header_;
    return segments + separate_header_;
  }
  size_t elements_copied(const Packet& packet) const noexcept {
    const uint32_t size = pool_->buffer_size();
    return (packet.size() + size - 1) / size + separate_header_;
  }

  void append(Chain& chain, const std::byte* data, uint32_t len) const noexcept {
    chain.elements[chain.element_count++] = {config_.window.device_addr(data), len};
  }
  /// Header and first bytes: one element, or two for a legacy device (5.1.6.6).
  void append_first(Chain& chain, std::byte* frame, uint32_t len) const noexcept {
    if (separate_header_) {
      append(chain, frame - hdr_size_, hdr_size_);
      if (len != 0) append(chain, frame, len);
    } else {
      append(chain, frame - hdr_size_, hdr_size_ + len);
    }
  }

  /// The chain of a packet whose tail is sent from where it lies. False without a buffer for the
  /// head; then nothing has changed.
  bool gather(Packet& packet, Chain& chain, PoolCache& cache) noexcept {
    std::span<const Segment> rest = packet.tail();
    const uint32_t head = packet.head_size();
    if (!rest.empty() && room_before_tail(packet)) {
      std::byte* frame = rest[0].data - head;
      ring_.access().copy_out(frame, packet.head(), head);
      write_header(frame - hdr_size_, packet.meta);
      append_first(chain, frame, head + rest[0].len);
      chain.buffers[chain.buffer_count++] = rest[0].buffer;
      rest = rest.subspan(1);
    } else {
      BufferIndex fresh;
      if (!cache.allocate_buffer(fresh)) return false;
      std::byte* frame = pool_->buffer_data(fresh);
      ring_.access().copy_out(frame, packet.head(), head);
      write_header(frame - hdr_size_, packet.meta);
      append_first(chain, frame, head);
      chain.buffers[chain.buffer_count++] = fresh;
    }
    for (const Segment& segment : rest) {
      append(chain, segment.data, segment.len);
      chain.buffers[chain.buffer_count++] = segment.buffer;
    }
    return true;
  }

  /// The chain of a packet that is copied whole into fresh buffers. False when they run out; then
  /// nothing has changed.
  bool copy(const Packet& packet, Chain& chain, PoolCache& cache) noexcept {
    const uint32_t size = pool_->buffer_size();
    for (uint32_t at = 0; at < packet.size(); at += size) {
      BufferIndex fresh;
      if (!cache.allocate_buffer(fresh)) {
        for (size_t i = 0; i < chain.buffer_count; ++i) cache.release_buffer(chain.buffers[i]);
        return false;
      }
      std::byte* data = pool_->buffer_data(fresh);
      const auto len = static_cast<uint32_t>(packet.copy_to(data, at, size));
      if (at == 0) {
        write_header(data - hdr_size_, packet.meta);
        append_first(chain, data, len);
      } else {
        append(chain, data, len);
      }
      chain.buffers[chain.buffer_count++] = fresh;
    }
    return true;
  }

  void remember(const Chain& chain, uint16_t id) noexcept {
    const auto more = [&](size_t i) { return i + 1 < chain.buffer_count ? kMore : 0; };
    in_flight_ += static_cast<uint32_t>(chain.buffer_count);
    first_[id] = chain.buffers[0] | more(0);
    for (size_t i = 1; i < chain.buffer_count; ++i) {
      next_[chain.buffers[i - 1]] = chain.buffers[i] | more(i);
    }
  }

  void release_chain(uint16_t id, PoolCache& cache) noexcept {
    BufferIndex buffer = first_[id];
    while ((buffer & kMore) != 0) [[unlikely]] {
      const BufferIndex here = buffer & ~kMore;
      buffer = next_[here];
      cache.release_buffer(here);
      --in_flight_;
    }
    cache.release_buffer(buffer);
    --in_flight_;
  }

  Ring ring_;
  Pool* pool_;
  NetDriverConfig config_;
  uint32_t hdr_size_;
  bool separate_header_;
  std::unique_ptr<BufferIndex[]> first_;  // by chain id: its first buffer
  std::unique_ptr<BufferIndex[]> next_;   // by buffer: the one after it in its chain
  uint32_t in_flight_ = 0;                // buffers with the device
  size_t singles_ = 0;
  std::array<Single, kBatch> kinds_;  // of the next singles_ packets
};

}  // namespace pollux::virtio
