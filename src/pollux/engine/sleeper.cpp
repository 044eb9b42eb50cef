// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/sleeper.hpp"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace pollux {
namespace {

// A peer that forgets to kick (or lost its kick in a restart) waits this long, not for ever.
constexpr Nanos kHeartbeat = std::chrono::milliseconds(100);
// Between looks at queues that can not tell: doubled from the first to the last.
constexpr Nanos kFirstLook = std::chrono::microseconds(50);
constexpr unsigned kDoublings = 5;  // to 1.6 ms

}  // namespace

Status Sleeper::open() {
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return fail_errno(errno, "can not make a descriptor to wake a worker by");
  return {};
}

bool Sleeper::arm(std::span<const RxSource> queues) noexcept {
  signals_.clear();
  signals_.push_back({wake_.get(), POLLIN, 0});
  by_time_ = false;
  for (const RxSource& source : queues) {
    const Wake wake =
        source.queue.arm != nullptr ? source.queue.arm(source.queue.self) : Wake{Wake::kByTime};
    switch (wake.kind) {
      case Wake::kNow:
        return false;
      case Wake::kSignal:
        signals_.push_back({wake.fd, POLLIN, 0});
        break;
      case Wake::kByTime:
        by_time_ = true;
        break;
      case Wake::kNever:
        break;
    }
  }
  return true;
}

Nanos Sleeper::patience() noexcept {
  return by_time_ ? kFirstLook * (1U << std::min(timeouts_, kDoublings)) : kHeartbeat;
}

bool Sleeper::wait() noexcept {
  const Nanos time = patience();
  const timespec limit{0, static_cast<long>(time.count())};
  const bool woken = ppoll(signals_.data(), signals_.size(), &limit, nullptr) > 0;
  timeouts_ = woken ? 0 : timeouts_ + 1;
  return woken;
}

void Sleeper::disarm(std::span<const RxSource> queues) noexcept {
  for (const RxSource& source : queues) {
    if (source.queue.disarm != nullptr) source.queue.disarm(source.queue.self);
  }
  eventfd_t ignored = 0;
  (void)eventfd_read(wake_.get(), &ignored);
}

void Sleeper::wake() noexcept { (void)eventfd_write(wake_.get(), 1); }

}  // namespace pollux
