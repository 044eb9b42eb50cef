// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "apps/traffic/checker.hpp"
#include "apps/traffic/histogram.hpp"
#include "bench/loop/frames.hpp"
#include "bench/loop/side.hpp"
#include "bench/loop/stamped.hpp"
#include "pollux/base/tsc.hpp"

namespace pollux::bench {

/// What became of all frames so far, but for those that are still on their way.
struct Passage {
  uint64_t sent = 0;
  uint64_t received = 0;  ///< whole, each counted once
  uint64_t late = 0;      ///< of those: came behind a later one
  uint64_t repeated = 0;
  uint64_t corrupt = 0;
};

/// What was seen since begin_window(); times are ticks.
struct Window {
  uint64_t sent = 0;
  apps::Histogram latency;  ///< of frames sent in it, from ring to ring
  uint64_t held_back = 0;   ///< frames that had to wait for the switch before they could be sent
  uint64_t stalls = 0;      ///< times when this program itself stood still
  uint64_t stalled = 0;     ///< how long in all

  void add(const Window& other) noexcept {
    sent += other.sent;
    latency.add(other.latency);
    held_back += other.held_back;
    stalls += other.stalls;
    stalled += other.stalled;
  }
};

/// Sends frames at a steady rate, whatever comes back, in turn from either side to the other, and
/// takes the time that each is on its way: from just before the sender shows it to the switch until
/// it is seen in the other side's receiveq. One thread, one clock, no allocation.
///
/// A frame for which there is no room since the switch has not come round waits, and its time
/// begins when it was due. While this program itself does not run nothing becomes due: the switch
/// has nothing to do with that.
template <typename Ring>
class Paced {
 public:
  /// `interval`: ticks from one frame to the next; `stall`: ticks between two turns from which on
  /// the program is said to have stood still.
  Paced(Side<Ring>& a, Side<Ring>& b, Buffers& buffers, const Traffic& traffic, double interval,
        uint64_t stall)
      : sides_{&a, &b},
        buffers_(buffers),
        traffic_(traffic),
        frames_(traffic),
        interval_(interval),
        stall_(stall) {
    begin_window();
  }

  [[nodiscard]] const Passage& passage() const noexcept { return passage_; }
  [[nodiscard]] const Window& window() const noexcept { return window_; }
  [[nodiscard]] bool broken() const noexcept { return sides_[0]->broken() || sides_[1]->broken(); }

  /// From here on is measured, and the next frame is due now.
  void begin_window() noexcept {
    window_ = Window();
    window_begin_ = due_ = last_turn_ = read_tsc();
    begin_ = due_ - schedule();
    held_ = false;
  }

  /// Takes in what has come, and sends what is due.
  void turn() noexcept {
    mind_the_gap(read_tsc());
    receive(0);
    receive(1);
    send();
  }

  /// Takes in what has come; false when that was nothing.
  bool drain() noexcept {
    const bool first = receive(0);
    return receive(1) || first;
  }

 private:
  /// When the next frame is due, from begin_ on.
  [[nodiscard]] uint64_t schedule() const noexcept {
    return static_cast<uint64_t>(static_cast<double>(passage_.sent) * interval_);
  }

  /// The schedule stands still while the program does.
  void mind_the_gap(uint64_t now) noexcept {
    const uint64_t gap = now - last_turn_;
    last_turn_ = now;
    if (gap < stall_) return;
    begin_ += gap;
    due_ += gap;
    ++window_.stalls;
    window_.stalled += gap;
  }

  bool receive(size_t at) noexcept {
    Side<Ring>& side = *sides_[at];
    side.fetch();
    const uint64_t now = read_tsc();
    bool came = false;
    for (auto frame = side.next(); !frame.empty(); frame = side.next()) {
      came = true;
      take(frame, static_cast<uint16_t>(1 - at), now);
    }
    if (!came) return false;
    side.post();
    side.publish();
    return true;
  }

  /// A frame from side `by` is there.
  void take(std::span<const Piece> pieces, uint16_t by, uint64_t now) noexcept {
    const Piece& piece = pieces[0];
    const std::byte* const bytes = buffers_.start(piece.buffer) + spec::kNetHdrSize;
    const bool ours = !traffic_.shared || is_for(bytes, 1 - size_t{by}, traffic_);
    const auto stamp = pieces.size() == 1 && piece.len > spec::kNetHdrSize
                           ? frames_.read({bytes, piece.len - spec::kNetHdrSize}, by)
                           : std::nullopt;
    for (const Piece& each : pieces) buffers_.give_back(each.buffer);
    if (!ours) return;
    if (!stamp || stamp->sequence >= next_[by]) {
      ++passage_.corrupt;
    } else {
      count(*stamp, by, now);
    }
  }

  void count(const apps::Stamp& stamp, uint16_t by, uint64_t now) noexcept {
    using Verdict = apps::SequenceTracker::Verdict;
    const Verdict verdict = tracker_[by].take(stamp.sequence);
    if (verdict == Verdict::kDuplicate) {
      ++passage_.repeated;
      return;
    }
    if (verdict == Verdict::kLate) ++passage_.late;
    ++passage_.received;
    arrived_[by] = std::max(arrived_[by], stamp.sequence + 1);
    if (stamp.time >= window_begin_) window_.latency.add(now - stamp.time);
  }

  void send() noexcept {
    uint64_t now = read_tsc();
    for (uint32_t n = 0; due_ <= now; ++n) {
      if (n == Side<Ring>::kBurst) return;  // and look first whether something has come
      if (next_[turn_] - arrived_[turn_] >= traffic_.in_flight || !send_one(turn_)) {
        held_ = true;
        return;
      }
      turn_ = static_cast<uint16_t>(1 - turn_);
      due_ = begin_ + schedule();
      now = read_tsc();
    }
    held_ = false;
  }

  /// False when the transmitq has no room.
  bool send_one(uint16_t by) noexcept {
    Side<Ring>& side = *sides_[by];
    side.reclaim();
    if (side.room() == 0) return false;
    const BufferIndex buffer = buffers_.take();
    std::byte* const start = buffers_.start(buffer);
    std::byte* const frame = start + spec::kNetHdrSize;
    const uint64_t number = next_[by]++;
    const spec::virtio_net_hdr hdr{};
    std::memcpy(start, &hdr, spec::kNetHdrSize);
    const uint32_t size = frames_.write(frame, by, number);
    const uint64_t time = held_ ? due_ : read_tsc();
    StampedFrames::stamp(frame, by, number, time);
    const Piece piece{buffer, size + static_cast<uint32_t>(spec::kNetHdrSize)};
    side.send_singles(&piece, 1);
    side.publish();
    ++passage_.sent;
    if (time >= window_begin_) ++window_.sent;
    if (held_) ++window_.held_back;
    return true;
  }

  std::array<Side<Ring>*, 2> sides_;
  Buffers& buffers_;
  Traffic traffic_;
  StampedFrames frames_;
  double interval_;
  uint64_t stall_;
  Passage passage_;
  Window window_;
  uint64_t window_begin_ = 0;
  uint64_t begin_ = 0;      // of the schedule: frame n is due n intervals later
  uint64_t due_ = 0;        // when the next one is
  uint64_t last_turn_ = 0;  // when it began
  bool held_ = false;       // the frame that is due waits for room
  uint16_t turn_ = 0;       // which side is to send
  std::array<uint64_t, 2> next_{};
  std::array<uint64_t, 2> arrived_{};  // one behind the last number that has come
  std::array<apps::SequenceTracker, 2> tracker_;
};

}  // namespace pollux::bench
