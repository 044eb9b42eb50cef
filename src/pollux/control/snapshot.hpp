// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/drop_reason.hpp"
#include "pollux/engine/engine.hpp"

namespace pollux {

/// What a switch is and has done at one moment; plain data. Everything that people and programs
/// are shown (tables, JSON) is made from it, so that no two views differ.
struct SwitchSnapshot {
  std::string version;
  int64_t pid = 0;
  Nanos uptime{0};   ///< since start
  std::string idle;  ///< "poll", "yield", "nap"
  /// How long packets waited when this process took the switch over; nothing when it did not.
  std::optional<Nanos> take_over_pause;

  struct Pool {
    uint32_t packets = 0;
    uint32_t packets_free = 0;  ///< those that no worker's cache holds: a little too low
    uint32_t buffers = 0;
    uint32_t buffers_free = 0;  ///< likewise
    uint32_t buffer_size = 0;   ///< bytes
    std::string memory;         ///< "18 MiB on 2 MiB pages"
    uint64_t page_size = 0;     ///< bytes
    bool huge_pages = false;
  };
  Pool pool;

  struct Fdb {
    uint64_t entries = 0;
    uint64_t capacity = 0;
    uint32_t max_age_s = 0;
    uint64_t learned = 0;
    uint64_t moved = 0;
    uint64_t evicted = 0;
    uint64_t expired = 0;
  };
  Fdb fdb;

  std::vector<PortStats> ports;
  std::vector<WorkerStats> workers;
};

/// An address that was learned.
struct FdbRow {
  std::string mac;  ///< "52:54:00:12:34:56"
  uint16_t vlan = 0;
  std::string port;
  uint32_t age_s = 0;  ///< since it was last heard
};

/// Counters of one direction, of a queue or added up.
struct FlowTotals {
  uint64_t packets = 0;
  uint64_t bytes = 0;
  std::array<uint64_t, kDropReasonCount> drops{};

  [[nodiscard]] uint64_t dropped() const;
};

/// A port's rx or tx queues ("rx", "tx") together.
[[nodiscard]] FlowTotals totals(const PortStats& port, std::string_view direction);

}  // namespace pollux
