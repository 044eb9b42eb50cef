// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "pollux/base/queue_counters.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/packet/tx_offloads.hpp"
#include "pollux/ring/device_chain.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/net_header.hpp"

namespace pollux::virtio {

/// The device side of a network device's receiveq (VIRTIO 1.3, 5.1.6.3 and 5.1.6.4): copies frames
/// into the buffers that the driver posted. Out of the switch, hence tx.
///
/// The frame's private head and its tail, wherever that lies, go straight into the driver's
/// buffers: with a borrowed tail this is the one copy of a payload on its way from one guest to
/// another. `Ring` is a device ring of either format. One thread at a time.
template <typename Ring>
class NetDeviceTx {
 public:
  /// `features`: what was negotiated; decides the header's size, whether a frame may be spread over
  /// several buffers (MRG_RXBUF), and whether the header may speak of checksums (GUEST_CSUM).
  NetDeviceTx(Ring ring, uint64_t features)
      : ring_(std::move(ring)),
        hdr_size_(static_cast<uint32_t>(spec::net_hdr_size(features))),
        mergeable_((features & spec::VIRTIO_NET_F_MRG_RXBUF) != 0),
        guest_csum_((features & spec::VIRTIO_NET_F_GUEST_CSUM) != 0),
        stable_(ring_.view().stable()) {}

  [[nodiscard]] Ring& ring() noexcept { return ring_; }
  [[nodiscard]] const Ring& ring() const noexcept { return ring_; }

  /// Whether headers may speak of checksums; at first if GUEST_CSUM was negotiated.
  void set_guest_csum(bool on) noexcept { guest_csum_ = on; }

  /// Where kTxJoin is taken back from when a large frame was dropped since this driver's buffers
  /// can not hold it, all together: what is not joined may well fit. Null: nowhere. The bits
  /// outlive the queue.
  void set_offloads(std::atomic<uint32_t>* offloads) noexcept { offloads_ = offloads; }

  /// Takes frames from the front of the burst as long as there are buffers, releases them, and
  /// leaves the rest. A frame that no buffer of this driver can hold is dropped and counted.
  void send(Burst& burst, QueueCounters& counters) noexcept {
    size_t done = 0;
    Sent sent;
    const size_t count = burst.size();
    ring_.view().refresh();
    missed_ = false;
    begin(static_cast<uint32_t>(std::min<size_t>(count, kMaxPosted)));
    while (done < count) {
      done += put_singles(burst, done, sent);
      if (done == count) break;
      const Packet& packet = burst[done];
      const Outcome outcome = put(packet, count - done);
      if (outcome.kind == Outcome::kNoRoom) break;
      ++done;
      if (outcome.kind == Outcome::kSent) {
        sent.add(packet);
      } else {
        counters.drops.add(outcome.reason);
        if (outcome.reason == DropReason::receiver_too_small) note_too_small(packet);
      }
    }
    burst.release_front(done);
    counters.packets.add(sent.packets);
    counters.bytes.add(sent.bytes);
    if (stable_) {
      look_at_posted();
    } else if (ring_.view().behind_iommu()) {
      look_ahead();
    }
  }

  /// Behind an IOMMU: looks at the buffers that the next packets will want, so that they are known
  /// in time. `send` does it; whoever changes the mappings does it for a ring at rest.
  void look_ahead() noexcept {
    ring_.view().refresh();
    std::array<uint16_t, kMaxPosted> next;
    std::array<ring::SingleRun, kMaxPosted> runs;
    const auto known = std::min<uint32_t>(ring_.available(kMaxPosted), kMaxPosted);
    const uint32_t heads = ring_.heads(0, known, next.data());
    ring_.singles(next.data(), heads, MemoryAccess::kWrite, runs.data());
    for (uint32_t i = 0; i < heads; ++i) {
      if (runs[i].size == 0) (void)measure(next[i]);
    }
  }

  /// True when the last `send` left packets because the next buffer's address is not known yet.
  [[nodiscard]] bool missed() const noexcept { return missed_; }

  /// Where the next used entry goes; a position for publish().
  [[nodiscard]] uint16_t filled() const noexcept { return ring_.filled(); }

  /// Shows what was sent, as far as `until`; true when the driver wants to be notified.
  [[nodiscard]] bool publish(uint16_t until) noexcept { return ring_.publish(until); }
  [[nodiscard]] bool publish() noexcept { return publish(filled()); }
  /// The same in two steps, with a full fence between them: see SplitDeviceRing::show.
  [[nodiscard]] bool show(uint16_t until) noexcept { return ring_.show(until); }
  [[nodiscard]] bool notification_wanted() noexcept { return ring_.notification_wanted(); }

 private:
  static constexpr uint32_t kMaxPosted = 32;              // looked at for a burst
  static constexpr uint32_t kMostKnown = 2 * kMaxPosted;  // for it and the next one
  static constexpr size_t kPayloadAhead = 2;              // packets whose payload is on its way
  static constexpr uint32_t kMaxBuffers = 512;  // a frame of 64 KiB in buffers of 128 bytes
  /// Descriptors of chains looked at for one frame. A driver that strings empty ones together pays
  /// with its buffers, not with the senders' time.
  static constexpr uint32_t kMaxWalked = 2048;

  /// Buffers known and not taken yet, in ring order: [next, end) were looked at, and of those in
  /// [end, known) the descriptors are on their way. A run of size 0: its chain needs a walk.
  struct Posted {
    std::array<ring::SingleRun, kMostKnown> runs;
    std::array<uint16_t, kMostKnown> heads;
    uint32_t next = 0;
    uint32_t end = 0;
    uint32_t known = 0;

    /// Moves what is left to the front.
    void compact() noexcept {
      if (next == 0) return;
      std::copy(runs.begin() + next, runs.begin() + end, runs.begin());
      std::copy(heads.begin() + next, heads.begin() + known, heads.begin());
      end -= next;
      known -= next;
      next = 0;
    }
  };

  /// One of several for a frame.
  struct Buffer {
    ring::SingleRun run;
    uint16_t head;
  };

  struct Sent {
    size_t packets = 0;
    uint64_t bytes = 0;
    void add(const Packet& packet) noexcept {
      ++packets;
      bytes += packet.size();
    }
  };

  struct Outcome {
    enum Kind : uint8_t { kSent, kNoRoom, kDropped } kind;
    DropReason reason{};
  };

  // The buffers of a burst are found one burst ahead, so that no step waits for its cache lines:
  // the heads when the burst before it begins, the descriptors when that ends, and then the first
  // lines of the buffers are on their way until the burst itself comes.

  void begin(uint32_t wanted) noexcept {
    if (!stable_) posted_.next = posted_.end = posted_.known = 0;  // good for one turn only
    posted_.compact();
    if (posted_.end < wanted) {
      find_posted(wanted);
      look_at_posted();
    }
    if (stable_) find_posted(posted_.end + kMaxPosted);
  }

  /// Reads heads until `wanted` buffers are known, or as many as there are.
  void find_posted(uint32_t wanted) noexcept {
    wanted = std::min(wanted, kMostKnown);
    if (posted_.known >= wanted) return;
    const uint32_t there = std::min(ring_.available(wanted), wanted);
    if (there <= posted_.known) return;
    posted_.known +=
        ring_.heads(posted_.known, there - posted_.known, &posted_.heads[posted_.known]);
  }

  /// Looks at the buffers that are known.
  void look_at_posted() noexcept {
    if (posted_.known == posted_.end) return;
    ring_.singles(&posted_.heads[posted_.end], posted_.known - posted_.end, MemoryAccess::kWrite,
                  &posted_.runs[posted_.end]);
    posted_.end = posted_.known;
  }

  void prepare(size_t wanted) noexcept {
    posted_.compact();
    find_posted(static_cast<uint32_t>(std::min<size_t>(wanted, kMaxPosted)));
    look_at_posted();
  }

  /// The common frames: each in one buffer that is one run of bytes. Returns for how many in a row
  /// that was so.
  uint32_t put_singles(const Burst& burst, size_t from, Sent& sent) noexcept {
    const size_t left = burst.size() - from;
    const uint32_t ready = std::min(posted_.end - posted_.next, kMaxPosted);
    const auto most = static_cast<uint32_t>(std::min<size_t>(left, ready));
    std::array<uint32_t, kMaxPosted> written;
    const uint32_t hdr_size = hdr_size_;
    const ring::SingleRun* const runs = posted_.runs.data() + posted_.next;
    Packet* const* const packets = burst.packets().data() + from;
    uint64_t bytes = 0;
    uint32_t count = 0;
    for (; count < most; ++count) {
      const Packet& packet = *packets[count];
      const ring::SingleRun run = runs[count];
      const uint32_t total = hdr_size + packet.size();
      if (run.size < total) break;
      if (count + kPayloadAhead < left) prefetch_payload(*packets[count + kPayloadAhead]);
      write_single(packet, run.data, hdr_size);
      written[count] = total;
      bytes += total;
    }
    sent.packets += count;
    sent.bytes += bytes - uint64_t{count} * hdr_size;
    ring_.put_used(posted_.heads.data() + posted_.next, written.data(), count);
    ring_.take(count);
    posted_.next += count;
    return count;
  }

  void prefetch_payload(const Packet& packet) noexcept {
    if (packet.tail().empty()) return;
    const Segment& first = packet.tail()[0];
    for (uint32_t at = 0; at < std::min<uint32_t>(first.len, 512); at += 64) {
      ring_.access().prefetch_read(first.data + at);
    }
  }

  /// Any other frame, or one for which no buffer was looked at.
  Outcome put(const Packet& packet, size_t wanted) noexcept {
    if (posted_.next == posted_.end) {
      prepare(wanted);
      if (posted_.next == posted_.end) return {Outcome::kNoRoom};
    }
    if (posted_.runs[posted_.next].size >= hdr_size_ + packet.size()) return put_one(packet);
    return mergeable_ ? put_merged(packet) : put_chain(packet);
  }

  Outcome put_one(const Packet& packet) noexcept {
    write_single(packet, posted_.runs[posted_.next].data, hdr_size_);
    finish(hdr_size_ + packet.size());
    return {Outcome::kSent};
  }

  void write_single(const Packet& packet, std::byte* to, uint32_t hdr_size) noexcept {
    auto& access = ring_.access();
    if (hdr_size == spec::kNetHdrSize && is_plain(packet.meta)) [[likely]] {
      static constexpr spec::virtio_net_hdr kPlain{0, 0, 0, 0, 0, 0, 1};
      access.copy_out(to, &kPlain, spec::kNetHdrSize);
    } else {
      const spec::virtio_net_hdr_v1_hash hdr = any_header_of(packet);
      access.copy_out(to, &hdr, hdr_size);
    }
    access.copy_out(to + hdr_size, packet.head(), packet.head_size());
    uint32_t at = hdr_size + packet.head_size();
    for (const Segment& segment : packet.tail()) {
      access.copy_out(to + at, segment.data, segment.len);
      at += segment.len;
    }
    ring_.view().note_write(to, at);
  }

  [[nodiscard]] spec::virtio_net_hdr header_of(const Packet& packet) const noexcept {
    if (is_plain(packet.meta)) [[likely]] {
      spec::virtio_net_hdr hdr{};
      hdr.num_buffers = 1;
      return hdr;
    }
    spec::virtio_net_hdr hdr = to_header(packet.meta);
    if (!guest_csum_) hdr.flags = 0;  // 5.1.6.4.1
    return hdr;
  }

  [[gnu::cold, gnu::noinline]] void note_too_small(const Packet& packet) noexcept {
    if (offloads_ == nullptr || packet.meta.gso == GsoType::kNone) return;
    offloads_->fetch_and(~kTxJoin, std::memory_order_relaxed);
  }

  Outcome wait_for_address() noexcept {
    missed_ = true;
    return {Outcome::kNoRoom};
  }

  /// The header whose first hdr_size_ bytes go before the frame.
  [[nodiscard]] spec::virtio_net_hdr_v1_hash any_header_of(const Packet& packet) const noexcept {
    return {header_of(packet), packet.meta.hash_report == 0 ? 0 : packet.meta.hash,
            packet.meta.hash_report, 0};
  }

  /// Takes the next posted buffer, into which `written` bytes went.
  void finish(uint32_t written) noexcept {
    ring_.put_used(posted_.heads[posted_.next++], written);
    ring_.take(1);
  }

  /// Reads a packet front to back in pieces of any size.
  class Reader {
   public:
    Reader(const Packet& packet, const spec::virtio_net_hdr_v1_hash& hdr, uint32_t hdr_size)
        : packet_(packet), hdr_(hdr), hdr_size_(hdr_size) {}

    [[nodiscard]] uint32_t left() const noexcept { return hdr_size_ + packet_.size() - offset_; }

    /// Copies the next up to `len` bytes to `to`; returns how many.
    uint32_t copy(Ring& ring, std::byte* to, uint32_t len) noexcept {
      uint32_t done = 0;
      while (done < len && left() != 0) {
        const auto [from, run] = at();
        const uint32_t n = std::min(run, len - done);
        ring.access().copy_out(to + done, from, n);
        done += n;
        advance(n);
      }
      ring.view().note_write(to, done);
      return done;
    }

   private:
    struct Run {
      const std::byte* data;
      uint32_t len;
    };
    Run at() const noexcept {
      if (offset_ < hdr_size_) {
        return {reinterpret_cast<const std::byte*>(&hdr_) + offset_, hdr_size_ - offset_};
      }
      const uint32_t in_frame = offset_ - hdr_size_;
      if (in_frame < packet_.head_size()) {
        return {packet_.head() + in_frame, packet_.head_size() - in_frame};
      }
      const Segment& segment = packet_.tail()[segment_];
      return {segment.data + in_segment_, segment.len - in_segment_};
    }
    void advance(uint32_t n) noexcept {
      if (offset_ >= hdr_size_ + packet_.head_size()) {
        in_segment_ += n;
        if (in_segment_ == packet_.tail()[segment_].len) {
          ++segment_;
          in_segment_ = 0;
        }
      }
      offset_ += n;
    }

    const Packet& packet_;
    const spec::virtio_net_hdr_v1_hash& hdr_;
    uint32_t hdr_size_;
    uint32_t offset_ = 0;
    size_t segment_ = 0;
    uint32_t in_segment_ = 0;
  };

  /// Copies into the chain at `head` until it or the packet ends.
  struct Filled {
    uint32_t bytes = 0;
    ring::ChainStatus status = ring::ChainStatus::kOk;
  };
  Filled fill(uint16_t head, Reader& reader) noexcept {
    Filled filled;
    filled.status = ring_.walk(head, MemoryAccess::kWrite, [&](std::byte* data, uint32_t len) {
      filled.bytes += reader.copy(ring_, data, len);
      return reader.left() != 0;
    });
    if (filled.status == ring::ChainStatus::kStopped) filled.status = ring::ChainStatus::kOk;
    return filled;
  }

  /// A frame over one chain of several pieces, without MRG_RXBUF (5.1.6.3.1).
  Outcome put_chain(const Packet& packet) noexcept {
    const spec::virtio_net_hdr_v1_hash hdr = any_header_of(packet);
    Reader reader(packet, hdr, hdr_size_);
    const uint16_t head = posted_.heads[posted_.next];
    const Filled filled = fill(head, reader);
    if (filled.status == ring::ChainStatus::kMiss) return wait_for_address();
    if (filled.status != ring::ChainStatus::kOk) {
      finish(0);
      return {Outcome::kDropped, DropReason::receiver_bad_buffer};
    }
    // The chain stays posted: the next frame may be small enough for it.
    if (reader.left() != 0) return {Outcome::kDropped, DropReason::receiver_too_small};
    finish(filled.bytes);
    return {Outcome::kSent};
  }

  /// A frame over as many chains as it takes (5.1.6.3.1, 5.1.6.4): num_buffers tells how many.
  /// Nothing is taken from the ring before the whole frame has found room.
  Outcome put_merged(const Packet& packet) noexcept {
    const uint32_t total = hdr_size_ + packet.size();
    look_at_posted();  // a head is read once
    std::array<Buffer, kMaxBuffers> chains;
    const uint32_t walked_before = ring_.walked();
    uint64_t capacity = 0;
    uint32_t count = 0;
    while (capacity < total) {
      if (count == std::min<uint32_t>(kMaxBuffers, ring_.size())) {
        return {Outcome::kDropped, DropReason::receiver_too_small};
      }
      if (ring_.available(count + 1) <= count || !buffer_at(count, chains[count])) {
        return {Outcome::kNoRoom};
      }
      const Buffer& chain = chains[count];
      const Capacity room = chain.run.size != 0 ? Capacity{chain.run.size} : measure(chain.head);
      if (room.status == ring::ChainStatus::kMiss) return wait_for_address();
      ++count;
      if (room.status != ring::ChainStatus::kOk || ring_.walked() - walked_before > kMaxWalked) {
        discard(chains.data(), count);
        return {Outcome::kDropped, DropReason::receiver_bad_buffer};
      }
      capacity += room.bytes;
    }
    spec::virtio_net_hdr_v1_hash hdr = any_header_of(packet);
    hdr.hdr.num_buffers = static_cast<uint16_t>(count);
    Reader reader(packet, hdr, hdr_size_);
    for (uint32_t i = 0; i < count; ++i) {
      ring::SingleRun& run = chains[i].run;
      run.size = run.size != 0 ? reader.copy(ring_, run.data, run.size)
                               : fill(chains[i].head, reader).bytes;
    }
    // A hostile driver may have shrunk a chain since it was measured.
    if (reader.left() != 0) {
      discard(chains.data(), count);
      return {Outcome::kDropped, DropReason::receiver_bad_buffer};
    }
    give_back(chains.data(), count);
    return {Outcome::kSent};
  }

  /// The chain `ahead` after the next one. False on a broken ring.
  bool buffer_at(uint32_t ahead, Buffer& out) noexcept {
    if (posted_.next + ahead < posted_.end) {
      out = {posted_.runs[posted_.next + ahead], posted_.heads[posted_.next + ahead]};
      return true;
    }
    if (!ring_.head(ahead, out.head)) return false;
    out.run = ring_.single(out.head, MemoryAccess::kWrite);
    if (out.run.size != 0) ring::prefetch_run(ring_.access(), out.run, MemoryAccess::kWrite);
    return true;
  }

  struct Capacity {
    uint64_t bytes = 0;
    ring::ChainStatus status = ring::ChainStatus::kOk;
  };
  Capacity measure(uint16_t head) noexcept {
    Capacity capacity;
    capacity.status = ring_.walk(head, MemoryAccess::kWrite, [&](std::byte*, uint32_t len) {
      capacity.bytes += len;
      return true;
    });
    return capacity;
  }

  /// Takes the next `count` chains and returns each as if nothing had been written to it.
  void discard(Buffer* chains, uint32_t count) noexcept {
    for (uint32_t i = 0; i < count; ++i) chains[i].run.size = 0;
    give_back(chains, count);
  }

  /// Takes the next `count` chains and returns each with its run's size as the bytes written.
  void give_back(const Buffer* chains, uint32_t count) noexcept {
    for (uint32_t i = 0; i < count; ++i) ring_.put_used(chains[i].head, chains[i].run.size);
    ring_.take(count);
    posted_.next += count;
    posted_.end = std::max(posted_.end, posted_.next);
    posted_.known = std::max(posted_.known, posted_.next);
    if (posted_.next == posted_.known) posted_.next = posted_.end = posted_.known = 0;
  }

  Ring ring_;
  uint32_t hdr_size_;
  bool mergeable_;
  bool guest_csum_;
  bool missed_ = false;
  bool stable_;
  Posted posted_;
  std::atomic<uint32_t>* offloads_ = nullptr;
};

}  // namespace pollux::virtio
