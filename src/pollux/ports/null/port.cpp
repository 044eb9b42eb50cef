// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/null/port.hpp"

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "pollux/base/spin_lock.hpp"
#include "pollux/packet/fill.hpp"

namespace pollux {
namespace {

constexpr std::array<PortKey, 2> kKeys{{
    {"size", "deliver frames of this many bytes without end, 14 to 9018 (deliver nothing)"},
    {"queues", "pairs of queues, 1 to 64 (1)"},
}};

/// Broadcast from a local address, of an EtherType that IEEE 802 leaves to local experiments.
constexpr std::array<uint8_t, 14> kFrameStart{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
                                              0,    0,    0,    0,    1,    0x88, 0xb5};

struct NullQueue {
  std::vector<std::byte> frame;  // what rx delivers; empty: nothing
  QueueCounters rx;
  QueueCounters tx;
  SpinLock tx_lock;

  static void poll(void* self, Burst& burst) noexcept {
    auto& queue = *static_cast<NullQueue*>(self);
    if (queue.frame.empty()) return;
    std::array<Packet*, Burst::kCapacity> fresh;
    const size_t count = burst.cache().allocate(fresh.data(), burst.room());
    size_t delivered = 0;
    for (size_t i = 0; i < count; ++i) {
      // Frames that were never taken from anybody need not be counted as dropped.
      if (!fill(*fresh[i], burst.cache(), queue.frame)) {
        burst.cache().release(fresh[i]);
        continue;
      }
      burst.push(fresh[i]);
      ++delivered;
    }
    queue.rx.packets.add(delivered);
    queue.rx.bytes.add(delivered * queue.frame.size());
  }

  static Wake arm(void* self) noexcept {
    return {static_cast<NullQueue*>(self)->frame.empty() ? Wake::kNever : Wake::kByTime};
  }

  static DropReason send(void* self, Burst& burst) noexcept {
    auto& queue = *static_cast<NullQueue*>(self);
    uint64_t bytes = 0;
    for (const Packet* packet : burst.packets()) bytes += packet->size();
    {
      const std::lock_guard guard(queue.tx_lock);
      queue.tx.packets.add(burst.size());
      queue.tx.bytes.add(bytes);
    }
    burst.clear();
    return DropReason::receiver_ring_full;  // nothing is left, so this says nothing
  }
};

class NullPort final : public Port {
 public:
  NullPort(uint32_t queues, uint32_t size) {
    for (uint32_t i = 0; i < queues; ++i) {
      queues_.push_back(std::make_unique<NullQueue>());
      if (size != 0) queues_.back()->frame = make_frame(size);
    }
  }

  [[nodiscard]] Status start() override {
    started_ = true;
    return {};
  }
  void stop() noexcept override { started_ = false; }

  [[nodiscard]] Status can_hand_over() const override { return {}; }
  [[nodiscard]] Status save(PortParcel&) override { return {}; }
  [[nodiscard]] Status adopt(PortParcel&) override { return start(); }

  [[nodiscard]] PortInfo info() const override {
    PortInfo info;
    info.kind = "null";
    info.link_up = started_;
    info.state = queues_[0]->frame.empty() ? "takes all, delivers nothing" : "takes and delivers";
    info.rx_queues = info.tx_queues = static_cast<uint16_t>(queues_.size());
    return info;
  }

  [[nodiscard]] std::vector<RxQueue> rx_queues() override {
    std::vector<RxQueue> out;
    for (auto& queue : queues_)
      out.push_back({queue.get(), NullQueue::poll, nullptr, &queue->rx, NullQueue::arm});
    return out;
  }
  [[nodiscard]] std::vector<TxQueue> tx_queues() override {
    std::vector<TxQueue> out;
    for (auto& queue : queues_) {
      out.push_back({queue.get(), NullQueue::send, nullptr, nullptr, &queue->tx});
    }
    return out;
  }

 private:
  static std::vector<std::byte> make_frame(uint32_t size) {
    std::vector<std::byte> frame(size);
    std::memcpy(frame.data(), kFrameStart.data(), kFrameStart.size());
    return frame;
  }

  std::vector<std::unique_ptr<NullQueue>> queues_;
  bool started_ = false;
};

}  // namespace

std::span<const PortKey> null_port_keys() { return kKeys; }

Result<std::unique_ptr<Port>> make_null_port(const PortSpec& spec, const PortContext&) {
  SpecReader read(spec);
  const uint32_t size = read.get_u32("size", {.min = 14, .max = 9018}, 0);
  const uint32_t queues = read.get_u32("queues", {.min = 1, .max = 64}, 1);
  read.refuse_target();
  if (Status done = read.finish(); !done) return forward(done);
  return std::make_unique<NullPort>(queues, size);
}

}  // namespace pollux
