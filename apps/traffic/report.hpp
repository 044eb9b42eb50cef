// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/traffic/histogram.hpp"
#include "pollux/engine/engine.hpp"

namespace pollux::apps {

/// What `gen` and `sink` found out, for table and JSON.
struct TrafficReport {
  double seconds = 0;  ///< from the first to the last frame
  std::optional<uint64_t> sent;
  uint64_t sent_bytes = 0;
  std::optional<uint64_t> received;  ///< nothing: nobody listened
  uint64_t received_bytes = 0;
  uint64_t lost = 0;
  uint64_t reordered = 0;
  uint64_t duplicates = 0;
  uint64_t corrupt = 0;
  uint64_t foreign = 0;
  std::optional<uint64_t> capture_frames;  ///< compared with a capture file of so many frames
  uint64_t window = 0;
  Histogram latency;
  std::vector<PortStats> ports;

  /// Every frame received was whole and right, once, and none was lost where none may be.
  [[nodiscard]] bool good() const {
    return corrupt == 0 && duplicates == 0 && (window == 0 || lost == 0);
  }
};

[[nodiscard]] std::string to_text(const TrafficReport& report);
/// One line.
[[nodiscard]] std::string to_json(const TrafficReport& report);

}  // namespace pollux::apps
