// SPDX-License-Identifier: Apache-2.0
// What device rings of both formats have in common.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/mem/peer_memory.hpp"
#include "pollux/spec/virtio_ring.hpp"

namespace pollux::ring {

/// What became of a walk along one chain.
enum class ChainStatus : uint8_t {
  kOk,
  kBadDescriptor,  ///< breaks the rules of 2.7.5 or 2.8: loop, range, direction, indirect misuse
  kBadAddress,     ///< points outside the peer's memory
  kMiss,           ///< an address is not known yet: leave the chain where it is, try again later
  kStopped,        ///< the visitor had enough
};

/// The common chain: one direct descriptor whose bytes are in one region, translated and checked.
/// Size 0: the chain is anything else, and `walk` tells.
struct SingleRun {
  std::byte* data;
  uint32_t size;
};

/// How a device ring tells the driver what it has used.
enum class UsedEntries : uint8_t {
  kEach,        ///< an entry for each chain
  kOneForMany,  ///< IN_ORDER was negotiated and nothing is written to chains: one entry, that of
                ///< the last chain, for all that are published together (2.7.9, 2.8.8)
};

/// Longest chain that is followed, indirect tables included (2.7.4.1 and 2.8.5 allow a limit).
/// Queues may be larger, but a driver that makes each frame of thousands of pieces would cost all
/// others their time.
inline constexpr uint32_t kMaxChain = 1024;

/// The WRITE flag of a descriptor that may be used for `want`.
[[nodiscard]] constexpr uint16_t write_flag(MemoryAccess want) {
  return want == MemoryAccess::kWrite ? spec::VIRTQ_DESC_F_WRITE : uint16_t{0};
}

/// Which descriptors a walk takes: all for one kind of access ...
struct OneWay {
  MemoryAccess want;
  [[nodiscard]] bool takes(uint16_t flags) const noexcept {
    return (flags & spec::VIRTQ_DESC_F_WRITE) == write_flag(want);
  }
  /// What of the flags in a packed ring's indirect table counts: see PackedDeviceRing.
  [[nodiscard]] uint16_t in_packed_table(uint16_t flags) const noexcept {
    return flags & write_flag(want);
  }
};

/// ... or those of a request: for reading, then for writing (2.7.4.2, 2.8.21).
struct BothWays {
  MemoryAccess want = MemoryAccess::kRead;
  [[nodiscard]] bool takes(uint16_t flags) noexcept {
    const bool writable = (flags & spec::VIRTQ_DESC_F_WRITE) != 0;
    if (!writable) return want == MemoryAccess::kRead;
    want = MemoryAccess::kWrite;
    return true;
  }
  [[nodiscard]] static uint16_t in_packed_table(uint16_t flags) noexcept {
    return flags & spec::VIRTQ_DESC_F_WRITE;
  }
};

/// The bytes of a descriptor that is a whole chain, for `want`, if it is a common one. `flags`:
/// those of the descriptor that tell what it is.
[[nodiscard]] inline SingleRun single_run(PeerView& view, uint64_t addr, uint32_t len,
                                          uint16_t flags, MemoryAccess want) noexcept {
  if (flags != write_flag(want)) return {nullptr, 0};
  const Translation at = view.translate(addr, len, want);
  if (at.status != TranslationStatus::kOk || at.size != len) return {nullptr, 0};
  return {at.data, len};
}

/// Asks for the first two cache lines of a run: a net header and the shortest frame.
template <typename Access>
void prefetch_run(const Access& access, const SingleRun& run, MemoryAccess want) noexcept {
  if (want == MemoryAccess::kWrite) {
    access.prefetch_write(run.data);
    access.prefetch_write(run.data + 64);
  } else {
    access.prefetch_read(run.data);
    access.prefetch_read(run.data + 64);
  }
}

/// single_run() for `count` chains, and their first bytes on their way; `first(i)` gives the first
/// descriptor of the i-th. True when all are common ones.
template <typename Access, typename First>
bool find_singles(PeerView& view, const Access& access, uint32_t count, MemoryAccess want,
                  SingleRun* out, First&& first) noexcept {
  PeerView::Window window = view.window(want);
  bool all = true;
  for (uint32_t i = 0; i < count; ++i) {
    const auto desc = first(i);
    SingleRun run;
    if (desc.flags == write_flag(want) && window.holds(desc.addr, desc.len)) [[likely]] {
      run = {window.at(desc.addr), desc.len};
    } else {
      run = single_run(view, desc.addr, desc.len, desc.flags, want);
      window = view.window(want);
    }
    out[i] = run;
    if (run.size != 0) [[likely]] {
      prefetch_run(access, run, want);
    } else {
      all = false;
    }
  }
  return all;
}

/// Calls `visit(std::byte* data, uint32_t len) -> bool` for each contiguous piece of a
/// descriptor's bytes, at least one byte long; false ends it.
template <typename Visit>
ChainStatus visit_pieces(PeerView& view, uint64_t addr, uint32_t left, MemoryAccess want,
                         Visit& visit) noexcept {
  while (left != 0) {
    const Translation piece = view.translate(addr, left, want);
    if (piece.status == TranslationStatus::kMiss) return ChainStatus::kMiss;
    if (piece.status != TranslationStatus::kOk) return ChainStatus::kBadAddress;
    const auto len = static_cast<uint32_t>(piece.size);
    if (!visit(piece.data, len)) return ChainStatus::kStopped;
    addr += len;
    left -= len;
    if (left != 0 && addr == 0) return ChainStatus::kBadAddress;  // wrapped around
  }
  return ChainStatus::kOk;
}

/// The table that an indirect descriptor refers to (2.7.5.3, 2.8.7): whole entries only, in one
/// region.
struct IndirectTable {
  const std::byte* data = nullptr;
  uint32_t entries = 0;
  ChainStatus status = ChainStatus::kOk;
};
[[nodiscard]] inline IndirectTable find_indirect_table(PeerView& view, uint64_t addr,
                                                       uint32_t len) noexcept {
  static_assert(sizeof(spec::virtq_desc) == sizeof(spec::pvirtq_desc));
  if (len == 0 || len % sizeof(spec::virtq_desc) != 0) {
    return {.status = ChainStatus::kBadDescriptor};
  }
  const Translation where = view.translate(addr, len, MemoryAccess::kRead);
  if (where.status == TranslationStatus::kMiss) return {.status = ChainStatus::kMiss};
  if (where.status != TranslationStatus::kOk || where.size != len) {
    return {.status = ChainStatus::kBadAddress};
  }
  return {where.data, static_cast<uint32_t>(len / sizeof(spec::virtq_desc))};
}

}  // namespace pollux::ring
