// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/base/clock.hpp"

namespace pollux {

/// How control makes sure that no worker still uses what it has just unpublished. The engine
/// implements it; ports call it before they unmap memory, free a ring or answer a message that
/// promises that a ring is at rest.
class Quiescence {
 public:
  virtual ~Quiescence() = default;

  /// Wakes workers that sleep, so that they see what was published before the call. Returns true
  /// once every worker has been outside of its turn since the call, holding nothing
  /// borrowed; false when a worker did not come by within `deadline` (what was unpublished must
  /// then be kept). Control threads only, never a worker.
  [[nodiscard]] virtual bool synchronize(Nanos deadline) noexcept = 0;
};

/// For programs that poll in the same thread as they control: always quiescent. Not for ports that
/// have a thread of their own (virtio-user): those need TurnQuiescence (turn_quiescence.hpp).
class NoWorkers final : public Quiescence {
 public:
  [[nodiscard]] bool synchronize(Nanos /*deadline*/) noexcept override { return true; }
};

}  // namespace pollux
