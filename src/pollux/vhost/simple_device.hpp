// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/spec/virtio.hpp"
#include "pollux/vhost/device.hpp"

namespace pollux::vhost {

/// One request of a driver: bytes that it wrote, then room that it wants filled. Each byte is
/// copied once, in order, so that a driver that changes its mind changes nothing here.
class Chain {
 public:
  /// Copies the next bytes of the driver; fewer than `to` holds at their end.
  size_t read(std::span<std::byte> to) noexcept { return pass(readable_, to.data(), to.size()); }
  /// Fills the next bytes of the room; fewer than `from` has at its end.
  size_t write(std::span<const std::byte> from) noexcept;

  /// Bytes that were not read yet.
  [[nodiscard]] size_t readable() const noexcept { return left(readable_); }
  /// Room that was not filled yet.
  [[nodiscard]] size_t writable() const noexcept { return left(writable_); }

 private:
  friend class SimpleDevice;
  using Pieces = std::vector<std::span<std::byte>>;
  static size_t pass(Pieces& pieces, std::byte* to, size_t size) noexcept;
  static size_t left(const Pieces& pieces) noexcept;

  Pieces readable_;
  Pieces writable_;
  uint32_t written_ = 0;
};

/// A device that answers each request of its driver at once, on the event loop's thread: enough
/// for random numbers, a console or a small disk, with a BackendEndpoint in front. Split rings;
/// woken by the driver's notifications. A chain that breaks the rules stops its queue.
class SimpleDevice : public BackendDevice {
 public:
  struct Config {
    uint64_t features = 0;  ///< of the device, beyond those that every virtio device has
    uint16_t queues = 1;
    std::vector<std::byte> config{};  ///< configuration space, read-only
  };
  using Handler = std::function<void(uint16_t queue, Chain& chain)>;

  /// `loop` outlives the device.
  SimpleDevice(EventLoop& loop, Config config, Handler handler, Log log = {});

  [[nodiscard]] DeviceOffer offer() const override;
  [[nodiscard]] Status start_ring(const RingStart& start) override;
  [[nodiscard]] Result<uint32_t> stop_ring(uint16_t index) override;
  void update_ring(uint16_t index, const RingControls& controls) override;
  void kick(uint16_t index) override { serve(index); }
  [[nodiscard]] std::span<const std::byte> config() const override { return config_.config; }

 private:
  struct Queue {
    ring::SplitDeviceRing<> ring;
    RingControls controls;
    std::shared_ptr<const PeerMemory> memory;
    EventLoop::Watch kicks;
    EventLoop::Watch again;
  };
  [[nodiscard]] Status watch(uint16_t index);
  void serve(uint16_t index);
  bool serve_one(uint16_t index, Queue& queue);
  void break_off(uint16_t index, Queue& queue);

  EventLoop& loop_;
  Config config_;
  Handler handler_;
  Log log_;
  std::map<uint16_t, Queue> queues_;
};

}  // namespace pollux::vhost
