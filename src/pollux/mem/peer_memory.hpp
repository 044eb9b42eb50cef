// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/strong.hpp"

namespace pollux {

/// A byte of a file, whatever the file is called and wherever it is mapped.
struct FilePlace {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t offset = 0;
  friend bool operator==(const FilePlace&, const FilePlace&) = default;
};

/// One file of a peer mapped into this process; unmapped when the last owner lets go. If the peer
/// shrinks the file afterwards, the pages that vanished read as zeros (see sigbus_guard.hpp) and
/// `faulted()` turns true, so that the port can end that peer. Thread-safe after construction.
class PeerMapping {
 public:
  /// Maps [offset, offset + size) of `fd` (kept open is not needed: the descriptor is closed when
  /// the mapping stands). Offset need not be page-aligned. Errors: kInvalidArgument when the file
  /// is not memory (tmpfs, hugetlbfs) or does not hold the range, kResource when it can't be
  /// mapped.
  [[nodiscard]] static Result<std::shared_ptr<PeerMapping>> map(UniqueFd fd, uint64_t offset,
                                                                uint64_t size);
  ~PeerMapping();
  PeerMapping(const PeerMapping&) = delete;
  PeerMapping& operator=(const PeerMapping&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] uint64_t size() const { return size_; }
  /// Of data().
  [[nodiscard]] const FilePlace& place() const { return place_; }
  [[nodiscard]] bool faulted() const { return faulted_.load(std::memory_order_relaxed); }
  /// The whole pages that the mapping takes.
  [[nodiscard]] std::span<std::byte> pages() const {
    return {static_cast<std::byte*>(base_), length_};
  }
  /// Cuts the mapping off the peer's file; whoever still touches it finds zeros of our own.
  void replace_by_zeros() noexcept;

 private:
  PeerMapping() = default;

  void* base_ = nullptr;       // page-aligned start of the mapping
  size_t length_ = 0;          // whole pages from base_
  std::byte* data_ = nullptr;  // first byte of the region proper
  uint64_t size_ = 0;
  FilePlace place_;
  int guard_slot_ = -1;
  std::atomic<bool> faulted_{false};
};

/// A region of a peer's memory: where the peer has it and where we do. Neither address range wraps.
struct PeerRegion {
  GuestAddr guest;
  UserAddr user;
  uint64_t size = 0;
  std::byte* host = nullptr;
  std::shared_ptr<PeerMapping> mapping;  // may be null in tests that lend their own memory
};

/// kBoth is for parts of a ring; a descriptor is for one or the other.
enum class MemoryAccess : uint8_t { kRead = 1, kWrite = 2, kBoth = 3 };

enum class TranslationStatus : uint8_t {
  kOk,     ///< `data` and `size` are good
  kFault,  ///< the address is not the peer's, or not for this access
  kMiss,   ///< not known yet: ask the IOMMU through control, try the same chain again later
};

/// The first contiguous piece of a translated range; smaller than what was asked for when the
/// range goes on in an adjacent region.
struct Translation {
  std::byte* data = nullptr;
  uint64_t size = 0;
  TranslationStatus status = TranslationStatus::kFault;
};

class AbsentPages;

/// A peer's whole memory: an immutable table of regions that do not overlap. A changed table is a
/// new object, published to the workers through quiescence. Lookups: any thread.
class PeerMemory {
 public:
  /// Errors: kInvalidArgument when regions are empty, wrap or overlap (in guest addresses).
  /// `absent`: not all pages are there yet; translating one that is not is a miss.
  [[nodiscard]] static Result<std::shared_ptr<const PeerMemory>> create(
      std::vector<PeerRegion> regions, std::shared_ptr<AbsentPages> absent = nullptr);

  /// Translates the start of [addr, addr + len), as found in a descriptor. Never returns more than
  /// `len` bytes, nor zero bytes with kOk unless len is 0.
  [[nodiscard]] Translation translate(GuestAddr addr, uint64_t len,
                                      MemoryAccess access) const noexcept;

  /// Translates all of [addr, addr + len) in front-end user addresses, as SET_VRING_ADDR gives
  /// them; kOk only when one region holds the whole range.
  [[nodiscard]] Translation translate_user(UserAddr addr, uint64_t len) const noexcept;

  /// The guest address of a byte that was translated, or nullopt if it is not the peer's.
  [[nodiscard]] std::optional<GuestAddr> guest_address(const std::byte* host) const noexcept;

  /// Where a byte that was translated lies in the peer's files; nullopt when it does not.
  [[nodiscard]] std::optional<FilePlace> file_place(const std::byte* host) const noexcept;

  /// The region that holds `addr`, or null.
  [[nodiscard]] const PeerRegion* find(GuestAddr addr) const noexcept;
  [[nodiscard]] std::span<const PeerRegion> regions() const { return regions_; }
  /// True when a peer shrank a file under one of the mappings.
  [[nodiscard]] bool faulted() const;

  /// Null but for a guest that is migrated post-copy: see absent_pages.hpp.
  [[nodiscard]] const std::shared_ptr<AbsentPages>& absent() const { return absent_; }
  /// True when [at, at + len) of a region can be touched without waiting; asks for it if not.
  [[nodiscard]] bool present(const std::byte* at, uint64_t len) const noexcept;
  /// What was found, as far as it can be touched without waiting; a miss if its start can not.
  [[nodiscard]] Translation when_present(Translation found) const noexcept;

 private:
  PeerMemory(std::vector<PeerRegion> regions, std::shared_ptr<AbsentPages> absent)
      : regions_(std::move(regions)), absent_(std::move(absent)) {}

  std::vector<PeerRegion> regions_;  // sorted by guest address
  std::shared_ptr<AbsentPages> absent_;
};

class IotlbReader;
class WriteLog;

/// One user's window on a peer's memory, with the places that it hit last: what a queue uses on the
/// fast path. Not thread-safe, but for set_log; lives no longer than what it looks at.
class PeerView {
 public:
  /// Addresses are the guest's own.
  explicit PeerView(const PeerMemory& memory) : memory_(&memory) {}

  /// Addresses are behind an IOMMU, whose mappings point into `memory`. Who uses the view calls
  /// `refresh` at the beginning of a turn.
  PeerView(const PeerMemory& memory, IotlbReader& iotlb) : memory_(&memory), iotlb_(&iotlb) {}

  [[nodiscard]] bool behind_iommu() const noexcept { return iotlb_ != nullptr; }

  /// True when what was translated once stays good as long as the view.
  [[nodiscard]] bool stable() const noexcept { return iotlb_ == nullptr && !memory_->absent(); }

  /// Looks whether the IOMMU's mappings have changed; true if so. Nothing changes between two
  /// calls, so that what is translated in a turn stays good to its end.
  bool refresh() noexcept { return iotlb_ != nullptr && refresh_mappings(); }

  /// See PeerMemory::translate. A miss is reported to control; the same address may be known in a
  /// later turn.
  [[nodiscard]] Translation translate(uint64_t addr, uint64_t len, MemoryAccess access) noexcept {
    const Window& window = windows_[access == MemoryAccess::kWrite ? 1 : 0];
    if (window.holds(addr, len)) [[likely]]
      return {window.at(addr), len, TranslationStatus::kOk};
    return translate_slowly(addr, len, access);
  }

  /// What was hit last, and may be accessed in one way: what it holds needs no `translate`. Who has
  /// many addresses to look at keeps a copy, which lives up to the next translation or refresh.
  struct Window {
    uint64_t start = 0;
    uint64_t size = 0;
    std::byte* host = nullptr;

    [[nodiscard]] bool holds(uint64_t addr, uint64_t len) const noexcept {
      const uint64_t offset = addr - start;
      return offset < size && len <= size - offset;
    }
    [[nodiscard]] std::byte* at(uint64_t addr) const noexcept { return host + (addr - start); }
  };
  [[nodiscard]] const Window& window(MemoryAccess access) const noexcept {
    return windows_[access == MemoryAccess::kWrite ? 1 : 0];
  }

  /// Every write to a buffer is reported here, and every write to the ring itself to the next: the
  /// place where live migration's dirty log hooks in. After the write, because the front end
  /// clears a mark before it reads the page; and before the index that shows it is published.
  void note_write(const void* host, size_t size) const noexcept {
    if (const WriteLog* log = now_logged(); log != nullptr) [[unlikely]]
      note_buffer(*log, host, size);
  }
  /// The index that publishes is a write too: note it once it is out.
  void note_ring_write(const void* host, size_t size) const noexcept {
    if (const WriteLog* log = now_logged(); log != nullptr) [[unlikely]]
      note_ring(*log, host, size);
  }

  /// Where writes are marked from now on; null: nowhere. Control may call this while a worker uses
  /// the view: once the worker has passed a quiescent point, all its writes go to the new log, and
  /// the one before may be freed.
  void set_log(const WriteLog* log) noexcept { __atomic_store_n(&log_, log, __ATOMIC_RELEASE); }

 private:
  [[nodiscard]] const WriteLog* now_logged() const noexcept {
    return __atomic_load_n(&log_, __ATOMIC_ACQUIRE);
  }
  static void note_buffer(const WriteLog& log, const void* host, size_t size) noexcept;
  static void note_ring(const WriteLog& log, const void* host, size_t size) noexcept;
  Translation translate_slowly(uint64_t addr, uint64_t len, MemoryAccess access) noexcept;
  Translation translate_iova(uint64_t addr, uint64_t len, MemoryAccess access) noexcept;
  bool refresh_mappings() noexcept;

  const PeerMemory* memory_ = nullptr;
  IotlbReader* iotlb_ = nullptr;
  std::array<Window, 2> windows_;  // for reading, for writing
  const WriteLog* log_ = nullptr;  // written by control, read by a worker
};

}  // namespace pollux
