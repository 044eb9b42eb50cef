// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pollux::control {

/// One thing that was looked at.
struct Finding {
  enum class Level {
    kOk,
    kWarning,  ///< Pollux works without, but slower or with less
    kProblem,  ///< nothing works without
  };
  std::string subject;  ///< "huge pages"
  Level level = Level::kOk;
  std::string found;   ///< what there is
  std::string advice;  ///< what to do; empty when there is nothing to do
};

struct DoctorConfig {
  /// Put before /proc, /sys and /dev; for tests.
  std::string root;
  /// Path of the control socket to look at.
  std::string control_socket;
  /// Bytes of packet buffers that a switch is to have.
  uint64_t pool_bytes = 0;
};

/// Looks at everything that Pollux uses of a machine, without changing anything. Takes
/// milliseconds.
[[nodiscard]] std::vector<Finding> examine(const DoctorConfig& config);

/// True when something is missing that nothing works without.
[[nodiscard]] bool has_problem(std::span<const Finding> findings);

[[nodiscard]] std::string findings_table(std::span<const Finding> findings);
/// {"ok": BOOL, "findings": [{"subject", "level", "found", "advice"}]}
[[nodiscard]] std::string findings_to_json(std::span<const Finding> findings);

}  // namespace pollux::control
