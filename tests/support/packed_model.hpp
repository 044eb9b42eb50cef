// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pollux/ring/packed_layout.hpp"

namespace pollux::test {

/// The least that a device does on a packed virtqueue, by the plain fields and without the code
/// under test: flags and wrap counters are worked out here again (VIRTIO 1.3, 2.8.1).
class PackedModel {
 public:
  struct Chain {
    uint16_t id = 0;
    uint16_t length = 0;  ///< descriptors in the ring
    std::vector<spec::pvirtq_desc> parts;
  };

  PackedModel(const ring::PackedLayout& layout, const std::byte* tables = nullptr,
              uint64_t tables_addr = 0)
      : layout_(layout), tables_(tables), tables_addr_(tables_addr) {}

  /// Whether the next descriptor is available.
  [[nodiscard]] bool available() const { return available(avail_); }

  /// How many chains are.
  [[nodiscard]] uint16_t count_available() const {
    uint16_t count = 0;
    for (Place at = avail_; count != layout_.size && available(at); ++count) {
      while ((layout_.desc[at.index].flags & 1) != 0) move(at, 1);
      move(at, 1);
    }
    return count;
  }

  /// The next available chain; the descriptors of its table when it has one.
  Chain take() {
    Chain chain;
    bool more = true;
    while (more) {
      const spec::pvirtq_desc desc = layout_.desc[avail_.index];
      ++chain.length;
      chain.id = desc.id;  // of the last one, 2.8.6
      more = (desc.flags & 1) != 0;
      if ((desc.flags & 4) != 0) {
        chain.parts.resize(desc.len / 16);
        std::memcpy(chain.parts.data(), tables_ + (desc.addr - tables_addr_), desc.len);
      } else {
        chain.parts.push_back(desc);
      }
      move(avail_, 1);
    }
    return chain;
  }

  /// Returns a chain; or, in order, a batch of `length` descriptors that ends with it.
  void use(uint16_t id, uint32_t len, uint16_t length) {
    spec::pvirtq_desc& desc = layout_.desc[used_.index];
    desc.id = id;
    desc.len = len;
    desc.flags = static_cast<uint16_t>((used_.wrap ? 0x8080 : 0) | (len != 0 ? 2 : 0));
    move(used_, length);
  }
  void use(const Chain& chain, uint32_t len) { use(chain.id, len, chain.length); }

 private:
  struct Place {
    uint32_t index = 0;
    bool wrap = true;
  };
  /// AVAIL as the wrap counter, USED not.
  [[nodiscard]] bool available(Place at) const {
    const uint16_t flags = layout_.desc[at.index].flags;
    return (flags & 0x8080) == (at.wrap ? 0x80 : 0x8000);
  }
  void move(Place& place, uint32_t count) const {
    for (; count != 0; --count) {
      if (++place.index == layout_.size) place = {0, !place.wrap};
    }
  }

  ring::PackedLayout layout_;
  const std::byte* tables_;
  uint64_t tables_addr_;
  Place avail_;
  Place used_;
};

}  // namespace pollux::test
