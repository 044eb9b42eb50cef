// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/drop_reason.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/port/port.hpp"
#include "pollux/port/quiescence.hpp"
#include "pollux/stage/fdb.hpp"

namespace pollux {

using PortIndex = uint16_t;

/// What a worker does when none of its queues has had anything for a while.
enum class IdlePolicy {
  kPoll,      ///< polls on: lowest latency, a CPU for itself
  kYield,     ///< lets others run between polls
  kAdaptive,  ///< sleeps until a queue tells of packets, then polls again: kind to guests
};

struct EngineConfig {
  /// One worker a CPU, pinned to it. Empty: one worker that runs where the system puts it.
  std::vector<int> cpus;
  IdlePolicy idle = IdlePolicy::kAdaptive;
  stage::FdbConfig fdb;
};

/// Counters of one queue of a port, read without stopping anybody.
struct QueueStats {
  std::string name;  ///< "rx0", "tx0": rx is into the switch
  int worker = -1;   ///< which worker polls it; -1 for tx, which all may use
  uint64_t packets = 0;
  uint64_t bytes = 0;
  std::array<uint64_t, kDropReasonCount> drops{};
  QueueMode mode = QueueMode::kAdaptive;  ///< of rx
};

struct PortStats {
  PortIndex index = 0;
  std::string name;
  PortInfo info;
  std::vector<QueueStats> queues;
};

/// What one worker has done. cycles are those of the time-stamp counter.
struct WorkerStats {
  int cpu = -1;
  unsigned rx_queues = 0;
  uint64_t turns = 0;        ///< polls that brought packets
  uint64_t empty_turns = 0;  ///< polls of a queue that brought none
  uint64_t packets = 0;      ///< accepted
  uint64_t busy_cycles = 0;  ///< spent in turns that brought packets
  uint64_t idle_cycles = 0;
  uint64_t sleeps = 0;
  uint64_t floods = 0;        ///< packets that went to several ports ...
  uint64_t flood_copies = 0;  ///< ... and how many copies they became
  uint64_t gso_packets = 0;   ///< packets segmented in software ...
  uint64_t gso_segments = 0;  ///< ... and what they became
  uint64_t gro_segments = 0;  ///< segments that were joined ...
  uint64_t gro_packets = 0;   ///< ... and what they became

  /// How many packets became of those accepted, beyond themselves; modulo 2^64, as it may be less
  /// than none.
  [[nodiscard]] uint64_t made() const {
    return flood_copies - floods + gso_segments - gso_packets + gro_packets - gro_segments;
  }
};

/// The switch: workers that poll the ports' queues and carry what they find.
///
/// Every packet accepted from a port is carried to at least one other or counted under one reason:
///   rx packets - floods + flood_copies - gro_segments + gro_packets - gso_packets + gso_segments
///     == tx packets + all drops
/// over all workers (WorkerStats::made), once the workers have stopped.
///
/// Control functions are called by one thread, the one that runs the ports' event loop.
class Engine final : public Quiescence {
 public:
  /// Does not start anything. Everything passed in outlives the engine. Errors: a CPU that does not
  /// exist or may not be used.
  [[nodiscard]] static Result<std::unique_ptr<Engine>> create(const EngineConfig& config,
                                                              Pool& pool, const Clock& clock,
                                                              Log log);
  ~Engine() override;

  /// Starts the workers, for the first time or after pause().
  [[nodiscard]] Status start();

  /// Ends the workers after their round: nobody holds a packet or uses a ring until start().
  void pause();

  /// Ends the workers after their round, so that no packet is left in anybody's hands, then stops
  /// all ports. Statistics stay readable. May be called more than once.
  void stop();

  /// Takes a port over, starts it and gives its queues to the workers. `name` is unique, 1 to 63
  /// characters of letters, digits, '-', '_' and '.'.
  [[nodiscard]] Result<PortIndex> add_port(std::string name, std::unique_ptr<Port> port);

  /// The same for a port that was started already and had this number in another process. Errors:
  /// kAlreadyExists.
  [[nodiscard]] Status add_started_port(PortIndex index, std::string name,
                                        std::unique_ptr<Port> port);

  /// Adds what the same ports and workers have counted in another process, and takes the modes of
  /// queues from there. Before start().
  void add_counters(const std::vector<PortStats>& ports, const std::vector<WorkerStats>& workers);

  /// Calls `visit(index, name, port)` for each port.
  void for_each_port(const std::function<void(PortIndex, const std::string&, Port&)>& visit) const;

  /// Takes a port from the workers, stops and destroys it. Its counters are lost.
  [[nodiscard]] Status remove_port(const std::string& name);

  /// Waits until no worker uses what was unpublished before the call.
  [[nodiscard]] bool synchronize(Nanos deadline) noexcept override;

  /// How queue rx`queue` of a port is watched from now on; without `queue`, all its queues. With an
  /// idle policy other than kAdaptive all queues are polled anyway. Errors: no such port or queue.
  [[nodiscard]] Status set_queue_mode(const std::string& port, std::optional<unsigned> queue,
                                      QueueMode mode);

  [[nodiscard]] std::vector<PortStats> port_stats() const;
  [[nodiscard]] std::vector<WorkerStats> worker_stats() const;
  [[nodiscard]] stage::Fdb& fdb();
  [[nodiscard]] std::string port_name(PortIndex index) const;

  /// True when some port can finish and all such ports have delivered everything (capture files).
  [[nodiscard]] bool finished() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pollux
