// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pollux/port/queue.hpp"

namespace pollux {

/// Ports of one switch at a time.
inline constexpr size_t kMaxPorts = 1024;

/// A queue that a worker polls, and the port that it belongs to.
struct RxSource {
  RxQueue queue;
  uint16_t port = 0;
  QueueMode mode = QueueMode::kAdaptive;
};

/// A port as a worker sends to it.
struct PortOutput {
  bool present = false;
  /// One handle a worker, by worker index: workers share queues only when there are more of them.
  std::vector<TxQueue> by_worker;
};

/// Everything that workers know of ports: immutable, replaced whole, and read through one pointer
/// once a round. A replaced topology is freed after quiescence.
struct Topology {
  std::vector<std::vector<RxSource>> sources;  ///< by worker index
  std::vector<PortOutput> outputs;             ///< by port index; absent ports leave holes
  std::vector<uint16_t> flood_ports;           ///< indices of the ports that are present
};

}  // namespace pollux
