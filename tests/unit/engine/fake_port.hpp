// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "pollux/base/spin_lock.hpp"
#include "pollux/port/port.hpp"
#include "tests/support/guest.hpp"

namespace pollux::test {

/// What happened at the ports of a test, in order: "a.poll", "a.complete", "b.send", "b.flush".
using Journal = std::vector<std::string>;

/// What ports that are gone have counted: the two sides of the engine's equation.
struct Totals {
  uint64_t accepted = 0;
  uint64_t fates = 0;
};

/// A port of which a test says what comes in and how much it takes. Its packets' tails are
/// borrowed from memory that turns to garbage at `complete`, as a guest's may.
class FakePort final : public Port {
 public:
  struct Config {
    std::string name;
    unsigned queues = 1;
    uint32_t offloads = 0;
    uint32_t large = 0;          ///< RxQueue::large
    Journal* journal = nullptr;  ///< one worker only
    bool in_steps = false;       ///< turns end by `show` and `notify`
    /// How many of `offered` packets are taken; called with the queue's lock held.
    std::function<size_t(size_t offered)> takes = [](size_t offered) { return offered; };
    /// Gets the port's counters when it dies.
    std::shared_ptr<Totals> totals = nullptr;
    /// Called for each packet taken.
    std::function<void(const Packet&)> sees = [](const Packet&) {};
  };
  /// What is delivered by one poll: frames with their metadata. Called by the polling worker.
  struct Frame {
    Bytes bytes;
    PacketMeta meta = {};
  };
  using Source = std::function<std::vector<Frame>(unsigned queue, size_t room)>;

  FakePort(Config config, Source source)
      : config_(std::move(config)),
        source_(std::move(source)),
        offloads_(config_.offloads),
        large_(config_.large) {
    for (unsigned i = 0; i < config_.queues; ++i) {
      queues_.push_back(std::make_unique<Queue>());
      queues_.back()->port = this;
      queues_.back()->index = i;
    }
  }
  ~FakePort() override {
    if (!config_.totals) return;
    for (const auto& queue : queues_) {
      config_.totals->accepted += queue->in.packets.value();
      config_.totals->fates +=
          queue->out.packets.value() + all_drops(queue->in) + all_drops(queue->out);
      EXPECT_FALSE(queue->unflushed) << "sent to, and never flushed";
      EXPECT_TRUE(queue->lent.empty()) << "polled, and never completed";
    }
  }

  [[nodiscard]] Status start() override {
    started_ = true;
    return {};
  }
  void stop() noexcept override { started_ = false; }
  [[nodiscard]] PortInfo info() const override { return {}; }
  [[nodiscard]] std::vector<RxQueue> rx_queues() override {
    std::vector<RxQueue> handles;
    for (auto& queue : queues_) {
      handles.push_back({queue.get(), poll, complete, &queue->in, nullptr, nullptr, &large_});
      if (config_.in_steps) handles.back().show = show, handles.back().notify = notify;
    }
    return handles;
  }
  [[nodiscard]] std::vector<TxQueue> tx_queues() override {
    std::vector<TxQueue> handles;
    for (auto& queue : queues_) {
      handles.push_back({queue.get(), send, flush, &offloads_, &queue->out});
      if (config_.in_steps) handles.back().show = show_sent, handles.back().notify = notify;
    }
    return handles;
  }

  [[nodiscard]] QueueCounters& in(unsigned queue = 0) { return queues_[queue]->in; }
  [[nodiscard]] QueueCounters& out(unsigned queue = 0) { return queues_[queue]->out; }
  [[nodiscard]] bool started() const { return started_; }

 private:
  struct Queue {
    FakePort* port = nullptr;
    unsigned index = 0;
    QueueCounters in;
    QueueCounters out;
    SpinLock lock;
    std::vector<Bytes> lent;  // what borrowed tails point into
    bool unflushed = false;
  };

  void note(const char* what) {
    if (config_.journal != nullptr) config_.journal->push_back(config_.name + "." + what);
  }

  static void poll(void* self, Burst& burst) noexcept {
    auto& queue = *static_cast<Queue*>(self);
    FakePort& port = *queue.port;
    EXPECT_TRUE(port.started_) << "polled while stopped";
    EXPECT_TRUE(burst.empty());
    for (const Frame& frame : port.source_(queue.index, burst.room())) {
      Packet* packet = burst.cache().allocate();
      if (packet == nullptr) break;
      queue.lent.push_back(frame.bytes);
      Bytes& bytes = queue.lent.back();
      const size_t head = bytes.size() <= Packet::kHeadCapacity ? bytes.size() : Packet::kHeadCopy;
      packet->set_head_size(static_cast<uint32_t>(head));
      std::copy_n(bytes.begin(), head, packet->head());
      if (head < bytes.size()) {
        packet->append(
            {bytes.data() + head, static_cast<uint32_t>(bytes.size() - head), kBorrowed});
      }
      packet->meta = frame.meta;
      burst.push(packet);
      queue.in.packets.add(1);
      queue.in.bytes.add(bytes.size());
    }
    if (!burst.empty()) port.note("poll");
  }

  static void complete(void* self) noexcept {
    auto& queue = *static_cast<Queue*>(self);
    if (queue.lent.empty()) return;
    for (Bytes& bytes : queue.lent) std::fill(bytes.begin(), bytes.end(), std::byte{0xdd});
    queue.lent.clear();
    queue.port->note("complete");
  }

  static bool show(void* self) noexcept {
    auto& queue = *static_cast<Queue*>(self);
    const bool any = !queue.lent.empty();
    if (any) queue.port->note("show");
    queue.lent.clear();
    return any;
  }
  static bool show_sent(void* self) noexcept {
    auto& queue = *static_cast<Queue*>(self);
    const bool any = queue.unflushed;
    if (any) queue.port->note("show");
    queue.unflushed = false;
    return any;
  }
  static void notify(void* self) noexcept { static_cast<Queue*>(self)->port->note("notify"); }

  static DropReason send(void* self, Burst& burst) noexcept {
    auto& queue = *static_cast<Queue*>(self);
    FakePort& port = *queue.port;
    EXPECT_TRUE(port.started_) << "sent to while stopped";
    const std::lock_guard guard(queue.lock);
    const size_t taken = std::min(burst.size(), port.config_.takes(burst.size()));
    for (size_t i = 0; i < taken; ++i) {
      port.config_.sees(burst[i]);
      queue.out.bytes.add(burst[i].size());
    }
    queue.out.packets.add(taken);
    queue.unflushed |= taken != 0;
    burst.release_front(taken);
    port.note("send");
    return DropReason::receiver_ring_full;
  }

  static void flush(void* self) noexcept {
    auto& queue = *static_cast<Queue*>(self);
    const std::lock_guard guard(queue.lock);
    queue.unflushed = false;
    queue.port->note("flush");
  }

  Config config_;
  Source source_;
  std::atomic<uint32_t> offloads_;
  std::atomic<uint32_t> large_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::atomic<bool> started_{false};
};

/// Nothing ever comes in.
inline FakePort::Source silent() {
  return [](unsigned, size_t) { return std::vector<FakePort::Frame>{}; };
}

/// An Ethernet frame between two of a test's addresses.
inline Bytes ethernet(uint8_t to, uint8_t from, size_t size = 60, unsigned seed = 1) {
  Bytes frame = pattern(size, seed);
  std::fill_n(frame.begin(), 14, std::byte{});
  frame[0] = frame[6] = std::byte{2};
  frame[5] = std::byte{to};
  frame[11] = std::byte{from};
  frame[12] = std::byte{0x88};
  frame[13] = std::byte{0xb5};
  return frame;
}

/// To everybody.
inline Bytes broadcast(uint8_t from, size_t size = 60, unsigned seed = 1) {
  Bytes frame = ethernet(0, from, size, seed);
  std::fill_n(frame.begin(), 6, std::byte{0xff});
  return frame;
}

}  // namespace pollux::test
