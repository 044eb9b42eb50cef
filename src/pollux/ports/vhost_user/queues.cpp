// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/queues.hpp"

#include <array>
#include <chrono>
#include <cstring>
#include <mutex>
#include <utility>

#include "pollux/base/event_fd.hpp"
#include "pollux/mem/shared_access.hpp"
#include "pollux/ports/vhost_user/reception.hpp"

namespace pollux::vhost_user {
namespace {

/// RFC 903: a reverse ARP request from and for the address itself, to everybody; what a guest's
/// host sends when the guest has moved.
void push_announcement(Burst& burst, uint64_t mac, QueueCounters& counters) noexcept {
  constexpr size_t kSize = 60;
  Packet* packet = burst.room() == 0 ? nullptr : burst.cache().allocate();
  if (packet == nullptr) return;
  std::array<uint8_t, 6> address{};
  for (size_t i = 0; i < address.size(); ++i) address[i] = static_cast<uint8_t>(mac >> (8 * i));
  constexpr std::array<uint8_t, 10> kRarp{0x80, 0x35, 0, 1, 0x08, 0x00, 6, 4, 0, 3};
  packet->set_head_size(kSize);
  std::byte* frame = packet->head();
  std::memset(frame, 0, kSize);
  std::memset(frame, 0xff, 6);
  std::memcpy(frame + 6, address.data(), 6);
  std::memcpy(frame + 12, kRarp.data(), kRarp.size());
  std::memcpy(frame + 22, address.data(), 6);
  std::memcpy(frame + 32, address.data(), 6);
  burst.push(packet);
  counters.packets.add(1);
  counters.bytes.add(kSize);
}

/// Takes what a started but disabled queue brings, and forgets it ("Ring states").
void discard(Burst& burst, size_t from, QueueCounters& counters) noexcept {
  size_t index = 0;
  const size_t all = burst.size();
  burst.retain([&](Packet&) { return index++ < from; });
  counters.drops.add(DropReason::queue_disabled, all - from);
}

void poll(void* self, Burst& burst) noexcept {
  auto& slot = *static_cast<RxSlot*>(self);
  if (slot.announce.load(std::memory_order_relaxed) != 0) [[unlikely]] {
    push_announcement(burst, slot.announce.exchange(0), slot.counters);
  }
  if (slot.polled == nullptr) slot.polled = slot.live.load();
  LiveRx* live = slot.polled;
  if (live == nullptr) return;
  const bool enabled = live->enabled();
  if (!enabled && std::chrono::steady_clock::now() < live->left_alone_until.load()) [[unlikely]]
    return;
  const size_t before = burst.size();
  live->poll(burst, slot.counters);
  if (!enabled) [[unlikely]]
    return discard(burst, before, slot.counters);
  const Reception* reception = slot.reception->load();
  if (reception != nullptr && reception->flows != nullptr) [[unlikely]] {
    for (size_t i = before; i < burst.size(); ++i) reception->flows->note(burst[i], slot.pair);
  }
}

/// A disabled ring's packets are discarded by a turn, hence it is not idle.
bool idle(void* self) noexcept {
  const auto& slot = *static_cast<RxSlot*>(self);
  if (slot.announce.load(std::memory_order_relaxed) != 0) return false;
  LiveRx* live = slot.live.load();
  return live == nullptr || (live->enabled() && live->idle());
}

void prefetch(void* self) noexcept {
  if (const LiveRx* live = static_cast<RxSlot*>(self)->live.load(); live != nullptr) {
    live->prefetch();
  }
}

bool show(void* self) noexcept {
  auto& slot = *static_cast<RxSlot*>(self);
  LiveRx* live = std::exchange(slot.polled, nullptr);
  if (live == nullptr || !live->show()) return false;
  slot.shown = live;
  return true;
}

void notify(void* self) noexcept {
  LiveRx* live = std::exchange(static_cast<RxSlot*>(self)->shown, nullptr);
  if (live != nullptr && live->notification_wanted()) live->notify();
}

void complete(void* self) noexcept {
  if (!show(self)) return;
  SharedAccess{}.full_fence();
  notify(self);
}

Wake arm(void* self) noexcept {
  auto& slot = *static_cast<RxSlot*>(self);
  if (slot.announce.load(std::memory_order_relaxed) != 0) return {Wake::kNow};
  LiveRx* live = slot.live.load();
  if (live == nullptr) return {Wake::kNever};
  const vhost::SharedFd& kick = live->controls.load()->kick;
  if (!kick || live->kick_useless) return {Wake::kByTime};
  if (live->arm()) return {Wake::kNow};
  return {Wake::kSignal, kick->get()};
}

void disarm(void* self) noexcept {
  LiveRx* live = static_cast<RxSlot*>(self)->live.load();
  if (live == nullptr) return;
  live->disarm();
  const vhost::SharedFd& kick = live->controls.load()->kick;
  if (kick) live->kick_useless = !drain_event_fd(kick->get());
}

/// Drops what the peer asked not to get.
void drop_unwanted(const virtio::RxFilter& filter, Burst& burst, QueueCounters& counters) noexcept {
  const size_t before = burst.size();
  burst.retain([&](Packet& packet) { return filter.accepts(packet); });
  counters.drops.add(DropReason::receiver_filter, before - burst.size());
}

/// How often a ring that took some of its share is asked again, as Turn::transmit does.
constexpr unsigned kRetries = 3;

/// Sends one receiveq's share of a burst; what does not fit is dropped here, so that a full ring
/// holds nothing up that goes into others. `ring`: for a turn that has not filled another one yet.
void send_share(LiveTx* ring, TxSlot::Lane& lane, Burst& share, QueueCounters& counters) noexcept {
  LiveTx* live = lane.filled != nullptr ? lane.filled : ring;
  DropReason reason{};
  for (unsigned attempt = 0; attempt <= kRetries && !share.empty(); ++attempt) {
    const size_t before = share.size();
    const std::lock_guard guard(live->lock);
    OpenTurn* begins = std::exchange(lane.filled, live) == nullptr ? &lane.turn : nullptr;
    reason = live->send(share, counters, begins);
    if (share.size() == before) break;
  }
  counters.drops.add(reason, share.size());
}

/// Spreads a burst over the driver's receiveqs.
void steer(TxSlot& slot, const Reception& reception, Burst& burst) noexcept {
  std::array<uint16_t, Burst::kCapacity> to{};
  const size_t count = burst.size();
  for (size_t i = 0; i < count; ++i) to[i] = reception.classify(burst[i]);
  slot.steered = true;
  std::array<Packet*, Burst::kCapacity> packets{};
  for (size_t i = 0; i < count; ++i) packets[i] = burst.pop_front();
  for (size_t i = 0; i < count; ++i) {
    if (packets[i] == nullptr) continue;
    Burst share(burst.cache());
    for (size_t k = i; k < count; ++k) {
      if (to[k] == to[i] && packets[k] != nullptr) share.push(std::exchange(packets[k], nullptr));
    }
    send_share(reception.rings[to[i]], slot.lanes[to[i]], share, slot.counters);
  }
}

/// Does what the driver asked for; what is left in the burst goes the usual way.
void receive_as_asked(TxSlot& slot, const Reception& reception, Burst& burst) noexcept {
  if (reception.filter) drop_unwanted(*reception.filter, burst, slot.counters);
  if (!reception.rings.empty()) return steer(slot, reception, burst);
  if (!reception.hash) return;
  for (Packet* packet : burst.packets()) reception.note_hash(*packet);
}

DropReason send(void* self, Burst& burst) noexcept {
  auto& slot = *static_cast<TxSlot*>(self);
  if (const Reception* reception = slot.reception->load(); reception != nullptr) [[unlikely]] {
    receive_as_asked(slot, *reception, burst);
    if (burst.empty()) return DropReason::receiver_filter;
  }
  LiveTx* live = slot.filled != nullptr ? slot.filled : slot.live.load();
  if (live == nullptr) return DropReason::receiver_down;
  const std::lock_guard guard(live->lock);
  OpenTurn* begins = std::exchange(slot.filled, live) == nullptr ? &slot.turn : nullptr;
  return live->send(burst, slot.counters, begins);
}

/// Ends a turn that `filled` a ring, if it did; the ring, if there is something new to see in it.
LiveTx* end_turn(LiveTx*& filled, OpenTurn& turn) noexcept {
  LiveTx* live = std::exchange(filled, nullptr);
  if (live == nullptr) return nullptr;
  const std::lock_guard guard(live->lock);
  return live->end(turn) ? live : nullptr;
}

bool show_sent(void* self) noexcept {
  auto& slot = *static_cast<TxSlot*>(self);
  slot.shown = end_turn(slot.filled, slot.turn);
  bool any = slot.shown != nullptr;
  if (!slot.steered) [[likely]]
    return any;
  for (TxSlot::Lane& lane : slot.lanes) {
    lane.shown = end_turn(lane.filled, lane.turn);
    any |= lane.shown != nullptr;
  }
  slot.steered = any;  // notify_receivers() looks at them
  return any;
}

void notify_of_sent(LiveTx*& shown) noexcept {
  LiveTx* live = std::exchange(shown, nullptr);
  if (live == nullptr) return;
  bool wanted = false;
  {
    const std::lock_guard guard(live->lock);
    wanted = live->notification_wanted();
  }
  if (wanted) live->notify();
}

void notify_receivers(void* self) noexcept {
  auto& slot = *static_cast<TxSlot*>(self);
  notify_of_sent(slot.shown);
  if (!slot.steered) [[likely]]
    return;
  slot.steered = false;
  for (TxSlot::Lane& lane : slot.lanes) notify_of_sent(lane.shown);
}

void flush(void* self) noexcept {
  if (!show_sent(self)) return;
  SharedAccess{}.full_fence();
  notify_receivers(self);
}

}  // namespace

RxQueue RxSlot::handle() noexcept {
  return {this, poll, complete, &counters, arm, disarm, large, show, notify, prefetch, idle};
}

TxQueue TxSlot::handle() noexcept {
  return {this, send, flush, offloads, &counters, show_sent, notify_receivers};
}

}  // namespace pollux::vhost_user
