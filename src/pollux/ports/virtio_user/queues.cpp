// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/virtio_user/queues.hpp"

#include <sys/eventfd.h>

#include <cerrno>
#include <mutex>

#include "pollux/base/event_fd.hpp"

namespace pollux::virtio_user {
namespace {

void poll(void* self, Burst& burst) noexcept {
  auto& slot = *static_cast<RxSlot*>(self);
  LiveRx* live = slot.live.load(std::memory_order_acquire);
  if (live == nullptr) return;
  if (live->poll(burst, slot.counters)) live->notify();
}

Wake arm(void* self) noexcept {
  LiveRx* live = static_cast<RxSlot*>(self)->live.load(std::memory_order_acquire);
  if (live == nullptr) return {Wake::kByTime};  // the port's thread may publish one any time
  if (live->arm()) return {Wake::kNow};
  return {Wake::kSignal, live->call.get()};
}

void disarm(void* self) noexcept {
  LiveRx* live = static_cast<RxSlot*>(self)->live.load(std::memory_order_acquire);
  if (live == nullptr) return;
  live->disarm();
  (void)drain_event_fd(live->call.get());
}

DropReason send(void* self, Burst& burst) noexcept {
  auto& slot = *static_cast<TxSlot*>(self);
  LiveTx* live = slot.live.load(std::memory_order_acquire);
  if (live == nullptr) return DropReason::receiver_down;
  const std::lock_guard guard(live->lock);
  return live->send(burst, slot.counters);
}

void flush(void* self) noexcept {
  auto& slot = *static_cast<TxSlot*>(self);
  LiveTx* live = slot.live.load(std::memory_order_acquire);
  if (live == nullptr) return;
  bool wanted = false;
  {
    const std::lock_guard guard(live->lock);
    wanted = live->publish();
  }
  if (wanted) live->notify();
}

}  // namespace

Status LiveRing::make_events() {
  for (UniqueFd* fd : {&kick, &call}) {
    fd->reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!*fd) return fail_errno(errno, "can not make an eventfd");
  }
  return {};
}

RxQueue RxSlot::handle() noexcept { return {this, poll, nullptr, &counters, arm, disarm, large}; }

TxQueue TxSlot::handle() noexcept { return {this, send, flush, offloads, &counters}; }

}  // namespace pollux::virtio_user
