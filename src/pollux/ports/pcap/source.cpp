// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/pcap/source.hpp"

#include <pthread.h>

#include <array>
#include <chrono>

#include "pollux/packet/fill.hpp"

namespace pollux {
namespace {

constexpr uint32_t kMinFrame = 14;

}  // namespace

Status PcapSource::start() {
  auto reader = CaptureReader::open(path_);
  if (!reader) return forward(reader);
  thread_ = std::thread([this, opened = std::move(*reader)]() mutable {
    pthread_setname_np(pthread_self(), "pollux-pcap-rx");
    read_ahead(std::move(opened));
  });
  return {};
}

void PcapSource::stop() noexcept {
  stopping_.store(true, std::memory_order_release);
  bell_.ring();
  if (thread_.joinable()) thread_.join();
  PoolCache cache(pool_);
  for (Packet* packet = nullptr; ring_.pop(packet);) cache.release(packet);
}

void PcapSource::poll(void* self, Burst& burst) noexcept {
  auto& source = *static_cast<PcapSource*>(self);
  std::array<Packet*, Burst::kCapacity> packets;
  const size_t count = source.ring_.pop_burst(packets.data(), burst.room());
  uint64_t bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    bytes += packets[i]->size();
    burst.push(packets[i]);
  }
  const uint64_t rejected = source.rejected_packets_.load(std::memory_order_acquire);
  if (rejected != source.seen_packets_) [[unlikely]] {
    const uint64_t rejected_bytes = source.rejected_bytes_.load(std::memory_order_relaxed);
    source.counters_.packets.add(rejected - source.seen_packets_);
    source.counters_.bytes.add(rejected_bytes - source.seen_bytes_);
    source.seen_packets_ = rejected;
    source.seen_bytes_ = rejected_bytes;
  }
  if (count == 0) return;
  source.counters_.packets.add(count);
  source.counters_.bytes.add(bytes);
  if (source.ring_.size() <= kReadAhead / 2) source.bell_.ring();
}

void PcapSource::read_ahead(CaptureReader reader) {
  PoolCache cache(pool_);
  Status done = read_once(reader, cache);
  // A file that brings nothing would be read for ever.
  while (done && loop_ && played_ != 0 && !stopping_.load(std::memory_order_acquire)) {
    auto again = CaptureReader::open(path_);
    done = again ? read_once(*again, cache) : Status(forward(again));
  }
  if (!done) {
    broken_ = done.error().what;
    log_.error(broken_);
  }
  ended_.store(true, std::memory_order_release);
}

Status PcapSource::read_once(CaptureReader& reader, PoolCache& cache) {
  for (;;) {
    auto frame = reader.next();
    if (!frame) return forward(frame);
    if (!*frame || !take(**frame, cache)) return {};
  }
}

/// False when stopping.
bool PcapSource::take(const CapturedFrame& frame, PoolCache& cache) {
  if (frame.bytes.size() < frame.length) {
    reject(frame, DropReason::receive_truncated);
    return true;
  }
  if (frame.length < kMinFrame || frame.length > Packet::kMaxLength) {
    reject(frame, frame.length < kMinFrame ? DropReason::runt : DropReason::too_long);
    return true;
  }
  while (!stopping_.load(std::memory_order_acquire)) {
    if (Packet* packet = cache.allocate()) {
      if (fill(*packet, cache, frame.bytes)) {
        packet->meta.timestamp = frame.timestamp;
        if (hand_over(packet)) {
          ++played_;
          return true;
        }
      }
      cache.release(packet);
    }
    // The pool is empty. A file is patient, and nobody tells when packets come back.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void PcapSource::reject(const CapturedFrame& frame, DropReason reason) {
  counters_.drops.add(reason);
  rejected_bytes_.fetch_add(frame.length, std::memory_order_relaxed);
  rejected_packets_.fetch_add(1, std::memory_order_release);
}

/// Waits until there is room; false when stopping.
bool PcapSource::hand_over(Packet* packet) {
  while (!ring_.push(packet)) {
    bell_.wait([&] {
      return ring_.size() <= kReadAhead / 2 || stopping_.load(std::memory_order_acquire);
    });
    if (stopping_.load(std::memory_order_acquire)) return false;
  }
  return true;
}

}  // namespace pollux
