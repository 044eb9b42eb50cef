// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace pollux::sim {

enum class Format : uint8_t { kSplit, kPacked };

enum class Liar : uint8_t { kNobody, kDriver, kDevice };

/// One run of the simulation. Probabilities are in 1/65536 for each access.
struct Config {
  Format format = Format::kSplit;
  uint64_t seed = 1;  ///< everything that is random
  uint32_t size = 4;
  bool event_idx = false;
  uint32_t tables = 0;     ///< indirect tables; 0: not negotiated
  bool to_driver = false;  ///< chains are written by the device (receiveq), else read by it
  bool in_order = false;   ///< chains are returned in order, and the driver counts on it
  uint32_t max_chain = 1;  ///< buffers of a message, at most
  uint32_t messages = 16;
  uint32_t driver_batch = 1;  ///< messages that the driver shows at once, at most
  uint32_t device_batch = 1;
  bool driver_sleeps = true;  ///< waits for interrupts, else polls
  bool device_sleeps = true;

  uint32_t switch_rate = 0x8000;  ///< the other side goes on
  uint32_t stale_rate = 0x4000;   ///< a load misses stores that it may miss
  uint32_t bell_rate = 0x2000;    ///< a bell rings for nothing, twice, or not when nobody waits
  uint32_t kill_rate = 0;         ///< the device dies, and another resumes its ring
  uint32_t pause_rate = 0;        ///< the device is stopped in order and resumed, for each turn
  uint32_t reset_rate = 0;        ///< the driver dies, and another makes the ring anew
  Liar liar = Liar::kNobody;
  uint32_t lie_rate = 0;

  uint32_t kills = 0;            ///< exhaustive: how often the device may die
  uint64_t max_steps = 1000000;  ///< more accesses than that: it hangs
};

/// A run's shape, chosen by its seed alone.
[[nodiscard]] Config random_config(uint64_t seed);

/// Options of the command line that make this run.
[[nodiscard]] std::string to_options(const Config& config);

/// Sets one option ("size", "8"); false when there is no such option or value.
[[nodiscard]] bool set_option(Config& config, const std::string& name, const std::string& value);

}  // namespace pollux::sim
