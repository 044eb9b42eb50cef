// SPDX-License-Identifier: Apache-2.0
// The ports of session_fuzz.cpp's switch: two guests, and one that behaves.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "pollux/packet/fill.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/port/quiescence.hpp"
#include "pollux/ports/vhost_user/device.hpp"
#include "tests/fuzz/session_frames.hpp"
#include "tests/fuzz/session_terms.hpp"
#include "tests/support/lying_front_end.hpp"

namespace pollux::liar {

/// The program's pool: made once, whole after each input.
inline Pool& pool() {
  static const std::unique_ptr<Pool> instance = std::move(
      Pool::create({.name = "fuzz", .packets = 256, .buffers = 64, .pages = HugePages::kNever})
          .value());
  return *instance;
}

/// The switch's one worker as control sees it: at rest, but for what control does in the midst of
/// a turn. Then it does not let go before control loses patience.
class OneWorker final : public Quiescence {
 public:
  [[nodiscard]] bool synchronize(Nanos /*deadline*/) noexcept override { return !busy; }
  bool busy = false;
};

/// The port that behaves: sends what it is told to, takes everything.
struct Neighbour {
  std::atomic<uint32_t> offloads{0};
  QueueCounters in;
  QueueCounters out;
  size_t frame = 0;       // bytes of the next frames; 0: none
  uint32_t segments = 0;  // of a TCP connection, that many; 0: one frame of no protocol
  bool partial = false;   // the connection's checksums
  uint8_t destination = 0xff;

  RxQueue rx() { return {this, poll, nullptr, &in}; }
  TxQueue tx() { return {this, send, flush, &offloads, &out}; }

  static void poll(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<Neighbour*>(self);
    if (port.frame == 0) return;
    if (port.segments == 0) {
      port.push(burst, port.plain());
    } else {
      for (uint32_t n = 0; n < port.segments; ++n) port.push(burst, port.segment(n));
    }
    port.frame = port.segments = 0;
  }
  static DropReason send(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<Neighbour*>(self);
    for (const Packet* packet : burst.packets()) {
      std::vector<std::byte> bytes(packet->size());
      require(packet->copy_to(bytes.data(), 0, bytes.size()) == bytes.size(), "a packet cut short");
    }
    port.out.packets.add(burst.size());
    burst.release_front(burst.size());
    return DropReason::receiver_ring_full;
  }
  static void flush(void* /*self*/) noexcept {}

 private:
  [[nodiscard]] std::vector<uint8_t> plain() const {
    std::vector<uint8_t> bytes(frame, 0xff);
    const std::array<uint8_t, 12> addresses{2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, 9};
    if (destination != 0xff) std::memcpy(bytes.data(), addresses.data(), 6);
    std::memcpy(bytes.data() + 6, addresses.data() + 6, 6);
    return bytes;
  }
  [[nodiscard]] std::vector<uint8_t> segment(uint32_t n) const {
    std::vector<uint8_t> bytes = tcp_packet({}, frame, destination, 9);
    bytes.erase(bytes.begin(), bytes.begin() + spec::kNetHdrSize);
    number_segment(bytes, n, n + 1 == segments, partial);
    return bytes;
  }
  void push(Burst& burst, const std::vector<uint8_t>& bytes) noexcept {
    Packet* packet = burst.room() == 0 ? nullptr : burst.cache().allocate();
    if (packet == nullptr) return;
    if (!fill(*packet, burst.cache(), std::as_bytes(std::span(bytes)))) {
      burst.cache().release(packet);
      return;
    }
    if (segments != 0 && partial) {
      packet->meta.needs_csum = true;
      packet->meta.csum_start = 34;
      packet->meta.csum_offset = 16;
    }
    in.packets.add(1);
    burst.push(packet);
  }
};

/// A guest's port, and what happens in the midst of turns: a change of the guests' memory after
/// packets were taken and before they are forwarded, and whatever `between` does before each call.
struct Guest {
  vhost_user::NetDevice device;
  FrontEnd front_end;
  std::vector<RxQueue> rx = device.rx_queues();
  std::vector<TxQueue> tx = device.tx_queues();
  template <typename Queue>
  struct Hooked {
    Queue queue;
    Guest* guest;
  };
  std::vector<Hooked<RxQueue>> hooked_rx;
  std::vector<Hooked<TxQueue>> hooked_tx;
  size_t race_at = 0;
  std::vector<uint8_t> race;
  std::function<void()> between;

  Guest(EventLoop& loop, Quiescence& worker, const Descriptors& fds, unsigned which)
      : device({.queue_pairs = 2,
                .senders = 1,
                .queue_size = 1024,
                .features = kOffered,
                .in_band = true,
                .loop = &loop},
               worker, {}),
        front_end(loop, fds, which, device) {
    for (const RxQueue& queue : rx) hooked_rx.push_back({queue, this});
    for (const TxQueue& queue : tx) hooked_tx.push_back({queue, this});
  }

  /// Packets that its rings have carried, either way.
  [[nodiscard]] uint64_t carried() const { return sent() + received(); }
  [[nodiscard]] uint64_t sent() const { return sum(rx); }
  [[nodiscard]] uint64_t received() const { return sum(tx); }

  /// The two steps in which a turn ends.
  template <typename Queue>
  static void hook_steps(Queue& queue) {
    queue.show = [](void* self) noexcept {
      const Queue& queue = static_cast<Hooked<Queue>*>(self)->queue;
      return queue.show(queue.self);
    };
    queue.notify = [](void* self) noexcept {
      const Queue& queue = static_cast<Hooked<Queue>*>(self)->queue;
      queue.notify(queue.self);
    };
  }
  RxQueue source(size_t i) {
    RxQueue queue = rx[i];
    queue.self = &hooked_rx[i];
    queue.poll = [](void* self, Burst& burst) noexcept {
      auto& hooked = *static_cast<Hooked<RxQueue>*>(self);
      hooked.queue.poll(hooked.queue.self, burst);
      Guest& guest = *hooked.guest;
      if (burst.empty()) return;
      guest.front_end.memory().put(guest.race_at, guest.race.data(), guest.race.size());
      guest.race.clear();
      guest.between();
    };
    queue.complete = [](void* self) noexcept {
      const RxQueue& queue = static_cast<Hooked<RxQueue>*>(self)->queue;
      queue.complete(queue.self);
    };
    hook_steps(queue);
    queue.prefetch = [](void* self) noexcept {
      const RxQueue& queue = static_cast<Hooked<RxQueue>*>(self)->queue;
      queue.prefetch(queue.self);
    };
    queue.idle = [](void* self) noexcept {
      const RxQueue& queue = static_cast<Hooked<RxQueue>*>(self)->queue;
      return queue.idle(queue.self);
    };
    return queue;
  }
  TxQueue sink(size_t i) {
    TxQueue queue = tx[i];
    queue.self = &hooked_tx[i];
    queue.send = [](void* self, Burst& burst) noexcept {
      auto& hooked = *static_cast<Hooked<TxQueue>*>(self);
      const DropReason reason = hooked.queue.send(hooked.queue.self, burst);
      hooked.guest->between();
      return reason;
    };
    queue.flush = [](void* self) noexcept {
      const TxQueue& queue = static_cast<Hooked<TxQueue>*>(self)->queue;
      queue.flush(queue.self);
    };
    hook_steps(queue);
    return queue;
  }

 private:
  template <typename Queue>
  static uint64_t sum(const std::vector<Queue>& queues) {
    uint64_t packets = 0;
    for (const Queue& queue : queues) packets += queue.counters->packets.value();
    return packets;
  }
};

}  // namespace pollux::liar
