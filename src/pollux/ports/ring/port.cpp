// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/ring/port.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "pollux/base/spin_lock.hpp"
#include "pollux/ports/ring/registry.hpp"

namespace pollux {
namespace {

constexpr std::array<PortKey, 1> kKeys{{
    {"size", "packets that each ring holds, a power of two from 64 to 32768 (1024)"},
}};

class RingPort final : public Port {
 public:
  RingPort(std::string name, RingRegistry::Seat seat)
      : name_(std::move(name)),
        seat_(std::move(seat)),
        in_(seat_.link().to(seat_.side())),
        out_(seat_.link().to(1 - seat_.side())) {}
  ~RingPort() override { leave(); }

  [[nodiscard]] Status start() override {
    // What was left for an earlier port on this side is not for us.
    seat_.link().drain(seat_.side());
    seat_.link().present(seat_.side()).store(true, std::memory_order_release);
    return {};
  }
  void stop() noexcept override { leave(); }

  [[nodiscard]] PortInfo info() const override {
    PortInfo info;
    info.kind = "ring";
    info.target = name_;
    info.link_up = peer_present();
    info.state = info.link_up ? "joined" : "waiting for another ring port of this name";
    info.rx_queues = info.tx_queues = 1;
    const auto size = static_cast<uint32_t>(in_.capacity());
    info.rings = {{"rx0", size, true, "memory"}, {"tx0", size, true, "memory"}};
    return info;
  }

  [[nodiscard]] std::vector<RxQueue> rx_queues() override {
    return {{this, poll, nullptr, &rx_counters_}};
  }
  [[nodiscard]] std::vector<TxQueue> tx_queues() override {
    return {{this, send, nullptr, nullptr, &tx_counters_}};
  }

 private:
  static void poll(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<RingPort*>(self);
    std::array<Packet*, Burst::kCapacity> packets;
    const size_t count = port.in_.pop_burst(packets.data(), burst.room());
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; ++i) {
      bytes += packets[i]->size();
      burst.push(packets[i]);
    }
    port.rx_counters_.packets.add(count);
    port.rx_counters_.bytes.add(bytes);
  }

  static DropReason send(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<RingPort*>(self);
    if (!port.peer_present()) return DropReason::receiver_down;
    const std::lock_guard guard(port.tx_lock_);
    // Asked first, so that packets that do not fit are not copied in vain.
    if (port.out_.size() == port.out_.capacity()) return DropReason::receiver_ring_full;
    if (!port.own(burst)) return DropReason::receiver_ring_full;
    // The sizes first: a packet that was pushed is the receiver's.
    const size_t count = std::min(burst.size(), port.out_.capacity() - port.out_.size());
    port.tx_counters_.packets.add(count);
    port.tx_counters_.bytes.add(bytes_of(burst, count));
    (void)port.out_.push_bulk(burst.packets().data(), count);
    burst.take_front(count);
    return DropReason::receiver_ring_full;
  }

  /// Makes all packets owned, dropping those for which there are no buffers; false when none is
  /// left.
  bool own(Burst& burst) noexcept {
    burst.retain([&](Packet& packet) {
      if (burst.cache().make_owned(packet)) return true;
      tx_counters_.drops.add(DropReason::no_buffers);
      return false;
    });
    return !burst.empty();
  }

  static uint64_t bytes_of(const Burst& burst, size_t count) noexcept {
    uint64_t bytes = 0;
    for (const Packet* packet : burst.packets().first(count)) bytes += packet->size();
    return bytes;
  }

  [[nodiscard]] bool peer_present() const noexcept {
    return seat_.link().present(1 - seat_.side()).load(std::memory_order_acquire);
  }

  void leave() noexcept {
    if (!seat_.link().present(seat_.side()).exchange(false)) return;
    seat_.link().drain(seat_.side());
  }

  const std::string name_;
  RingRegistry::Seat seat_;
  RingLink::Ring& in_;
  RingLink::Ring& out_;
  QueueCounters rx_counters_;
  QueueCounters tx_counters_;
  SpinLock tx_lock_;  // several workers may send; the ring has one producer
};

}  // namespace

std::span<const PortKey> ring_port_keys() { return kKeys; }

Result<std::unique_ptr<Port>> make_ring_port(const PortSpec& spec, const PortContext& context) {
  SpecReader read(spec);
  const uint32_t size = read.get_u32("size", {.min = 64, .max = 32768, .power_of_two = true}, 1024);
  read.require_target("the name of a ring");
  if (Status done = read.finish(); !done) return forward(done);
  auto seat = context.rings.join(spec.target, context.pool, size);
  if (!seat) return forward(seat);
  return std::make_unique<RingPort>(spec.target, std::move(*seat));
}

}  // namespace pollux
