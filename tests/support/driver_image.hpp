// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/ring/split_layout.hpp"
#include "tests/support/guarded_memory.hpp"

namespace pollux::test {

/// Little-endian numbers in memory, a byte at a time.
template <typename T>
void put_le(std::byte* at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<std::byte>(uint64_t{value} >> (8 * i));
}
template <typename T>
[[nodiscard]] T get_le(const std::byte* at) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= uint64_t{std::to_integer<uint8_t>(at[i])} << (8 * i);
  return static_cast<T>(value);
}

/// Descriptor flags, 2.7.5.
inline constexpr uint16_t kNext = 1;
inline constexpr uint16_t kWrite = 2;
inline constexpr uint16_t kIndirect = 4;

/// A split virtqueue as a driver has it in memory, written at offsets worked out from VIRTIO 1.3,
/// section 2.7, without the code under test. Each part has guarded memory of its own.
class DriverImage {
 public:
  explicit DriverImage(uint32_t size)
      : size_(size),
        desc_(size_t{16} * size, 16),
        avail_(6 + size_t{2} * size, 2),
        used_(6 + size_t{8} * size, 4) {}

  [[nodiscard]] uint32_t size() const { return size_; }
  [[nodiscard]] ring::SplitLayout layout() const {
    return {size_, reinterpret_cast<spec::virtq_desc*>(desc_.data()),
            reinterpret_cast<spec::virtq_avail*>(avail_.data()),
            reinterpret_cast<spec::virtq_used*>(used_.data())};
  }
  [[nodiscard]] const GuardedMemory& desc_memory() const { return desc_; }
  [[nodiscard]] const GuardedMemory& avail_memory() const { return avail_; }
  [[nodiscard]] const GuardedMemory& used_memory() const { return used_; }

  /// Entry `index` of a table of descriptors anywhere (2.7.5).
  static void put_desc(std::byte* table, uint32_t index, uint64_t addr, uint32_t len,
                       uint16_t flags, uint16_t next) {
    std::byte* at = table + size_t{16} * index;
    put_le(at, addr);
    put_le(at + 8, len);
    put_le(at + 12, flags);
    put_le(at + 14, next);
  }
  void desc(uint32_t index, uint64_t addr, uint32_t len, uint16_t flags = 0, uint16_t next = 0) {
    put_desc(desc_.data(), index, addr, len, flags, next);
  }

  // The available ring (2.7.6): flags, idx, ring[size], used_event.
  void avail_flags(uint16_t flags) { put_le(avail_.data(), flags); }
  void avail_idx(uint16_t idx) { put_le(avail_.data() + 2, idx); }
  [[nodiscard]] uint16_t avail_idx() const { return get_le<uint16_t>(avail_.data() + 2); }
  void avail_entry(uint32_t slot, uint16_t head) {
    put_le(avail_.data() + 4 + size_t{2} * slot, head);
  }
  void used_event(uint16_t event) { put_le(avail_.data() + 4 + size_t{2} * size_, event); }
  /// Puts a head into the next entry and shows it.
  void offer(uint16_t head) {
    const uint16_t idx = avail_idx();
    avail_entry(idx % size_, head);
    avail_idx(static_cast<uint16_t>(idx + 1));
  }

  // The used ring (2.7.8): flags, idx, ring[size] of {id, len}, avail_event.
  [[nodiscard]] uint16_t used_flags() const { return get_le<uint16_t>(used_.data()); }
  void used_flags(uint16_t flags) { put_le(used_.data(), flags); }
  [[nodiscard]] uint16_t used_idx() const { return get_le<uint16_t>(used_.data() + 2); }
  void used_idx(uint16_t idx) { put_le(used_.data() + 2, idx); }
  [[nodiscard]] uint32_t used_id(uint32_t slot) const {
    return get_le<uint32_t>(used_.data() + 4 + size_t{8} * slot);
  }
  [[nodiscard]] uint32_t used_len(uint32_t slot) const {
    return get_le<uint32_t>(used_.data() + 8 + size_t{8} * slot);
  }
  [[nodiscard]] uint16_t avail_event() const {
    return get_le<uint16_t>(used_.data() + 4 + size_t{8} * size_);
  }

  /// Starts both rings at an index other than 0, as after a long life.
  void start_at(uint16_t index) {
    avail_idx(index);
    used_idx(index);
  }

 private:
  uint32_t size_;
  GuardedMemory desc_;
  GuardedMemory avail_;
  GuardedMemory used_;
};

}  // namespace pollux::test
