// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pollux/ring/packed_layout.hpp"
#include "tests/support/driver_image.hpp"
#include "tests/support/guarded_memory.hpp"

namespace pollux::test {

/// Descriptor flags of packed rings, 2.8.1.
inline constexpr uint16_t kAvail = 0x80;
inline constexpr uint16_t kUsed = 0x8000;

/// A packed virtqueue as a driver has it in memory, written at offsets worked out from VIRTIO 1.3,
/// section 2.8, without the code under test. Each part has guarded memory of its own.
class PackedImage {
 public:
  explicit PackedImage(uint32_t size)
      : size_(size), desc_(size_t{16} * size, 16), driver_(4, 4), device_(4, 4) {}

  [[nodiscard]] uint32_t size() const { return size_; }
  [[nodiscard]] ring::PackedLayout layout() const {
    return {size_, reinterpret_cast<spec::pvirtq_desc*>(desc_.data()),
            reinterpret_cast<spec::pvirtq_event_suppress*>(driver_.data()),
            reinterpret_cast<spec::pvirtq_event_suppress*>(device_.data())};
  }
  [[nodiscard]] const GuardedMemory& desc_memory() const { return desc_; }
  [[nodiscard]] const GuardedMemory& driver_memory() const { return driver_; }
  [[nodiscard]] const GuardedMemory& device_memory() const { return device_; }

  /// Entry `index` of the ring, or of a table anywhere (2.8.13).
  static void put_desc(std::byte* table, uint32_t index, uint64_t addr, uint32_t len, uint16_t id,
                       uint16_t flags) {
    std::byte* at = table + size_t{16} * index;
    put_le(at, addr);
    put_le(at + 8, len);
    put_le(at + 12, id);
    put_le(at + 14, flags);
  }
  void desc(uint32_t index, uint64_t addr, uint32_t len, uint16_t id, uint16_t flags) {
    put_desc(desc_.data(), index, addr, len, id, flags);
  }
  void flags(uint32_t index, uint16_t flags) { put_le(entry(index) + 14, flags); }

  [[nodiscard]] uint64_t addr(uint32_t index) const { return get_le<uint64_t>(entry(index)); }
  [[nodiscard]] uint32_t len(uint32_t index) const { return get_le<uint32_t>(entry(index) + 8); }
  [[nodiscard]] uint16_t id(uint32_t index) const { return get_le<uint16_t>(entry(index) + 12); }
  [[nodiscard]] uint16_t flags(uint32_t index) const { return get_le<uint16_t>(entry(index) + 14); }

  /// Where the driver puts its next descriptor, and its wrap counter (2.8.1).
  uint32_t next = 0;
  bool wrap = true;

  struct Element {
    uint64_t addr;
    uint32_t len;
    uint16_t flags = 0;
  };
  /// Makes a list of elements available: NEXT on all but the last, the id everywhere.
  void offer(const std::vector<Element>& elements, uint16_t id) {
    const uint32_t first = next;
    uint16_t first_flags = 0;
    for (size_t i = 0; i < elements.size(); ++i) {
      const Element& e = elements[i];
      const auto flags = static_cast<uint16_t>(e.flags | (wrap ? kAvail : kUsed) |
                                               (i + 1 == elements.size() ? 0 : kNext));
      if (i == 0) first_flags = flags;
      put_le(entry(next), e.addr);
      put_le(entry(next) + 8, e.len);
      put_le(entry(next) + 12, id);
      if (i != 0) put_le(entry(next) + 14, flags);
      if (++next == size_) {
        next = 0;
        wrap = !wrap;
      }
    }
    put_le(entry(first) + 14, first_flags);
  }
  void offer(uint64_t addr, uint32_t len, uint16_t flags, uint16_t id) {
    offer({{addr, len, flags}}, id);
  }

  /// Whether the device marked an entry used in the lap of `lap_wrap`.
  [[nodiscard]] bool used(uint32_t index, bool lap_wrap = true) const {
    const uint16_t both = kAvail | kUsed;
    return (flags(index) & both) == (lap_wrap ? both : 0);
  }

  /// Descriptors, and where the driver is, of another image of this size.
  void copy(const PackedImage& from) {
    std::memcpy(desc_.data(), from.desc_.data(), size_t{16} * size_);
    next = from.next;
    wrap = from.wrap;
  }

  // Event suppression (2.8.14): desc, flags.
  void driver_event(uint16_t desc, uint16_t flags) {
    put_le(driver_.data(), desc);
    put_le(driver_.data() + 2, flags);
  }
  [[nodiscard]] uint16_t device_desc() const { return get_le<uint16_t>(device_.data()); }
  [[nodiscard]] uint16_t device_flags() const { return get_le<uint16_t>(device_.data() + 2); }

 private:
  [[nodiscard]] std::byte* entry(uint32_t index) const { return desc_.data() + size_t{16} * index; }

  uint32_t size_;
  GuardedMemory desc_;
  GuardedMemory driver_;
  GuardedMemory device_;
};

}  // namespace pollux::test
