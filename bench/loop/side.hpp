// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bench/loop/attachment.hpp"
#include "pollux/mem/shared_access.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/ring/driver_ring.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/virtio/shared_window.hpp"

namespace pollux::bench {

/// The pool's buffers that lie in no ring, and chains of those that do.
class Buffers {
 public:
  static constexpr BufferIndex kNone = ~BufferIndex{0};

  explicit Buffers(const Pool& pool) : pool_(pool), next_(pool.buffer_count(), kNone) {
    for (BufferIndex i = pool.buffer_count(); i != 0; --i) free_.push_back(i - 1);
  }

  /// There is always one: the pool was made for all rings to be full.
  [[nodiscard]] BufferIndex take() noexcept {
    const BufferIndex buffer = free_.back();
    free_.pop_back();
    return buffer;
  }
  /// The first of a chain, and all behind it.
  void give_back(BufferIndex buffer) noexcept {
    while (buffer != kNone) {
      free_.push_back(buffer);
      buffer = std::exchange(next_[buffer], kNone);
    }
  }
  void chain(BufferIndex before, BufferIndex after) noexcept { next_[before] = after; }

  /// Where a buffer begins, for both directions: the first of a frame with its net header.
  [[nodiscard]] std::byte* start(BufferIndex buffer) const noexcept {
    return pool_.buffer_data(buffer) - spec::kNetHdrSize;
  }
  /// Bytes from there on.
  [[nodiscard]] uint32_t size() const noexcept { return pool_.buffer_size() + spec::kNetHdrSize; }

 private:
  const Pool& pool_;
  std::vector<BufferIndex> free_;
  std::vector<BufferIndex> next_;
};

/// A part of a frame: a buffer and how much of it.
struct Piece {
  BufferIndex buffer;
  uint32_t len;
};

/// One of the loop's two front ends: a receiveq whose buffers go out, as they are, through the
/// other side's transmitq. No copies, no allocation. One thread.
template <typename Ring>
class Side {
 public:
  /// Buffers on their way at once: more than a frame has.
  static constexpr uint32_t kFetch = 128;
  static constexpr uint32_t kBurst = 32;

  /// `attachment` and `buffers` outlive the side.
  Side(Attachment& attachment, Buffers& buffers, Ring rx, Ring tx)
      : attachment_(attachment),
        buffers_(buffers),
        window_(attachment.memory().pool_window()),
        rx_(std::move(rx)),
        tx_(std::move(tx)),
        posted_(rx_.size()),
        sent_(tx_.size()) {}

  [[nodiscard]] bool broken() const noexcept { return rx_.broken() || tx_.broken(); }
  /// What was negotiated.
  [[nodiscard]] uint64_t features() const { return attachment_.features(); }
  /// Frames of one buffer that can be sent before the switch has returned any.
  [[nodiscard]] uint32_t room() const noexcept { return tx_.free_descriptors(); }

  /// Fills the receiveq.
  void post() noexcept {
    const uint32_t room = rx_.free_descriptors();
    if (room == 0) return;
    rx_.add_writable(room, [this](size_t, uint16_t id) {
      posted_[id] = buffers_.take();
      return ring::DriverBuffer{address(posted_[id]), buffers_.size()};
    });
  }

  /// What the switch has sent gets buffers of its own; what it has forwarded is free again.
  void reclaim() noexcept {
    std::array<ring::UsedChain, kBurst> used;
    for (size_t count = kBurst; count == kBurst;) {
      count = tx_.poll_used(used.data(), kBurst);
      for (size_t i = 0; i < count; ++i) buffers_.give_back(sent_[used[i].id]);
    }
  }

  /// Looks what has arrived, and asks for its first cache lines.
  void fetch() noexcept {
    std::copy(fetched_.begin() + begin_, fetched_.begin() + end_, fetched_.begin());
    end_ -= begin_;
    begin_ = 0;
    std::array<ring::UsedChain, kBurst> used;
    const size_t count = rx_.poll_used(used.data(), std::min(kBurst, kFetch - end_));
    for (size_t i = 0; i < count; ++i) {
      const BufferIndex buffer = posted_[used[i].id];
      __builtin_prefetch(buffers_.start(buffer), 1);
      fetched_[end_++] = {buffer, used[i].len};
    }
  }

  /// The next frame's pieces; empty when there is none, or not all of it yet.
  [[nodiscard]] std::span<const Piece> next() noexcept {
    if (begin_ == end_) return {};
    const uint16_t count = access_.load(&header(fetched_[begin_].buffer).num_buffers);
    if (count == 0 || count > end_ - begin_) return {};
    const std::span<const Piece> pieces(&fetched_[begin_], count);
    begin_ += count;
    return pieces;
  }

  /// Sends frames of one buffer each, and returns how many. The others are dropped; there are none
  /// unless the switch delivers more than it was given.
  uint32_t send_singles(const Piece* frames, uint32_t count) noexcept {
    const size_t sent = tx_.add_readable(count, [=, this](size_t i, uint16_t id) {
      sent_[id] = frames[i].buffer;
      return ring::DriverBuffer{address(frames[i].buffer), frames[i].len};
    });
    for (size_t i = sent; i < count; ++i) buffers_.give_back(frames[i].buffer);
    return static_cast<uint32_t>(sent);
  }

  /// Sends one frame of several.
  void send(std::span<const Piece> pieces) noexcept {
    std::array<ring::DriverBuffer, kFetch> elements;
    for (size_t i = 0; i < pieces.size(); ++i) {
      elements[i] = {address(pieces[i].buffer), pieces[i].len};
      if (i != 0) buffers_.chain(pieces[i - 1].buffer, pieces[i].buffer);
    }
    const uint16_t id = tx_.add(std::span(elements).first(pieces.size()), {});
    if (id == ring::kNoChain) {
      tx_.fail(ring::RingError::chain_length);
    } else {
      sent_[id] = pieces[0].buffer;
    }
  }

  /// Copies a frame into buffers of its own and sends it.
  void send_copy(std::span<const std::byte> frame, const spec::virtio_net_hdr& hdr) noexcept {
    std::array<Piece, kFetch> pieces;
    size_t count = 0;
    size_t at = 0;
    while (at != frame.size()) {
      const BufferIndex buffer = buffers_.take();
      const uint32_t before = count == 0 ? spec::kNetHdrSize : 0;
      const auto len =
          static_cast<uint32_t>(std::min<size_t>(frame.size() - at, buffers_.size() - before));
      if (count == 0) std::memcpy(buffers_.start(buffer), &hdr, spec::kNetHdrSize);
      std::memcpy(buffers_.start(buffer) + before, frame.data() + at, len);
      pieces[count++] = {buffer, before + len};
      at += len;
    }
    send({pieces.data(), count});
  }

  /// Shows the switch what was sent and what was posted.
  void publish() noexcept {
    if (tx_.publish()) attachment_.kick(Attachment::kTransmitq);
    if (rx_.publish()) attachment_.kick(Attachment::kReceiveq);
  }

  [[nodiscard]] spec::virtio_net_hdr& header(BufferIndex buffer) const noexcept {
    return *reinterpret_cast<spec::virtio_net_hdr*>(buffers_.start(buffer));
  }

 private:
  [[nodiscard]] uint64_t address(BufferIndex buffer) const noexcept {
    return window_.device_addr(buffers_.start(buffer));
  }

  Attachment& attachment_;
  Buffers& buffers_;
  virtio::SharedWindow window_;
  Ring rx_;
  Ring tx_;
  SharedAccess access_;
  std::vector<BufferIndex> posted_;  // by chain
  std::vector<BufferIndex> sent_;    // the first of each chain
  uint32_t begin_ = 0;               // fetched_[begin_, end_)
  uint32_t end_ = 0;
  std::array<Piece, kFetch> fetched_;
};

}  // namespace pollux::bench
