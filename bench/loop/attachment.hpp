// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "pollux/base/clock.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/ports/virtio_user/shared_memory.hpp"
#include "pollux/vhost/frontend.hpp"

namespace pollux::bench {

/// What a front end asks of a switch's port.
struct AttachOptions {
  bool packed = false;  ///< packed rings, used in order; else split ones
  bool large = false;   ///< TCP segments of up to 64 KiB, both ways
  uint32_t ring_size = 1024;
  uint32_t chain = 1;  ///< descriptors of the longest chain; above 1 in indirect tables
};

/// A vhost-user connection to a switch with one queue pair: rings that nobody uses yet.
class Attachment {
 public:
  static constexpr uint16_t kReceiveq = 0;
  static constexpr uint16_t kTransmitq = 1;

  /// Connects, tried for some seconds, negotiates and shares the pool. The pool outlives it.
  /// Errors: the front end's; kUnsupported when the switch lacks what was asked for.
  [[nodiscard]] static Result<std::unique_ptr<Attachment>> open(const std::string& path,
                                                                const AttachOptions& options,
                                                                const Pool& pool);

  /// Tells the switch of the rings, which are laid out and initialized by now, and enables them.
  [[nodiscard]] Status start();
  /// The switch has let go of the rings.
  [[nodiscard]] Status stop();

  [[nodiscard]] uint64_t features() const { return features_; }
  [[nodiscard]] const virtio_user::SharedMemory& memory() const { return memory_; }
  void kick(uint16_t ring) const noexcept;

 private:
  Attachment(vhost::Frontend frontend, virtio_user::SharedMemory memory, uint32_t ring_size)
      : frontend_(std::move(frontend)), memory_(std::move(memory)), ring_size_(ring_size) {}

  vhost::Frontend frontend_;
  virtio_user::SharedMemory memory_;
  uint32_t ring_size_;
  uint64_t features_ = 0;
  UniqueFd kick_[2];
  UniqueFd call_[2];
};

}  // namespace pollux::bench
