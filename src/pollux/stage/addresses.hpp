// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "pollux/packet/burst.hpp"
#include "pollux/stage/fdb.hpp"
#include "pollux/stage/outputs.hpp"

namespace pollux::stage {

/// The addresses of a burst, as MacAddress::key(): one pair for each run of packets that have the
/// same ones, as most bursts are few runs.
class Addresses {
 public:
  /// Reads the addresses of all packets, starts `outputs`, and asks `fdb` for their places. Packets
  /// that no stage may carry get their drop reason (runt, source_multicast), the others kUndecided.
  void read(const Burst& burst, const Fdb& fdb, Outputs& outputs) noexcept;

  /// All packets are one run, and undecided.
  [[nodiscard]] bool uniform() const noexcept { return uniform_; }

  /// By run.
  [[nodiscard]] std::span<const uint64_t> sources() const noexcept { return {&sources_[0], runs_}; }
  [[nodiscard]] std::span<const uint64_t> destinations() const noexcept {
    return {&destinations_[0], runs_};
  }
  /// By packet: its run, if it is undecided.
  [[nodiscard]] std::span<const uint8_t> run_of() const noexcept { return {&run_of_[0], packets_}; }

 private:
  std::array<uint64_t, Burst::kCapacity> sources_;
  std::array<uint64_t, Burst::kCapacity> destinations_;
  std::array<uint8_t, Burst::kCapacity> run_of_;
  size_t runs_ = 0;
  size_t packets_ = 0;
  bool uniform_ = false;
};

}  // namespace pollux::stage
