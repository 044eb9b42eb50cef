// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux::bench {

/// How often the kernel has put two threads off their CPUs for others: the one that counts, and the
/// busiest of another process. Sleeping of their own will is not meant.
class Interruptions {
 public:
  /// The busiest thread is the one that has taken most time so far.
  /// Errors: kNotFound when there is no such process, or it is not ours to look at.
  [[nodiscard]] static Result<Interruptions> of_process(int pid);

  /// So far; two counts are compared. Takes some 20 us.
  [[nodiscard]] uint64_t count() const;

 private:
  explicit Interruptions(UniqueFd status) : status_(std::move(status)) {}

  UniqueFd status_;  // /proc/PID/task/TID/status
};

}  // namespace pollux::bench
