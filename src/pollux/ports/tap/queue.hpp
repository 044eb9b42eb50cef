// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "pollux/base/fd.hpp"
#include "pollux/base/spin_lock.hpp"
#include "pollux/port/queue.hpp"

namespace pollux {

/// One queue of a tap interface, both directions. The kernel gives one packet a system call; there
/// is no way around that with a tap, so a call is made for each packet here and nowhere else in
/// the data path.
class TapQueue {
 public:
  explicit TapQueue(Pool& pool);
  ~TapQueue() { detach(); }
  TapQueue(const TapQueue&) = delete;
  TapQueue& operator=(const TapQueue&) = delete;

  /// Begins: `fd` is a queue of an interface, which takes packets with `offloads` (kTx... bits).
  void attach(UniqueFd fd, uint32_t offloads);
  /// Closes the queue and returns the buffers that lay ready; counters stay. Neither polled nor
  /// sent to meanwhile.
  void detach() noexcept;

  /// The queue's descriptor, -1 when detached.
  [[nodiscard]] int fd() const { return fd_.get(); }

  /// What it takes large it also gives large: TUNSETOFFLOAD means both.
  [[nodiscard]] RxQueue rx() {
    return {this, poll, nullptr, &rx_counters_, arm, nullptr, &offloads_};
  }
  [[nodiscard]] TxQueue tx() { return {this, send, nullptr, &offloads_, &tx_counters_}; }

 private:
  /// Packets a poll, so that a flood from the kernel does not starve other queues.
  static constexpr size_t kMaxPoll = 32;
  /// After a net header and a private head, the buffers of a longest packet; of one to be sent,
  /// all segments that a tail may have.
  static constexpr size_t kMaxPieces = 2 + Packet::kMaxSegments;
  static constexpr size_t kMaxSentPieces = 2 + Packet::kMaxLentSegments;

  static void poll(void* self, Burst& burst) noexcept;
  static Wake arm(void* self) noexcept;
  static DropReason send(void* self, Burst& burst) noexcept;

  bool lay_ready(PoolCache& cache) noexcept;
  bool read_one(Burst& burst) noexcept;
  void fill_in(Packet& packet, size_t size) noexcept;
  bool write_one(const Packet& packet, DropReason& left) noexcept;

  UniqueFd fd_;
  std::atomic<uint32_t> offloads_{0};
  Pool& pool_;
  std::atomic<bool> gone_{false};  // the interface was removed

  // rx: buffers that the next packet is read into, after its head. Those that it fills go with it
  // and are replaced.
  const size_t buffer_count_;
  std::array<BufferIndex, Packet::kMaxSegments> buffers_;
  size_t missing_;  // of the first of them
  std::array<iovec, kMaxPieces> pieces_;
  QueueCounters rx_counters_;

  SpinLock tx_lock_;
  QueueCounters tx_counters_;
};

}  // namespace pollux
