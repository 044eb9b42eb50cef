// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/loop_gate.hpp"

#include <condition_variable>
#include <mutex>

namespace pollux::control {
namespace {

enum class Phase { kWaiting, kRunning, kDone, kAbandoned };

}  // namespace

struct LoopGate::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  bool closed = false;  // under mutex, as is the phase of every piece of work

  void run(Phase& phase, const std::function<void()>& work) {
    {
      const std::lock_guard lock(mutex);
      if (phase != Phase::kWaiting) return;  // the caller has left, and its stack with it
      phase = Phase::kRunning;
    }
    work();
    const std::lock_guard lock(mutex);
    phase = Phase::kDone;
    changed.notify_all();
  }
};

LoopGate::LoopGate(EventLoop& loop) : loop_(loop), shared_(std::make_shared<Shared>()) {}

Status LoopGate::call(const std::function<void()>& work, Nanos deadline) {
  const auto phase = std::make_shared<Phase>(Phase::kWaiting);
  // `work` is the caller's: it is touched only while the caller waits.
  loop_.post([shared = shared_, phase, &work] { shared->run(*phase, work); });
  std::unique_lock lock(shared_->mutex);
  (void)shared_->changed.wait_for(lock, deadline,
                                  [&] { return *phase != Phase::kWaiting || shared_->closed; });
  if (*phase == Phase::kWaiting) {
    *phase = Phase::kAbandoned;
    if (shared_->closed) return fail(ErrorCode::kDisconnected, "the switch is stopping");
    return fail(ErrorCode::kTimeout, "the switch is busy with something else: try again");
  }
  shared_->changed.wait(lock, [&] { return *phase == Phase::kDone; });
  return {};
}

void LoopGate::close() {
  const std::lock_guard lock(shared_->mutex);
  shared_->closed = true;
  shared_->changed.notify_all();
}

}  // namespace pollux::control
