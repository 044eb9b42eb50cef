// SPDX-License-Identifier: Apache-2.0
// What driver rings of both formats have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace pollux::ring {

/// One element of a chain as the device is told: an address of the device's view, and bytes.
struct DriverBuffer {
  uint64_t addr = 0;
  uint32_t len = 0;
};

/// A chain that the device has finished with: what `add` returned, and how many bytes the device
/// says it wrote (never more than the chain's device-writable part).
struct UsedChain {
  uint16_t id = 0;
  uint32_t len = 0;
};

/// "No chain": not a legal id, as a queue of either format has at most 32768 entries.
inline constexpr uint16_t kNoChain = 0xffff;

/// Shared memory for indirect descriptor tables (VIRTIO 1.3, 2.7.5.3 and 2.8.7), lent by the ring's
/// owner for the ring's life. A descriptor has 16 bytes in either format.
struct IndirectTables {
  void* memory = nullptr;  ///< count * entries descriptors
  uint64_t addr = 0;       ///< the same place as the device sees it
  uint32_t count = 0;      ///< tables; 0: none
  uint32_t entries = 0;    ///< descriptors in each table
};

/// What was negotiated for a driver ring.
struct DriverRingOptions {
  bool event_idx = false;  ///< VIRTIO_F_EVENT_IDX
  /// VIRTIO_F_IN_ORDER: the device returns chains in the order in which they were made available,
  /// and may say so for a batch of them by returning the last one alone (2.7.9, 2.8.8). The ones
  /// that it left out count as used completely: poll_used gives them their whole capacity.
  bool in_order = false;
  IndirectTables indirect = {};  ///< only with VIRTIO_F_INDIRECT_DESC
};

/// Device-writable bytes of a chain. Nothing when the chain as a whole has 4 GiB and more
/// (2.7.5.2).
[[nodiscard]] inline std::optional<uint32_t> chain_capacity(
    std::span<const DriverBuffer> out, std::span<const DriverBuffer> in) noexcept {
  uint64_t readable = 0;
  for (const DriverBuffer& buffer : out) readable += buffer.len;
  uint64_t writable = 0;
  for (const DriverBuffer& buffer : in) writable += buffer.len;
  if (readable + writable > UINT32_MAX) return std::nullopt;
  return static_cast<uint32_t>(writable);
}

/// Which of a ring's indirect tables are free. Private memory; the tables are only written.
class TableStack {
 public:
  static constexpr uint16_t kNone = 0xffff;

  explicit TableStack(const IndirectTables& tables)
      : tables_(tables), free_(tables.count < kNone ? tables.count : kNone) {
    if (free_ == 0) return;
    stack_ = std::make_unique<uint16_t[]>(free_);
    for (uint32_t i = 0; i < free_; ++i) stack_[i] = static_cast<uint16_t>(free_ - 1 - i);
  }

  /// True when a chain of so many elements has to go into a table, and there is one.
  [[nodiscard]] bool fits(size_t elements) const noexcept {
    return elements > 1 && elements <= tables_.entries && free_ != 0;
  }
  /// A free table; fits() was true.
  [[nodiscard]] uint16_t take() noexcept { return stack_[--free_]; }
  void give_back(uint16_t table) noexcept { stack_[free_++] = table; }

  /// The table's descriptors, of the format's type.
  template <typename Desc>
  [[nodiscard]] Desc* descriptors(uint16_t table) const noexcept {
    return static_cast<Desc*>(tables_.memory) + size_t{table} * tables_.entries;
  }
  /// Its first byte as the device sees it.
  [[nodiscard]] uint64_t addr(uint16_t table) const noexcept {
    return tables_.addr + uint64_t{table} * tables_.entries * 16;
  }

 private:
  IndirectTables tables_;
  uint32_t free_;
  std::unique_ptr<uint16_t[]> stack_;
};

}  // namespace pollux::ring
