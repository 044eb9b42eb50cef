// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pollux/ring/device_chain.hpp"
#include "pollux/ring/ring_error.hpp"
#include "tests/sim/queue.hpp"

namespace pollux::sim {

/// A device: takes messages, or delivers them; sleeps when there are none. Is stopped and resumed,
/// or dies at any access, when the world wants it.
template <typename Format>
class DeviceSide {
 public:
  explicit DeviceSide(Queue<Format>& queue)
      : queue_(queue), world_(queue.world()), config_(queue.config()) {}

  /// The side's whole life.
  void run() {
    uint32_t at = Format::kStart;
    while (!world_.over()) {
      if (!queue_.ready || queue_.published == config_.messages) {
        queue_.stopped = true;
        world_.wait_until(kSide, [this] { return all_done() || called_for(); });
        if (!called_for()) return;
        at = Format::kStart;  // the driver has made the ring anew
      }
      at = serve(at);
    }
  }

 private:
  static constexpr Side kSide = Side::kDevice;

  [[nodiscard]] bool all_done() const { return queue_.confirmed == config_.messages; }
  [[nodiscard]] bool called_for() const {
    return queue_.ready && queue_.published != config_.messages;
  }

  /// Works from the ring's place `at` on, until stopped or dead: the place to go on from.
  uint32_t serve(uint32_t at) {
    queue_.stopped = false;
    ring_.emplace(Format::make_device(world_, queue_.layout(), config_, queue_.view(), at));
    next_ = queue_.published;
    work();
    if (world_.over()) return 0;
    if (!world_.over(kSide)) return Format::resume_point(*ring_);
    return rise(at);
  }

  /// A new device takes the place of one that died.
  uint32_t rise(uint32_t since) {
    world_.buried(kSide);
    WeakMemory& memory = world_.memory();
    // Between the one that died and this one lie a process's end, and another's sockets.
    memory.see(kSide, memory.progress(Side::kDriver));
    memory.full_fence(kSide);
    uint32_t at = Format::kStart;
    if constexpr (Format::kResumesFromMemory) {
      at = Format::resume_point(world_, queue_.layout());
      const uint32_t before = (since + queue_.published - served_from_) & 0xffff;
      queue_.published += Format::distance(before, at, queue_.layout());
    } else {
      at = ask();
    }
    world_.ring(kSide);  // the one that died may have owed it
    return at;
  }

  /// Where the driver wants the ring to go on: all that was used has come back to it.
  uint32_t ask() {
    queue_.lost = true;
    world_.wake(Side::kDriver);
    world_.wait_until(kSide, [this] { return !queue_.lost || queue_.stop || all_done(); });
    queue_.published = queue_.confirmed;
    return std::exchange(queue_.lost, false) ? Format::kStart : queue_.resume;
  }

  void work() {
    served_from_ = queue_.published;
    call();
    ring_->suppress_notifications();
    while (!world_.over(kSide)) {
      if (queue_.stop || world_.chooser().happens(config_.pause_rate)) return flush();
      call();
      const uint32_t known = ring_->available(config_.device_batch);
      const uint32_t n = std::min(known, config_.device_batch);
      if (world_.over(kSide)) return;
      if (known > config_.size)
        return world_.fail("more chains to take than the queue has entries");
      if (ring_->error() != ring::RingError::none) return broken();
      if (n != 0) {
        take(n);
        if (world_.chooser().below(2) == 0) flush();
        continue;
      }
      flush();
      if (world_.over(kSide) || queue_.published == config_.messages) return;
      idle();
    }
  }

  void broken() {
    if (world_.over(kSide)) return;
    if (config_.liar != Liar::kNobody) return world_.give_up();
    world_.fail("the device breaks the ring of an honest driver: " +
                std::string(ring::describe(ring_->error())));
  }

  void take(uint32_t count) {
    const MemoryAccess want = config_.to_driver ? MemoryAccess::kWrite : MemoryAccess::kRead;
    std::vector<uint16_t> heads(count);
    std::vector<ring::SingleRun> runs(count);
    std::vector<uint32_t> written(count);
    call();
    const uint32_t good = ring_->heads(0, count, heads.data());
    call();
    ring_->singles(heads.data(), good, want, runs.data());
    for (uint32_t i = 0; i < good && !world_.over(kSide); ++i) {
      written[i] = use(heads[i], runs[i], want);
      if (world_.over(kSide)) return;
      ++next_;
    }
    if (world_.over(kSide)) return;
    ring_->put_used(heads.data(), written.data(), good);
    ring_->take(good);
    if (good < count) broken();
  }

  /// Reads or writes one message; the bytes written.
  uint32_t use(uint16_t head, const ring::SingleRun& run, MemoryAccess want) {
    uint32_t piece = 0;
    if (run.size != 0) {
      touch(run.data, run.size, piece++);
    } else {
      call();
      const ring::ChainStatus status = ring_->walk(head, want, [&](std::byte* data, uint32_t len) {
        touch(data, len, piece++);
        return !world_.over(kSide);
      });
      if (status != ring::ChainStatus::kOk) return odd("a chain of an honest driver is refused");
    }
    if (piece != queue_.pieces(next_)) return odd("a chain has another length than it was given");
    return config_.to_driver ? 4 * piece : 0;
  }

  uint32_t odd(const std::string& what) {
    if (config_.liar == Liar::kNobody && !world_.over(kSide)) {
      world_.fail(what + ": message " + std::to_string(next_));
    }
    return 0;
  }

  void touch(std::byte* data, uint32_t len, uint32_t piece) {
    const uint32_t expected = queue_.content(next_, piece);
    if (config_.liar == Liar::kNobody && len != 4) {
      (void)odd("a buffer has another length than it was given");
      return;
    }
    const uint32_t n = std::min<uint32_t>(len, 4);
    if (config_.to_driver) {
      ring_->access().copy_out(data, &expected, n);
      return;
    }
    uint32_t content = 0;
    ring_->access().copy_in(&content, data, n);
    if (content != expected) (void)odd("the device received something else than it was sent");
  }

  void flush() {
    if (!ring_->unpublished() || world_.over(kSide)) return;
    call();
    const bool interrupt = ring_->publish();
    if (world_.over(kSide)) return;
    queue_.published = next_;
    if (interrupt) world_.ring(kSide);
  }

  void idle() {
    if (!config_.device_sleeps) return;
    call();
    world_.arm(kSide);
    if (!ring_->request_notifications()) world_.wait(kSide);
    world_.disarm(kSide);
    call();
    ring_->suppress_notifications();
  }

  void call() {
    // The longest walk is of 1024 descriptors, each in two words, and their 4 bytes.
    const uint32_t longest =
        config_.liar == Liar::kNobody ? std::max(config_.size, config_.max_chain) : 1024;
    world_.begin_call(kSide, 64 + 4 * longest);
  }

  Queue<Format>& queue_;
  World& world_;
  const Config& config_;
  std::optional<typename Format::Device> ring_;
  uint32_t next_ = 0;         // message of the next chain
  uint32_t served_from_ = 0;  // of the first chain of this device's life
};

}  // namespace pollux::sim
