// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>

#include <span>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/engine/topology.hpp"

namespace pollux {

/// How one worker sleeps while none of its queues has anything, and what wakes it: the queues'
/// descriptors, control, or the time.
///
///     if (sleeper.arm(queues)) { (nothing borrowed, no pointer held) sleeper.wait(); }
///     sleeper.disarm(queues);
///
/// One thread, but for wake().
class Sleeper {
 public:
  /// Errors: out of descriptors.
  [[nodiscard]] Status open();

  /// Asks each queue to tell of new packets. False when there is something to do already: the
  /// worker goes on without sleeping.
  [[nodiscard]] bool arm(std::span<const RxSource> queues) noexcept;

  /// Sleeps. True when a queue or control woke it, false when the time was up.
  bool wait() noexcept;

  /// Queues need tell no more: the worker polls again. After control changed something these may be
  /// other queues than those that were armed.
  void disarm(std::span<const RxSource> queues) noexcept;

  /// Ends the sleep, or the next one if there is none now. Any thread.
  void wake() noexcept;

 private:
  [[nodiscard]] Nanos patience() noexcept;

  UniqueFd wake_;
  std::vector<pollfd> signals_;
  bool by_time_ = false;   // a queue can not tell, and is looked at from time to time
  unsigned timeouts_ = 0;  // in a row
};

}  // namespace pollux
