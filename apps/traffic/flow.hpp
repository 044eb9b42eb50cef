// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "apps/traffic/runtime.hpp"
#include "apps/traffic/source.hpp"
#include "pollux/packet/burst.hpp"

namespace pollux::apps {

/// Sends a Source's frames to one port, keeping a rate and a count. What the port does not take at
/// once is kept and tried again: nothing is dropped here.
class Sender {
 public:
  struct Limits {
    std::optional<uint64_t> count;  ///< frames in all
    double rate = 0;                ///< frames a second; 0: as fast as the port takes them
    uint32_t burst = 32;            ///< frames at a time, at most Burst::kCapacity
  };

  Sender(PoolCache& cache, const TxQueue& queue, const Source& source, const Limits& limits)
      : queue_(queue), source_(source), limits_(limits), pending_(cache) {}

  /// One turn: makes at most `most` frames, and sends them and what was left. Returns how many the
  /// port took. Call flush() behind the receivers' complete().
  size_t turn(uint64_t now, uint64_t most) noexcept;
  void flush() noexcept {
    if (queue_.flush != nullptr) queue_.flush(queue_.self);
  }

  [[nodiscard]] uint64_t sent() const { return made_ - pending_.size(); }
  /// Those sent, and those that the port has not taken yet.
  [[nodiscard]] uint64_t made() const { return made_; }
  [[nodiscard]] bool done() const {
    return limits_.count && made_ >= *limits_.count && pending_.empty();
  }

 private:
  [[nodiscard]] uint64_t due(uint64_t now) noexcept;

  TxQueue queue_;
  const Source& source_;
  Limits limits_;
  Burst pending_;
  uint64_t made_ = 0;
  uint64_t rate_start_ = 0;  // by the clock; 0: not begun
  uint64_t rate_made_ = 0;   // made_ at that time
};

/// Polls all queues of a port once and shows each packet to `look(const Packet&)`. Returns how
/// many there were.
template <typename Look>
size_t receive_turn(PoolCache& cache, const DrivenPort& port, Look&& look) noexcept {
  size_t count = 0;
  for (const RxQueue& queue : port.rx) {
    {
      Burst burst(cache);
      queue.poll(queue.self, burst);
      count += burst.size();
      for (const Packet* packet : burst.packets()) look(*packet);
    }
    if (queue.complete != nullptr) queue.complete(queue.self);
  }
  return count;
}

/// Sends one broadcast frame from `mac`, so that switches learn where that address is.
void announce(PoolCache& cache, const TxQueue& queue, const std::array<uint8_t, 6>& mac) noexcept;
/// True for such a frame, whatever addresses it has got on its way.
[[nodiscard]] bool is_announcement(const Packet& packet) noexcept;

/// One line a second on standard error, with the rates since the last one.
class LiveLine {
 public:
  explicit LiveLine(uint64_t now) : start_(now), last_(now) {}

  struct Totals {
    uint64_t sent = 0;
    uint64_t sent_bytes = 0;
    uint64_t received = 0;
    uint64_t received_bytes = 0;
    uint64_t lost = 0;
    uint64_t bad = 0;
  };
  /// True when a second has passed since the last line.
  [[nodiscard]] bool due(uint64_t now) const { return now - last_ >= 1'000'000'000; }
  void print(uint64_t now, const Totals& totals, bool sends, bool receives);

 private:
  uint64_t start_;
  uint64_t last_;
  Totals before_;
};

}  // namespace pollux::apps
