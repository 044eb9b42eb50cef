// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pollux::sim {

enum class Side : uint8_t { kDriver = 0, kDevice = 1 };
[[nodiscard]] constexpr Side other(Side side) {
  return side == Side::kDriver ? Side::kDevice : Side::kDriver;
}
[[nodiscard]] constexpr size_t index(Side side) { return static_cast<size_t>(side); }

/// Memory shared by two sides, as weak as C++ and VIRTIO allow it to be. It does not delay stores:
/// it remembers them, and lets the reader see an older one wherever nothing forbids that.
///
///   - Each cell of two bytes has its stores in one order. Nobody goes back in it, and everybody
///     sees at least his own (coherence).
///   - A release store, and a store after a full fence, carries how far its writer was. Whoever
///     reads it with acquire, or passes a full fence after reading it, sees all of that.
///   - Full fences stand in one order: after a later one its side sees everything that was stored
///     before an earlier one.
///   - What is read or written at once (8 bytes at most) is never torn; anything longer may be.
///
/// With two sides "how far" is one number: the writer's stores so far. What is missing compared
/// with C++: a load never sees a store that comes later in all executions (load buffering).
class WeakMemory {
 public:
  /// All zero, known to both sides.
  explicit WeakMemory(size_t bytes) : cells_((bytes + 1) / 2) {}

  /// Back to zero, known to both sides, with nothing remembered.
  void clear(size_t bytes);

  /// The values that a load may see, told apart by how many of the other side's newest stores it
  /// misses: 0 ... options() - 1. `bytes` <= 8, the place any.
  size_t look(Side reader, size_t at, size_t bytes);
  /// Reads what look() found (same arguments), with the newest `missed` stores not yet seen.
  uint64_t read(size_t missed, bool acquire);

  /// At most 8 bytes at once.
  void write(Side writer, size_t at, size_t bytes, uint64_t value, bool release);
  void full_fence(Side side);

  /// How far a side is, to be handed over by other means than memory (a doorbell, a socket) ...
  [[nodiscard]] uint32_t progress(Side side) const { return sides_[index(side)].stores; }
  /// ... and everything up to there seen.
  void see(Side reader, uint32_t progress);
  /// Both sides see everything.
  void settle();

  /// The newest value, whoever sees it.
  [[nodiscard]] uint64_t newest(size_t at, size_t bytes) const;

  /// Of everything that this side has observed: two executions in which both sides have observed
  /// the same are in the same state.
  [[nodiscard]] uint64_t history(Side side) const { return sides_[index(side)].history; }
  void observe(Side side, uint64_t what);

 private:
  static constexpr size_t kKept = 4;  // stores of a cell; older ones are seen by everybody

  struct Store {
    uint16_t value = 0;
    Side writer = Side::kDriver;
    uint32_t number = 0;    // of its writer's stores, from 1
    uint32_t released = 0;  // whoever acquires it sees the writer's stores up to here
  };
  struct Cell {
    std::array<Store, kKept> stores{};
    uint8_t count = 1;
    uint32_t base = 0;                  // place of stores[0] in the order of all of the cell
    std::array<uint32_t, 2> seen = {};  // place that each side has read up to
  };
  struct State {
    uint32_t stores = 0;
    uint32_t fenced = 0;   // own stores before the last full fence
    uint32_t horizon = 0;  // the other's stores that are seen for certain
    uint32_t heard = 0;    // ... that will be after a full fence
    uint64_t history = 0;
  };

  [[nodiscard]] uint8_t visible(const Cell& cell, Side reader, uint32_t horizon) const;

  std::vector<Cell> cells_;
  std::array<State, 2> sides_;

  // What look() found.
  Side reader_ = Side::kDriver;
  size_t at_ = 0;
  size_t bytes_ = 0;
  size_t news_ = 0;
  std::array<uint32_t, 5 * kKept> new_{};  // numbers of stores that may be missed, ascending
};

}  // namespace pollux::sim
