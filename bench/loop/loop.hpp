// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "bench/loop/frames.hpp"
#include "bench/loop/side.hpp"
#include "pollux/base/tsc.hpp"

namespace pollux::bench {

/// Counted since the start.
struct Counted {
  std::array<uint64_t, 2> frames{};  ///< that came in on each side
  uint64_t bytes = 0;
  uint64_t busy = 0;  ///< ticks of turns in which something came
};

/// What became of the frames that were on their way at the end.
struct Accounting {
  uint32_t whole = 0;
  uint32_t lost = 0;
  /// Bytes that are not those sent, a frame that was there already, or one too many for the rings.
  uint32_t corrupt = 0;
};

/// Sends on each side what comes in on the other, for ever: nothing is made, copied or lost, so
/// that the rate is that of the slower of switch and loop. One thread.
template <typename Ring>
class Loop {
 public:
  Loop(Side<Ring>& a, Side<Ring>& b, Buffers& buffers, const Traffic& traffic)
      : sides_{&a, &b},
        buffers_(buffers),
        traffic_(traffic),
        varied_(traffic.macs > 1 || traffic.flows > 1) {}

  [[nodiscard]] const Counted& counted() const noexcept { return counted_; }
  [[nodiscard]] bool broken() const noexcept { return sides_[0]->broken() || sides_[1]->broken(); }

  /// Puts the frames on their way.
  void begin() noexcept {
    for (size_t from = 0; from < 2; ++from) {
      for (uint32_t n = 0; n < traffic_.in_flight; ++n) {
        send_new(static_cast<uint32_t>(from) * traffic_.in_flight + n, from);
      }
      sides_[from]->publish();
    }
  }

  /// Lets them run for one turn.
  void turn() noexcept {
    for (size_t from = 0; from < 2; ++from) {
      const uint64_t before = read_tsc();
      if (forward(from)) counted_.busy += read_tsc() - before;
    }
  }

  /// Stops sending, takes what comes in and looks at it. `over(bool came, bool complete)` tells
  /// when that is all. `came`: something has come in since it was asked last; `complete`: none is
  /// missing.
  template <typename Over>
  Accounting collect(Over&& over) {
    Accounting found{.corrupt = surplus_};
    std::vector<bool> seen(size_t{2} * traffic_.in_flight);
    for (bool came = true; !over(came, found.whole == seen.size());) {
      came = false;
      for (size_t at = 0; at < 2; ++at) {
        sides_[at]->fetch();
        for (auto frame = sides_[at]->next(); !frame.empty(); frame = sides_[at]->next()) {
          came = true;
          if (!passed_over(frame, at)) look(frame, seen, found);
        }
      }
    }
    found.lost = static_cast<uint32_t>(std::count(seen.begin(), seen.end(), false));
    return found;
  }

 private:
  [[nodiscard]] uint32_t size_of(uint32_t number) const noexcept {
    return traffic_.sizes[number % traffic_.sizes.size()];
  }

  void send_new(uint32_t number, size_t from) noexcept {
    std::vector<std::byte> frame = make_frame(number, size_of(number));
    address_frame(frame.data(), from);
    sides_[from]->send_copy(frame, header_for(size_of(number)));
  }

  /// The frames that came in on one side go out again on the other. False when there were none.
  bool forward(size_t from) noexcept {
    Side<Ring>& in = *sides_[from];
    Side<Ring>& out = *sides_[1 - from];
    out.reclaim();
    in.fetch();
    std::array<Piece, Side<Ring>::kBurst> singles;
    uint32_t single = 0;
    uint64_t frames = 0;
    uint64_t bytes = 0;
    bool came = false;
    for (auto frame = in.next(); !frame.empty(); frame = in.next()) {
      came = true;
      if (passed_over(frame, from)) continue;
      ++frames;
      bytes += prepare(frame, 1 - from);
      if (frame.size() == 1) [[likely]] {
        singles[single++] = frame[0];
        if (single < singles.size()) continue;
      }
      send_singles(out, singles.data(), std::exchange(single, 0));
      if (frame.size() != 1) out.send(frame);
    }
    if (!came) return false;
    send_singles(out, singles.data(), single);
    in.post();
    out.publish();
    in.publish();
    counted_.frames[from] += frames;
    counted_.bytes += bytes;
    return true;
  }

  [[nodiscard]] std::byte* bytes_of(const Piece& first) const noexcept {
    return buffers_.start(first.buffer) + spec::kNetHdrSize;
  }

  /// Drops a frame that came in on side `at` and is not for it, where there may be such.
  bool passed_over(std::span<const Piece> frame, size_t at) noexcept {
    if (!traffic_.shared || is_for(bytes_of(frame[0]), at, traffic_)) [[likely]]
      return false;
    for (const Piece& piece : frame) buffers_.give_back(piece.buffer);
    return true;
  }

  void send_singles(Side<Ring>& out, const Piece* frames, uint32_t count) noexcept {
    surplus_ += count - out.send_singles(frames, count);
  }

  /// Makes a received frame one to be sent by side `by`; returns its size.
  uint32_t prepare(std::span<const Piece> frame, size_t by) noexcept {
    spec::virtio_net_hdr& hdr = sides_[by]->header(frame[0].buffer);
    // 5.1.6.2.1: num_buffers is 0, and DATA_VALID is the device's to say.
    hdr.num_buffers = 0;
    if (hdr.flags != 0) hdr.flags &= spec::VIRTIO_NET_HDR_F_NEEDS_CSUM;
    if (varied_) address_frame(bytes_of(frame[0]), by);
    uint32_t size = 0;
    for (const Piece& piece : frame) {
      size += piece.len;
      if (traffic_.touch) touch(piece);
    }
    return size - static_cast<uint32_t>(spec::kNetHdrSize);
  }

  /// Addresses of the next pair, and the next flow.
  void address_frame(std::byte* frame, size_t by) noexcept {
    put_macs(frame, by, traffic_.first_mac + next_mac_[by]);
    if (++next_mac_[by] == traffic_.macs) next_mac_[by] = 0;
    put_flow(frame, next_flow_[by]);
    if (++next_flow_[by] == traffic_.flows) next_flow_[by] = 0;
  }

  /// What a guest that sums and fills payload does to cache lines.
  void touch(const Piece& piece) noexcept {
    auto* const words = reinterpret_cast<uint64_t*>(buffers_.start(piece.buffer));
    for (uint32_t i = 2; i < piece.len / sizeof(uint64_t); ++i) {
      const uint64_t word = access_.load(&words[i]);
      sum_ += word;
      access_.store(&words[i], word);
    }
  }

  void look(std::span<const Piece> pieces, std::vector<bool>& seen, Accounting& found) {
    std::vector<std::byte> frame;
    for (const Piece& piece : pieces) {
      const std::byte* from = buffers_.start(piece.buffer);
      const uint32_t skip = &piece == pieces.data() ? spec::kNetHdrSize : 0;
      frame.insert(frame.end(), from + skip, from + piece.len);
      buffers_.give_back(piece.buffer);
    }
    const uint32_t number = number_of(frame);
    if (number >= seen.size() || seen[number] ||
        !is_whole(frame, number, size_of(number), traffic_.flows)) {
      ++found.corrupt;
      return;
    }
    seen[number] = true;
    ++found.whole;
  }

  std::array<Side<Ring>*, 2> sides_;
  Buffers& buffers_;
  Traffic traffic_;
  Counted counted_;
  std::array<uint32_t, 2> next_mac_{};
  std::array<uint32_t, 2> next_flow_{};
  bool varied_;
  uint32_t surplus_ = 0;
  uint64_t sum_ = 0;
  SharedAccess access_;
};

}  // namespace pollux::bench
