// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "pollux/ring/device_chain.hpp"
#include "pollux/spec/virtio_net_control.hpp"
#include "pollux/virtio/net_control.hpp"

namespace pollux::virtio {

/// The device side of a network device's control queue (VIRTIO 1.3, 5.1.6.5): takes commands out of
/// their chains, has them carried out, and writes the acknowledgement. `Ring` is a device ring of
/// either format. For a control thread: it allocates; one thread at a time.
template <typename Ring>
class NetDeviceControl {
 public:
  explicit NetDeviceControl(Ring ring) : ring_(std::move(ring)) {}

  [[nodiscard]] Ring& ring() noexcept { return ring_; }
  [[nodiscard]] const Ring& ring() const noexcept { return ring_; }

  /// Carries out the commands that are there, at most `most`. Each is copied once, whatever it is
  /// split into, and given to `execute(std::span<const std::byte>) -> bool`; an empty one stands
  /// for one that is too long. A chain without room for the acknowledgement, or one that breaks the
  /// rules, is returned without being carried out; one whose address is not known yet behind an
  /// IOMMU waits for the next call. True when the driver wants to be notified.
  template <typename Execute>
  [[nodiscard]] bool serve(size_t most, Execute&& execute) {
    ring_.view().refresh();
    for (uint16_t head = 0; most != 0 && ring_.available(1) != 0 && ring_.head(0, head); --most) {
      const Reply reply = read(head);
      if (reply.status == ring::ChainStatus::kMiss) break;
      const bool good = reply.status == ring::ChainStatus::kOk && reply.ack != nullptr;
      if (good) acknowledge(reply.ack, execute(std::span<const std::byte>(command_)));
      ring_.put_used(head, good ? 1 : 0);
      ring_.take(1);
    }
    return ring_.unpublished() && ring_.publish();
  }

 private:
  struct Reply {
    ring::ChainStatus status = ring::ChainStatus::kOk;
    std::byte* ack = nullptr;  // the first byte that the device may write
  };

  /// Copies the command at `head` to command_.
  Reply read(uint16_t head) {
    Reply reply;
    command_.clear();
    bool too_long = false;
    reply.status = ring_.walk_both(head, [&](std::byte* data, uint32_t len, MemoryAccess want) {
      if (want == MemoryAccess::kWrite) {
        reply.ack = data;
        return false;  // no command has a longer answer
      }
      too_long = too_long || len > NetControl::kMaxCommand - command_.size();
      if (too_long) return true;
      const size_t at = command_.size();
      command_.resize(at + len);
      ring_.access().copy_in(command_.data() + at, data, len);
      return true;
    });
    if (reply.status == ring::ChainStatus::kStopped) reply.status = ring::ChainStatus::kOk;
    if (too_long) command_.clear();
    return reply;
  }

  void acknowledge(std::byte* at, bool good) noexcept {
    const uint8_t ack = good ? spec::VIRTIO_NET_OK : spec::VIRTIO_NET_ERR;
    ring_.access().copy_out(at, &ack, sizeof ack);
    ring_.view().note_write(at, sizeof ack);
  }

  Ring ring_;
  std::vector<std::byte> command_;
};

}  // namespace pollux::virtio
