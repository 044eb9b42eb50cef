// SPDX-License-Identifier: Apache-2.0
// A driver and a device of a packed ring, in tests in which devices die.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

#include "tests/support/packed_image.hpp"

namespace pollux::test {

/// The driver's account of its ring, which begins at `at`.
struct PackedDriverModel {
  struct Chain {
    uint16_t id;
    uint32_t count;
  };
  ring::PackedCursor at;      // where it looks for the next used descriptor
  std::deque<Chain> waiting;  // in order
  std::vector<uint16_t> free;
  uint32_t room = 0;

  explicit PackedDriverModel(uint32_t size) : room(size) {
    for (uint32_t i = 0; i < size; ++i) free.push_back(static_cast<uint16_t>(i));
  }
  bool offer(PackedImage& image, uint32_t count) {
    if (count > room) return false;
    const uint16_t id = free.back();
    free.pop_back();
    image.offer(std::vector<PackedImage::Element>(count, {0x10000, 100}), id);
    waiting.push_back({id, count});
    room -= count;
    return true;
  }
  /// Takes one used descriptor, which is for one chain, or in order for all before it too; how many
  /// chains came back.
  uint32_t collect(const PackedImage& image) {
    if (!image.used(at.index, at.wrap)) return 0;
    const uint16_t id = image.id(at.index);
    uint32_t chains = 0;
    for (bool last = false; !last; ++chains) {
      EXPECT_FALSE(waiting.empty()) << "an id that does not wait";
      if (waiting.empty()) return chains;
      const Chain chain = waiting.front();
      waiting.pop_front();
      last = chain.id == id;
      at = at.advanced(chain.count, image.size());
      room += chain.count;
      free.insert(free.begin(), chain.id);
    }
    return chains;
  }
};

/// The device takes and puts up to `most` chains; how many.
template <typename Ring>
uint32_t use_all(Ring& ring, uint32_t most) {
  const uint32_t count = std::min(ring.available(most), most);
  for (uint32_t i = 0; i < count; ++i) {
    uint16_t head = 0;
    EXPECT_TRUE(ring.head(i, head));
    ring.put_used(head, 40 + i);
  }
  ring.take(count);
  return count;
}

}  // namespace pollux::test
