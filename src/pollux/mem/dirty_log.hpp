// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/strong.hpp"
#include "pollux/mem/peer_memory.hpp"

namespace pollux {

/// A front end's log of the pages that we wrote, for live migration: one bit for each page of
/// 4 KiB of guest memory, from address 0 on, in memory that the front end reads and clears while
/// we set bits. vhost-user: "Migration". Thread-safe after construction.
class DirtyLog {
 public:
  static constexpr uint64_t kPage = 4096;

  /// Maps [offset, offset + size) of `fd`; size in bytes of bitmap. Errors as of PeerMapping::map.
  [[nodiscard]] static Result<std::shared_ptr<DirtyLog>> map(UniqueFd fd, uint64_t offset,
                                                             uint64_t size);
  /// A log in memory that outlives it.
  explicit DirtyLog(std::span<std::byte> bits) : bits_(bits) {}

  /// Marks each page that [addr, addr + size) touches. Call it after the bytes are written: the
  /// front end clears a bit and then reads the page. Pages beyond the log are left out and make
  /// `incomplete()` true.
  void mark(uint64_t addr, uint64_t size) noexcept;

  /// Pages that the log can speak of.
  [[nodiscard]] uint64_t pages() const { return bits_.size() * 8; }
  /// True if anything was marked since the last call.
  [[nodiscard]] bool take_touched() noexcept {
    return touched_.load(std::memory_order_relaxed) && touched_.exchange(false);
  }
  /// A write could not be marked: the front end's copy of the guest may be wrong.
  void set_incomplete() noexcept { incomplete_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool incomplete() const { return incomplete_.load(std::memory_order_relaxed); }
  /// True the first time that it is called on an incomplete log. One thread.
  [[nodiscard]] bool take_incomplete() { return incomplete() && !std::exchange(told_, true); }
  /// True when the front end shrank the log's file.
  [[nodiscard]] bool faulted() const { return mapping_ && mapping_->faulted(); }

 private:
  std::span<std::byte> bits_;
  std::shared_ptr<PeerMapping> mapping_;
  std::atomic<bool> touched_{false};
  std::atomic<bool> incomplete_{false};
  bool told_ = false;
};

/// Finds the guest address of whatever a queue wrote, and marks it. Immutable; any thread.
class WriteLog {
 public:
  /// What the device writes of a ring besides its buffers.
  struct RingArea {
    const std::byte* host = nullptr;  ///< used ring, or the device's event area (packed)
    uint64_t size = 0;
    GuestAddr logged_at;  ///< what the first byte of it counts as: log_guest_addr
    bool logged = false;  ///< VHOST_VRING_F_LOG
  };

  WriteLog(const PeerMemory& memory, std::shared_ptr<DirtyLog> log, const RingArea& ring);

  /// `size` bytes at `host`, inside one region, were written to a buffer.
  void note_buffer(const void* host, size_t size) const noexcept;
  /// The same for a part of the ring itself: of the ring area, or a descriptor of a packed ring,
  /// which is marked where it lies.
  void note_ring(const void* host, size_t size) const noexcept;

  [[nodiscard]] const std::shared_ptr<DirtyLog>& log() const { return log_; }

 private:
  struct Range {
    uintptr_t host;
    uint64_t size;
    uint64_t guest;
  };

  std::shared_ptr<DirtyLog> log_;
  RingArea ring_;
  std::vector<Range> ranges_;  // sorted by host address
};

}  // namespace pollux
