// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "pollux/mem/peer_memory.hpp"
#include "pollux/ring/driver_ring.hpp"
#include "tests/sim/world.hpp"

namespace pollux::sim {

/// What both sides agree on: where everything lies, and what message n looks like.
///
/// A message is a chain of `pieces(n)` buffers of 4 bytes, whoever fills them: the low half of n,
/// then the number of the piece and a few more bits of n.
template <typename Format>
class Queue {
 public:
  explicit Queue(World& world) : world_(world), config_(world.config()) {
    const size_t ring = (Format::bytes(config_.size) + 63) / 64 * 64;
    tables_at_ = ring;
    const size_t table_bytes = size_t{16} * config_.tables * config_.max_chain;
    buffers_at_ = tables_at_ + table_bytes;
    end_ = buffers_at_ + size_t{4} * config_.size * config_.max_chain;
    layout_ = Format::place(world.base(), config_.size);
    std::vector<Part> parts;
    Format::add_parts(parts, world.base(), layout_);
    // Whoever lies may change a descriptor, so that the device takes tables for buffers.
    const bool lies = config_.liar != Liar::kNobody;
    const uint8_t to_device = Part::kDriverWrites | Part::kDeviceReads;
    const uint8_t to_driver = Part::kDriverReads | Part::kDeviceWrites;
    const uint8_t any = to_device | (config_.to_driver ? to_driver : 0);
    if (table_bytes != 0) {
      parts.push_back({"tables", tables_at_, buffers_at_, lies ? any : to_device});
    }
    parts.push_back(
        {"buffers", buffers_at_, end_, lies ? any : (config_.to_driver ? to_driver : to_device)});
    world.lay_out(std::move(parts));
    memory_ = PeerMemory::create({{GuestAddr{kGuest + tables_at_},
                                   {},
                                   end_ - tables_at_,
                                   world.base() + tables_at_,
                                   nullptr}})
                  .value();
  }

  [[nodiscard]] World& world() { return world_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const typename Format::Layout& layout() const { return layout_; }
  [[nodiscard]] PeerView view() const { return PeerView(*memory_); }
  [[nodiscard]] ring::IndirectTables tables() const {
    return {world_.base() + tables_at_, kGuest + tables_at_, config_.tables, config_.max_chain};
  }

  /// A buffer of 4 bytes; `slot` < size, `piece` < max_chain.
  [[nodiscard]] std::byte* buffer(uint32_t slot, uint32_t piece) const {
    return world_.base() + buffers_at_ + size_t{4} * (slot * config_.max_chain + piece);
  }
  [[nodiscard]] ring::DriverBuffer device_buffer(uint32_t slot, uint32_t piece) const {
    const auto offset = static_cast<uint64_t>(buffer(slot, piece) - world_.base());
    return {kGuest + offset, 4};
  }
  [[nodiscard]] uint32_t pieces(uint32_t message) const {
    if (config_.max_chain == 1) return 1;
    return 1 + (message * 2654435761U >> 16) % config_.max_chain;
  }
  static uint32_t content(uint32_t message, uint32_t piece) {
    return (message & 0xffff) | (piece << 16) | ((message * 40503U & 0xff) << 24);
  }

  // The session between both sides: what sockets carry, and what the test knows.
  bool ready = false;   ///< the driver's ring is there
  bool stop = false;    ///< the device is asked to stop ...
  bool stopped = true;  ///< ... and has
  bool lost = false;    ///< a device that does not know where the last one was asks the driver ...
  uint32_t resume = 0;  ///< ... who says it
  uint32_t first = 0;   ///< message in the ring's first chain
  uint32_t confirmed = 0;  ///< messages that came back to the driver
  uint32_t published = 0;  ///< messages that the device has finished and shown

 private:
  static constexpr uint64_t kGuest = 0x100000;

  World& world_;
  const Config& config_;
  typename Format::Layout layout_;
  size_t tables_at_ = 0;
  size_t buffers_at_ = 0;
  size_t end_ = 0;
  std::shared_ptr<const PeerMemory> memory_;
};

}  // namespace pollux::sim
