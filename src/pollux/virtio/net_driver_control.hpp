// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "pollux/ring/driver_ring.hpp"
#include "pollux/ring/ring_error.hpp"
#include "pollux/spec/virtio_net_control.hpp"

namespace pollux::virtio {

/// Memory shared with the device for one command and its acknowledgement.
///
///     | command ...        | ack |
struct ControlRoom {
  std::byte* data = nullptr;
  uint32_t size = 0;
  uint64_t addr = 0;  ///< the device's address of `data`
};

/// The driver side of a network device's control queue (VIRTIO 1.3, 5.1.6.5): one command at a
/// time. `Ring` is a driver ring of either format. One thread at a time.
template <typename Ring>
class NetDriverControl {
 public:
  NetDriverControl(Ring ring, const ControlRoom& room) : ring_(std::move(ring)), room_(room) {}

  [[nodiscard]] const Ring& ring() const noexcept { return ring_; }

  /// Shows the device a command; the one before was answered. It fits: `command.size()` is less
  /// than the room. True when the device is to be notified.
  [[nodiscard]] bool post(std::span<const std::byte> command) noexcept {
    constexpr uint8_t kNotWritten = 0xff;
    ring_.access().copy_out(room_.data, command.data(), command.size());
    ring_.access().copy_out(room_.data + ack_at(), &kNotWritten, 1);
    const std::array out{ring::DriverBuffer{room_.addr, static_cast<uint32_t>(command.size())}};
    const std::array in{ring::DriverBuffer{room_.addr + ack_at(), 1}};
    (void)ring_.add(out, in);
    return ring_.publish();
  }

  /// The device's acknowledgement (VIRTIO_NET_OK, or anything else), once it is there.
  [[nodiscard]] std::optional<uint8_t> answer() noexcept {
    ring::UsedChain used;
    if (ring_.poll_used(&used, 1) == 0) return std::nullopt;
    uint8_t ack = spec::VIRTIO_NET_ERR;
    if (used.len != 0) ring_.access().copy_in(&ack, room_.data + ack_at(), 1);
    return ack;
  }

  /// Asks for an interrupt at the answer; true when that is there already.
  [[nodiscard]] bool arm() noexcept { return ring_.arm_interrupts(); }

 private:
  [[nodiscard]] uint32_t ack_at() const noexcept { return room_.size - 1; }

  Ring ring_;
  ControlRoom room_;
};

}  // namespace pollux::virtio
