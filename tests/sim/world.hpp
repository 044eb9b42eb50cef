// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/sim/config.hpp"
#include "tests/sim/fiber.hpp"
#include "tests/sim/weak_memory.hpp"

namespace pollux::sim {

/// Decides everything that is not decided by the code under test.
class Chooser {
 public:
  virtual ~Chooser() = default;

  /// Called before each access of a side (and while it waits). False ends the run at once: the
  /// state was seen before.
  virtual bool arrive(uint64_t /*state*/) { return true; }
  /// Whether stores are points at which the other side may go on.
  [[nodiscard]] virtual bool stops_at_stores() const { return true; }
  /// Whether the other side goes on now.
  virtual bool pass_on() = 0;
  /// Which of the values that a load may see: 0 (newest) ... options - 1.
  virtual size_t pick_value(size_t options) = 0;
  /// Whether this side dies now, when it may at this rate (of Config).
  virtual bool dies(Side side, uint32_t rate) = 0;
  /// Whether something happens that has this rate (of Config).
  virtual bool happens(uint32_t rate) = 0;
  /// Any number below `bound`.
  virtual uint32_t below(uint32_t bound) = 0;
};

/// A part of the shared memory: its name, and who may do what with it.
struct Part {
  const char* name = "";
  size_t begin = 0;
  size_t end = 0;
  uint8_t may = 0;  ///< kMay... of both sides

  static constexpr uint8_t kDriverReads = 1;
  static constexpr uint8_t kDriverWrites = 2;
  static constexpr uint8_t kDeviceReads = 4;
  static constexpr uint8_t kDeviceWrites = 8;
};

/// Two sides, the memory between them, a doorbell for each, and what happens in between.
class World {
 public:
  World(const Config& config, Chooser& chooser);

  /// Runs both sides to their end; what went wrong, or nothing.
  void run(const std::function<void()>& driver, const std::function<void()>& device);

  // ---- for the sides ----

  /// Addresses are of memory that nobody may touch otherwise: it is not even mapped.
  [[nodiscard]] std::byte* base() const { return base_; }
  [[nodiscard]] WeakMemory& memory() { return memory_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] Chooser& chooser() { return chooser_; }
  void lay_out(std::vector<Part> parts);

  uint64_t load(Side side, const void* from, size_t bytes, bool acquire);
  void store(Side side, void* to, size_t bytes, uint64_t value, bool release);
  void full_fence(Side side);

  /// Rings the other side's bell. It may be lost when the other is not about to wait: it will look.
  void ring(Side from);
  /// A session's message to a side that waits for its bell.
  void wake(Side side) { ++sides_[index(side)].bells; }
  /// From here on the other side's bell counts.
  void arm(Side side) { sides_[index(side)].armed = true; }
  void disarm(Side side) { sides_[index(side)].armed = false; }
  /// Until the bell rings. Nobody left to ring it: a wake-up was missed.
  void wait(Side side);
  /// Waits for something that is no access to the ring: a session's message. `peer` wakes it.
  void wait_until(Side side, const std::function<bool()>& done);

  /// True when the side is to end without doing anything more.
  [[nodiscard]] bool over(Side side) const { return over_ || sides_[index(side)].dying; }
  [[nodiscard]] bool over() const { return over_; }
  /// A killed side has come to its end: its place may be taken.
  void buried(Side side) { sides_[index(side)].dying = false; }
  void kill(Side side) { sides_[index(side)].dying = true; }
  /// A call into the code under test begins: it may take `bound` accesses.
  void begin_call(Side side, uint64_t bound);
  /// The run has failed, or is of no more interest.
  void fail(const std::string& why);
  void give_up() { over_ = true; }
  /// Stores by the constructor of a driver's ring: both sides' parts may be written.
  void resetting(bool yes) { resetting_ = yes; }

  [[nodiscard]] const std::string& failure() const { return failure_; }
  [[nodiscard]] uint64_t steps() const { return steps_; }
  void trace(bool yes) { trace_ = yes; }
  void note(Side side, const char* what, uint64_t value = 0) const;

 private:
  struct Peer {
    Fiber fiber;
    bool finished = false;
    bool waiting = false;
    bool dying = false;
    bool armed = false;
    std::function<bool()> until;  // instead of the bell
    uint32_t bells = 0;
    uint32_t rung_at = 0;  // the ringer's progress
    uint64_t budget = 0;   // accesses left to the call under way
  };

  bool step(Side side, bool is_store);
  void lie(Side victim);
  void stuck(const std::string& why);
  [[nodiscard]] bool runnable(Side side) const;
  void pass(Side from);
  void finish(Side side);
  [[nodiscard]] bool allowed(Side side, const void* at, size_t bytes, bool write, size_t& offset);
  [[nodiscard]] std::string where(size_t offset) const;
  [[nodiscard]] uint64_t state() const;

  const Config config_;
  Chooser& chooser_;
  std::byte* base_;
  WeakMemory memory_;
  std::vector<Part> parts_;
  std::array<Peer, 2> sides_;
  Fiber program_;
  bool over_ = false;
  bool resetting_ = false;
  bool trace_ = false;
  uint32_t deaths_ = 0;
  uint64_t arrived_ = 0;  // the state at the last arrival
  uint64_t steps_ = 0;
  std::string failure_;
};

}  // namespace pollux::sim
