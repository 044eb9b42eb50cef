// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "pollux/base/event_loop.hpp"
#include "pollux/base/result.hpp"

namespace pollux::control {

/// How other threads have work done on the thread of an event loop, with an end: once the gate is
/// closed nobody gets in, and nobody waits for a loop that does not run any more.
class LoopGate {
 public:
  /// `loop` must outlive the gate.
  explicit LoopGate(EventLoop& loop);

  /// Runs `work` on the loop's thread and waits for its end. Any thread but the loop's. Errors,
  /// with `work` not run: kTimeout when the loop did not come to it in time, kDisconnected when the
  /// gate is closed. Work that has begun is always waited for.
  [[nodiscard]] Status call(const std::function<void()>& work, Nanos deadline);

  /// Turns away whoever waits and whoever comes. The loop's thread, or any when it does not run.
  void close();

 private:
  struct Shared;  // outlives the gate in work that is still posted
  EventLoop& loop_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace pollux::control
