// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace pollux::apps {

/// Counts values by size in buckets that are at most 1/32 of their value wide: every percentile is
/// right to 3 %, from 1 ns to hours, in 16 KiB. One thread.
class Histogram {
 public:
  void add(uint64_t value, uint64_t times = 1) noexcept {
    counts_[bucket_of(value)] += times;
    total_ += times;
    sum_ += value * times;
    most_ = std::max(most_, value);
    least_ = std::min(least_, value);
  }

  /// Counts all that `other` has counted.
  void add(const Histogram& other) noexcept {
    for (size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
    total_ += other.total_;
    sum_ += other.sum_;
    most_ = std::max(most_, other.most_);
    least_ = std::min(least_, other.least_);
  }

  [[nodiscard]] uint64_t total() const noexcept { return total_; }
  [[nodiscard]] uint64_t max() const noexcept { return most_; }
  [[nodiscard]] uint64_t min() const noexcept { return total_ == 0 ? 0 : least_; }
  [[nodiscard]] uint64_t mean() const noexcept { return total_ == 0 ? 0 : sum_ / total_; }

  /// The value that a `share` (0 to 1) of all values does not exceed; 0 when there is none.
  [[nodiscard]] uint64_t percentile(double share) const noexcept {
    if (total_ == 0) return 0;
    const auto wanted = std::max<uint64_t>(
        1, static_cast<uint64_t>(std::llround(share * static_cast<double>(total_))));
    uint64_t seen = 0;
    for (size_t i = 0; i < kBuckets; ++i) {
      seen += counts_[i];
      if (seen >= wanted) return std::min(last_of(i), most_);
    }
    return most_;
  }

  void clear() noexcept { *this = Histogram(); }

 private:
  // 2^kSubBits buckets for each power of two; the values below 2^kSubBits have one each.
  static constexpr unsigned kSubBits = 5;
  static constexpr size_t kSub = size_t{1} << kSubBits;
  static constexpr size_t kBuckets = (64 - kSubBits + 1) * kSub;

  static constexpr size_t bucket_of(uint64_t value) noexcept {
    const unsigned width = static_cast<unsigned>(std::bit_width(value));
    if (width <= kSubBits) return value;
    const unsigned shift = width - kSubBits - 1;
    return (size_t{shift} + 1) * kSub + ((value >> shift) - kSub);
  }
  static constexpr uint64_t last_of(size_t bucket) noexcept {
    if (bucket < kSub) return bucket;
    const size_t shift = bucket / kSub - 1;
    return ((uint64_t{kSub} + bucket % kSub + 1) << shift) - 1;
  }

  std::array<uint64_t, kBuckets> counts_{};
  uint64_t total_ = 0;
  uint64_t sum_ = 0;
  uint64_t most_ = 0;
  uint64_t least_ = ~uint64_t{0};
};

}  // namespace pollux::apps
