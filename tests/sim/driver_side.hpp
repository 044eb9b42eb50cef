// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/access.hpp"
#include "tests/sim/queue.hpp"

namespace pollux::sim {

/// A driver: sends messages (or offers room for them), takes them back, sleeps when it has nothing
/// to do. Dies and comes again when the world wants it.
template <typename Format>
class DriverSide {
 public:
  explicit DriverSide(Queue<Format>& queue)
      : queue_(queue), world_(queue.world()), config_(queue.config()) {}

  /// The side's whole life.
  void run() {
    for (;;) {
      start();
      work();
      if (world_.over()) return;
      if (!world_.over(kSide)) break;
      die();
    }
    if (ring_->free_descriptors() != config_.size) world_.fail("the driver lost descriptors");
  }

 private:
  static constexpr Side kSide = Side::kDriver;

  /// Makes the ring in whatever the memory holds, and tells the device.
  void start() {
    world_.resetting(true);
    call();
    ring_.emplace(Format::make_driver(world_, queue_.layout(), config_, queue_.tables()));
    world_.resetting(false);
    world_.memory().settle();
    sent_ = queue_.first = queue_.published = queue_.confirmed;
    slot_of_.assign(config_.size, kNone);
    slots_.clear();
    for (uint32_t slot = 0; slot < config_.size; ++slot) slots_.push_back(slot);
    order_.clear();
    queue_.ready = true;
  }

  void die() {
    world_.buried(kSide);
    queue_.ready = false;
    queue_.stop = true;
    world_.wake(Side::kDevice);
    world_.wait_until(kSide, [this] { return queue_.stopped; });
    queue_.stop = false;
  }

  void work() {
    while (queue_.confirmed < config_.messages && !world_.over(kSide)) {
      if (queue_.lost) answer();
      const bool added = add_some();
      if (added) {
        call();
        if (ring_->publish()) world_.ring(kSide);
      }
      const bool reaped = reap();
      if (ring_->broken()) return broken();
      if (!added && !reaped && queue_.confirmed < config_.messages) idle();
    }
  }

  /// Tells a new device where the ring goes on, or makes the ring anew if it does not.
  void answer() {
    if constexpr (requires { ring_->base(); }) {
      // The end of the other process came before its socket's.
      world_.memory().see(kSide, world_.memory().progress(Side::kDevice));
      world_.memory().full_fence(kSide);
      call();
      const std::optional<uint32_t> before = ring_->base();
      while (reap() && !world_.over(kSide)) {
      }
      call();
      const std::optional<uint32_t> base = ring_->base();
      if (world_.over(kSide)) return;
      if (ring_->broken()) return broken();
      if (base != before) return world_.fail("what came back moves the place to go on from");
      if (!base) start();
      queue_.resume = base ? *base & 0xffff : Format::kStart;
      queue_.lost = false;
    }
  }

  void broken() {
    if (world_.over(kSide)) return;
    if (config_.liar != Liar::kNobody) return world_.give_up();
    world_.fail("the driver breaks the ring of an honest device: " +
                std::string(ring::describe(ring_->error())));
  }

  bool add_some() {
    uint32_t added = 0;
    for (; added < config_.driver_batch && sent_ < config_.messages && !world_.over(kSide);
         ++added) {
      if (!add_one()) break;
    }
    return added != 0;
  }

  bool add_one() {
    const uint32_t pieces = queue_.pieces(sent_);
    if (slots_.empty() || !ring_->has_room(pieces)) return false;
    const uint32_t slot = slots_.front();
    uint16_t id = ring::kNoChain;
    call();
    if (pieces == 1 && sent_ % 2 == 0) {
      const auto fill = [&](size_t, uint16_t chosen) {
        id = chosen;
        write(slot, 0);
        return queue_.device_buffer(slot, 0);
      };
      const size_t n =
          config_.to_driver ? ring_->add_writable(1, fill) : ring_->add_readable(1, fill);
      if (n == 0) id = ring::kNoChain;
    } else {
      buffers_.clear();
      for (uint32_t piece = 0; piece < pieces; ++piece) {
        write(slot, piece);
        buffers_.push_back(queue_.device_buffer(slot, piece));
      }
      id = config_.to_driver ? ring_->add({}, buffers_) : ring_->add(buffers_, {});
    }
    if (world_.over(kSide)) return false;
    if (id == ring::kNoChain) {
      world_.fail("the driver's ring says that it has room, and takes nothing");
      return false;
    }
    if (id >= config_.size || slot_of_[id] != kNone) {
      world_.fail("the driver uses an id that is with the device: " + std::to_string(id));
      return false;
    }
    slots_.pop_front();
    slot_of_[id] = slot;
    order_.push_back(id);
    ++sent_;
    return true;
  }

  void write(uint32_t slot, uint32_t piece) {
    if (config_.to_driver) return;
    const uint32_t content = queue_.content(sent_, piece);
    Access(world_, kSide).copy_out(queue_.buffer(slot, piece), &content, sizeof content);
  }

  bool reap() {
    std::array<ring::UsedChain, 8> used;
    const size_t max = 1 + world_.chooser().below(used.size());
    call();
    const size_t n = ring_->poll_used(used.data(), max);
    for (size_t i = 0; i < n && !world_.over(kSide); ++i) take_back(used[i]);
    return n != 0;
  }

  void take_back(const ring::UsedChain& used) {
    if (used.id >= config_.size || slot_of_[used.id] == kNone) {
      return world_.fail("a chain came back that was not out: " + std::to_string(used.id));
    }
    const uint32_t slot = slot_of_[used.id];
    const uint32_t message = queue_.confirmed;
    if (config_.liar == Liar::kNobody) {
      if (order_.front() != used.id) return world_.fail("a chain came back out of order");
      check(message, slot, used.len);
    }
    slot_of_[used.id] = kNone;
    order_.pop_front();
    slots_.push_back(slot);
    ++queue_.confirmed;
  }

  void check(uint32_t message, uint32_t slot, uint32_t len) {
    const uint32_t pieces = queue_.pieces(message);
    if (len != (config_.to_driver ? 4 * pieces : 0)) {
      return world_.fail("message " + std::to_string(message) + " came back with a length of " +
                         std::to_string(len));
    }
    if (!config_.to_driver) return;
    for (uint32_t piece = 0; piece < pieces && !world_.over(kSide); ++piece) {
      uint32_t content = 0;
      call();
      Access(world_, kSide).copy_in(&content, queue_.buffer(slot, piece), sizeof content);
      if (!world_.over(kSide) && content != queue_.content(message, piece)) {
        world_.fail("the driver received something else than message " + std::to_string(message));
      }
    }
  }

  void idle() {
    call();
    if (!config_.driver_sleeps) return;
    world_.arm(kSide);
    if (!ring_->arm_interrupts()) world_.wait(kSide);
    world_.disarm(kSide);
    call();
    ring_->suppress_interrupts();
  }

  /// Bounds the next call into the ring.
  void call() { world_.begin_call(kSide, 64 + 16 * config_.size + 16 * config_.max_chain); }

  static constexpr uint32_t kNone = ~0U;

  Queue<Format>& queue_;
  World& world_;
  const Config& config_;
  std::optional<typename Format::Driver> ring_;
  uint32_t sent_ = 0;
  std::vector<uint32_t> slot_of_;  // by chain id
  std::deque<uint32_t> slots_;     // free
  std::deque<uint16_t> order_;     // ids, oldest first
  std::vector<ring::DriverBuffer> buffers_;
};

}  // namespace pollux::sim
