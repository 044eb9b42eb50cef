// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tests/sim/world.hpp"

namespace pollux::sim {

/// What SharedAccess is to the data path: the same functions, on simulated memory. Memory of one's
/// own (what is copied to or from) is real.
class Access {
 public:
  Access(World& world, Side side) : world_(&world), side_(side) {}

  template <typename T>
  [[nodiscard]] T load(const T* from) const {
    return static_cast<T>(world_->load(side_, from, sizeof(T), false));
  }
  template <typename T>
  [[nodiscard]] T load_acquire(const T* from) const {
    return static_cast<T>(world_->load(side_, from, sizeof(T), true));
  }
  template <typename T>
  void store(T* to, T value) const {
    world_->store(side_, to, sizeof(T), static_cast<uint64_t>(value), false);
  }
  template <typename T>
  void store_release(T* to, T value) const {
    world_->store(side_, to, sizeof(T), static_cast<uint64_t>(value), true);
  }
  template <typename T>
  [[nodiscard]] T snapshot(const void* from) const {
    std::array<uint64_t, sizeof(T) / sizeof(uint64_t)> words;
    const auto* in = static_cast<const std::byte*>(from);
    for (size_t i = 0; i < words.size(); ++i) words[i] = world_->load(side_, in + 8 * i, 8, false);
    return std::bit_cast<T>(words);
  }
  void full_fence() const { world_->full_fence(side_); }
  void copy_in(void* to, const void* from, size_t size) const {
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    for (size_t done = 0; done < size; done += 8) {
      const size_t n = std::min<size_t>(size - done, 8);
      const uint64_t word = world_->load(side_, in + done, n, false);
      std::memcpy(out + done, &word, n);
    }
  }
  void copy_out(void* to, const void* from, size_t size) const {
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    for (size_t done = 0; done < size; done += 8) {
      const size_t n = std::min<size_t>(size - done, 8);
      uint64_t word = 0;
      std::memcpy(&word, in + done, n);
      world_->store(side_, out + done, n, word, false);
    }
  }
  void prefetch_read(const void* /*at*/) const {}
  void prefetch_write(const void* /*at*/) const {}

 private:
  World* world_;
  Side side_;
};

}  // namespace pollux::sim
