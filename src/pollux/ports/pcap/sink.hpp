// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "pollux/base/clock.hpp"
#include "pollux/base/doorbell.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/spin_lock.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/ports/pcap/capture_file.hpp"
#include "pollux/ring/spsc_ring.hpp"

namespace pollux {

/// The sending half of a pcap port: packets go through a ring to a thread of its own, which writes
/// them in batches, so that no worker ever waits for a disk. Whatever has come is written as soon
/// as the ring is empty. When a write fails (disk full), the queue is broken: its batch and
/// everything after are dropped as receiver_error.
class PcapSink {
 public:
  PcapSink(std::string path, CaptureWriter::Options options, std::string not_this, Pool& pool,
           const Clock& clock, Log log);
  ~PcapSink() { stop(); }
  PcapSink(const PcapSink&) = delete;
  PcapSink& operator=(const PcapSink&) = delete;

  /// Makes the file. Errors: as CaptureWriter::create.
  [[nodiscard]] Status start();
  /// Writes what is left and closes the file. Nobody sends any more.
  void stop() noexcept;

  [[nodiscard]] TxQueue queue() { return {this, send, flush, nullptr, &counters_}; }

  /// Why writing has ended, or empty. Any thread.
  [[nodiscard]] std::string broken() const;

 private:
  static constexpr size_t kRingSize = 4096;

  static DropReason send(void* self, Burst& burst) noexcept;
  static void flush(void* self) noexcept { static_cast<PcapSink*>(self)->bell_.ring(); }
  void write_behind();
  void write_burst(PoolCache& cache, Packet* const* packets, size_t count);
  void write_out();

  const std::string path_;
  const CaptureWriter::Options options_;
  const std::string not_this_;
  Pool& pool_;
  const Clock& clock_;
  const uint64_t epoch_;  // of clock_, in nanoseconds since 1970
  Log log_;
  QueueCounters counters_;  // packets and bytes: written by the thread
  SpinLock send_lock_;      // several workers may send; the ring has one producer
  SpscRing<Packet*> ring_{kRingSize};
  Doorbell bell_;  // wakes the thread when there is something to write
  std::atomic<bool> stopping_{false};
  std::atomic<bool> failed_{false};
  mutable std::mutex broken_mutex_;
  std::string broken_;
  std::optional<CaptureWriter> writer_;  // the thread's while it runs
  std::thread thread_;
};

}  // namespace pollux
