// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "apps/traffic/pattern.hpp"
#include "pollux/base/result.hpp"
#include "pollux/packet/burst.hpp"

namespace pollux::apps {

/// Where `gen` takes its frames from: a pattern, or the frames of a capture file in turn.
class Source {
 public:
  virtual ~Source() = default;
  /// Writes frame `sequence` into an empty packet; false when the pool has no buffers.
  [[nodiscard]] virtual bool make(Packet& packet, PoolCache& cache, uint64_t sequence,
                                  uint64_t time) const noexcept = 0;
};

class PatternSource final : public Source {
 public:
  explicit PatternSource(const PatternConfig& config) : pattern_(config) {}
  [[nodiscard]] bool make(Packet& packet, PoolCache& cache, uint64_t sequence,
                          uint64_t time) const noexcept override {
    return pattern_.make(packet, cache, sequence, time);
  }

 private:
  Pattern pattern_;
};

/// The frames of a pcap or pcapng file, held in memory.
class CaptureFrames final : public Source {
 public:
  /// Errors: as CaptureReader, and kInvalidArgument for frames that can not be sent, naming the
  /// first one.
  [[nodiscard]] static Result<CaptureFrames> load(const std::string& path);

  [[nodiscard]] bool make(Packet& packet, PoolCache& cache, uint64_t sequence,
                          uint64_t time) const noexcept override;
  [[nodiscard]] size_t count() const { return frames_.size(); }
  /// True when `packet` is frame `sequence`, byte for byte.
  [[nodiscard]] bool equals(const Packet& packet, uint64_t sequence) const noexcept;

 private:
  std::vector<std::vector<std::byte>> frames_;
};

/// Compares what arrives with the frames of a capture, in order.
class CaptureChecker {
 public:
  explicit CaptureChecker(const CaptureFrames& frames) : frames_(frames) {}

  /// A frame that is not the expected one is looked for among the next kLookAhead: those before
  /// it are then lost. Found nowhere, it is corrupt and stands for the expected one.
  void take(const Packet& packet) noexcept;

  [[nodiscard]] uint64_t equal() const { return equal_; }
  [[nodiscard]] uint64_t corrupt() const { return corrupt_; }
  [[nodiscard]] uint64_t skipped() const { return skipped_; }

 private:
  static constexpr uint64_t kLookAhead = 1024;

  const CaptureFrames& frames_;
  uint64_t next_ = 0;
  uint64_t equal_ = 0;
  uint64_t corrupt_ = 0;
  uint64_t skipped_ = 0;
};

}  // namespace pollux::apps
