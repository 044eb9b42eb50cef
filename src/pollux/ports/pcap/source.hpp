// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "pollux/base/doorbell.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/ports/pcap/capture_file.hpp"
#include "pollux/ring/spsc_ring.hpp"

namespace pollux {

/// The receiving half of a pcap port: a thread of its own reads the file ahead, so that no worker
/// ever waits for a disk, and hands packets over through a ring, as fast as they are polled.
///
/// Frames that can not be played are accepted and dropped: those that the capture cut short
/// (receive_truncated), runts, and those longer than a packet (too_long).
class PcapSource {
 public:
  PcapSource(std::string path, bool loop, Pool& pool, Log log)
      : path_(std::move(path)), loop_(loop), pool_(pool), log_(std::move(log)) {}
  ~PcapSource() { stop(); }
  PcapSource(const PcapSource&) = delete;
  PcapSource& operator=(const PcapSource&) = delete;

  /// Opens the file and starts reading. Errors: as CaptureReader::open.
  [[nodiscard]] Status start();
  /// Ends reading; what was read ahead returns to the pool. The queue is not polled any more.
  void stop() noexcept;

  [[nodiscard]] RxQueue queue() { return {this, poll, nullptr, &counters_, arm}; }

  /// True when the file has ended, or could not be read on, and everything before was polled.
  [[nodiscard]] bool finished() const noexcept {
    return ended_.load(std::memory_order_acquire) && ring_.size() == 0;
  }
  /// Why the file could not be read to its end; empty otherwise. Good once finished().
  [[nodiscard]] std::string broken() const {
    return ended_.load(std::memory_order_acquire) ? broken_ : std::string();
  }

 private:
  static constexpr size_t kReadAhead = 1024;

  static void poll(void* self, Burst& burst) noexcept;
  static Wake arm(void* self) noexcept {
    return {static_cast<PcapSource*>(self)->finished() ? Wake::kNever : Wake::kByTime};
  }
  void read_ahead(CaptureReader reader);
  Status read_once(CaptureReader& reader, PoolCache& cache);
  bool take(const CapturedFrame& frame, PoolCache& cache);
  void reject(const CapturedFrame& frame, DropReason reason);
  bool hand_over(Packet* packet);

  const std::string path_;
  const bool loop_;
  Pool& pool_;
  Log log_;
  QueueCounters counters_;
  SpscRing<Packet*> ring_{kReadAhead};
  Doorbell bell_;  // wakes the thread when the ring has room again
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  std::string broken_;   // written before ended_
  uint64_t played_ = 0;  // the thread's
  // The queue's counters have one writer, the worker that polls; it adds what the thread rejected.
  std::atomic<uint64_t> rejected_packets_{0};
  std::atomic<uint64_t> rejected_bytes_{0};
  uint64_t seen_packets_ = 0;
  uint64_t seen_bytes_ = 0;
  std::thread thread_;
};

}  // namespace pollux
