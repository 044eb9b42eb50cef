// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "apps/traffic/payload.hpp"
#include "pollux/base/result.hpp"
#include "pollux/packet/pool.hpp"

namespace pollux::apps {

/// Frames without FCS, as ports carry them: the smallest is 60 bytes (64 on a wire).
inline constexpr uint32_t kMinFrame = 60;
inline constexpr uint32_t kMaxFrame = 65535;
/// Ethernet, IPv4 and UDP headers.
inline constexpr size_t kHeaders = 42;

/// Frame sizes in proportion, e.g. "64", "64:7,570:4,1518:1".
struct SizeMix {
  std::vector<uint32_t> sizes{64};  ///< each as often as its weight says

  /// Errors: kInvalidArgument, saying what can not be read.
  [[nodiscard]] static Result<SizeMix> parse(std::string_view text);
};

struct PatternConfig {
  SizeMix mix;
  uint32_t flows = 1;  ///< each with its own source MAC, source IP and UDP ports
  std::array<uint8_t, 6> src{0x02, 0, 0x0a, 0, 0, 1};  ///< of the first flow; others count up
  std::array<uint8_t, 6> dst{0x02, 0, 0x0b, 0, 0, 1};
  uint16_t stream = 0;
  uint64_t seed = 1;

  /// True if some flow has `dst` as its source: a switch would then look for it at the wrong port.
  [[nodiscard]] bool sends_to_itself() const;
};

/// Makes UDP over IPv4 frames with a Stamp and a Filling, all lengths and checksums right. Frame n
/// of a pattern is always the same but for its time. One thread.
class Pattern {
 public:
  explicit Pattern(const PatternConfig& config);

  /// Writes frame `sequence` into an empty packet; false when the pool has no buffers.
  [[nodiscard]] bool make(Packet& packet, PoolCache& cache, uint64_t sequence,
                          uint64_t time) const noexcept;

  [[nodiscard]] uint32_t size_of(uint64_t sequence) const noexcept {
    return mix_[sequence % mix_.size()];
  }

 private:
  struct Flow {
    std::array<uint8_t, kHeaders> headers;  // lengths and checksums zero
    uint32_t ip_sum;                        // of the words of the IP header
    uint32_t udp_sum;                       // of the pseudo header and the ports
  };
  static Flow make_flow(const PatternConfig& config, uint32_t number);

  std::vector<uint32_t> mix_;
  std::vector<Flow> flows_;
  Filling filling_;
  uint16_t stream_;
};

}  // namespace pollux::apps
