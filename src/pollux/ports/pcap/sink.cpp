// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/pcap/sink.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

namespace pollux {
namespace {

uint64_t nanoseconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<Nanos>(now).count());
}

}  // namespace

PcapSink::PcapSink(std::string path, CaptureWriter::Options options, std::string not_this,
                   Pool& pool, const Clock& clock, Log log)
    : path_(std::move(path)),
      options_(options),
      not_this_(std::move(not_this)),
      pool_(pool),
      clock_(clock),
      epoch_(nanoseconds_since_1970() - static_cast<uint64_t>(clock.now().count())),
      log_(std::move(log)) {}

Status PcapSink::start() {
  auto writer = CaptureWriter::create(path_, options_, not_this_);
  if (!writer) return forward(writer);
  writer_ = std::move(*writer);
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "pollux-pcap-tx");
    write_behind();
  });
  return {};
}

void PcapSink::stop() noexcept {
  stopping_.store(true, std::memory_order_release);
  bell_.ring();
  if (thread_.joinable()) thread_.join();
  writer_.reset();
}

std::string PcapSink::broken() const {
  const std::lock_guard guard(broken_mutex_);
  return broken_;
}

DropReason PcapSink::send(void* self, Burst& burst) noexcept {
  auto& sink = *static_cast<PcapSink*>(self);
  if (sink.failed_.load(std::memory_order_relaxed)) {
    sink.counters_.drops.add(DropReason::receiver_error, burst.size());
    burst.clear();
    return DropReason::receiver_error;
  }
  const std::lock_guard guard(sink.send_lock_);
  const size_t room = kRingSize - sink.ring_.size();
  if (room == 0) return DropReason::receiver_ring_full;
  const uint64_t now = sink.epoch_ + static_cast<uint64_t>(sink.clock_.now().count());
  burst.retain([&](Packet& packet) {
    if (packet.meta.timestamp == 0) packet.meta.timestamp = now;
    if (burst.cache().make_owned(packet)) return true;
    sink.counters_.drops.add(DropReason::no_buffers);
    return false;
  });
  const size_t count = std::min(burst.size(), room);
  (void)sink.ring_.push_bulk(burst.packets().data(), count);
  burst.take_front(count);
  return DropReason::receiver_ring_full;
}

void PcapSink::write_behind() {
  PoolCache cache(pool_);
  std::array<Packet*, 64> packets;
  for (;;) {
    const bool last = stopping_.load(std::memory_order_acquire);
    const size_t count = ring_.pop_burst(packets.data(), packets.size());
    write_burst(cache, packets.data(), count);
    if (writer_->full() || count == 0) write_out();
    if (count != 0) continue;
    if (last) return;
    bell_.wait([&] { return ring_.size() != 0 || stopping_.load(std::memory_order_acquire); });
  }
}

void PcapSink::write_burst(PoolCache& cache, Packet* const* packets, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (failed_.load(std::memory_order_relaxed)) {
      counters_.drops.add(DropReason::receiver_error);
    } else {
      writer_->add(*packets[i], packets[i]->meta.timestamp);
    }
    cache.release(packets[i]);
  }
}

void PcapSink::write_out() {
  const uint64_t packets = writer_->pending_packets();
  const uint64_t bytes = writer_->pending_bytes();
  if (packets == 0) return;
  if (Status written = writer_->write_out(); !written) {
    counters_.drops.add(DropReason::receiver_error, packets);
    failed_.store(true, std::memory_order_relaxed);
    log_.error(written.error().what);
    const std::lock_guard guard(broken_mutex_);
    broken_ = written.error().what;
    return;
  }
  counters_.packets.add(packets);
  counters_.bytes.add(bytes);
}

}  // namespace pollux
