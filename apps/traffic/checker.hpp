// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "apps/traffic/histogram.hpp"
#include "apps/traffic/payload.hpp"
#include "pollux/packet/packet.hpp"

namespace pollux::apps {

/// Follows the sequence numbers of one stream, in a window that forgives late frames.
class SequenceTracker {
 public:
  enum class Verdict { kInOrder, kLate, kDuplicate };

  /// Takes the next number that arrived. The first one begins the count.
  Verdict take(uint64_t sequence);

  [[nodiscard]] uint64_t unique() const { return unique_; }
  /// Numbers between the first and the highest one that never came (so far).
  [[nodiscard]] uint64_t missing() const { return next_ - first_ - unique_in_range_; }

 private:
  static constexpr size_t kWindow = 1 << 16;

  void mark(uint64_t sequence, bool seen) { seen_[sequence % kWindow] = seen; }

  std::vector<bool> seen_ = std::vector<bool>(kWindow);
  bool begun_ = false;
  uint64_t first_ = 0;
  uint64_t next_ = 0;  // one after the highest
  uint64_t unique_ = 0;
  uint64_t unique_in_range_ = 0;
};

struct CheckResults {
  uint64_t frames = 0;  ///< with a Stamp, good or not
  uint64_t bytes = 0;
  uint64_t unique = 0;     ///< good ones, each counted once
  uint64_t reordered = 0;  ///< came after a later one
  uint64_t duplicates = 0;
  uint64_t corrupt = 0;  ///< a wrong length, checksum or filling
  uint64_t foreign = 0;  ///< frames of somebody else, not looked at
};

/// Checks what `Pattern` made: length, IP and UDP checksums, every byte of the filling, sequence.
/// What it does not check are the MAC addresses, which a forwarder may rewrite. One thread.
class Checker {
 public:
  explicit Checker(uint64_t seed) : filling_(seed) {}

  /// `now`: CLOCK_MONOTONIC in nanoseconds.
  void take(const Packet& packet, uint64_t now) noexcept;

  [[nodiscard]] const CheckResults& results() const { return results_; }
  /// Frames missing between the first and last of each stream.
  [[nodiscard]] uint64_t missing() const;
  [[nodiscard]] const Histogram& latency() const { return latency_; }

 private:
  bool intact(const Packet& packet, const uint8_t* headers, const Stamp& stamp) const noexcept;
  bool filled_right(const Packet& packet, uint64_t sequence) const noexcept;

  Filling filling_;
  CheckResults results_;
  Histogram latency_;
  std::map<uint16_t, SequenceTracker> streams_;
  uint16_t last_stream_ = 0;
  SequenceTracker* last_tracker_ = nullptr;
};

}  // namespace pollux::apps
