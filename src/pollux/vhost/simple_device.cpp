// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/simple_device.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "pollux/base/event_fd.hpp"
#include "pollux/base/peer_fd.hpp"

namespace pollux::vhost {
namespace {

// A driver that posts without end must leave the loop to the others now and then.
constexpr int kChainsATurn = 64;
// What needs nothing of the device. The log of dirty pages would: it does not mark what it writes.
constexpr uint64_t kProtocolFeatures =
    spec::VHOST_USER_PROTOCOL_F_MQ | spec::VHOST_USER_PROTOCOL_F_REPLY_ACK |
    spec::VHOST_USER_PROTOCOL_F_BACKEND_REQ | spec::VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD |
    spec::VHOST_USER_PROTOCOL_F_RESET_DEVICE | spec::VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
    spec::VHOST_USER_PROTOCOL_F_STATUS | spec::VHOST_USER_PROTOCOL_F_DEVICE_STATE;
// For drivers that do not notify.
constexpr auto kPollPeriod = std::chrono::milliseconds(1);

}  // namespace

size_t Chain::left(const Pieces& pieces) noexcept {
  size_t bytes = 0;
  for (const auto& piece : pieces) bytes += piece.size();
  return bytes;
}

size_t Chain::pass(Pieces& pieces, std::byte* to, size_t size) noexcept {
  size_t done = 0;
  for (auto& piece : pieces) {
    const size_t now = std::min(piece.size(), size - done);
    if (now == 0) continue;
    SharedAccess{}.copy_in(to + done, piece.data(), now);
    piece = piece.subspan(now);
    done += now;
  }
  return done;
}

size_t Chain::write(std::span<const std::byte> from) noexcept {
  size_t done = 0;
  for (auto& piece : writable_) {
    const size_t now = std::min(piece.size(), from.size() - done);
    if (now == 0) continue;
    SharedAccess{}.copy_out(piece.data(), from.data() + done, now);
    piece = piece.subspan(now);
    done += now;
  }
  written_ += static_cast<uint32_t>(done);
  return done;
}

SimpleDevice::SimpleDevice(EventLoop& loop, Config config, Handler handler, Log log)
    : loop_(loop), config_(std::move(config)), handler_(std::move(handler)), log_(std::move(log)) {}

DeviceOffer SimpleDevice::offer() const {
  DeviceOffer offer;
  // QEMU's front ends of small devices acknowledge these two whether they are offered or not.
  constexpr uint64_t kRings = spec::VIRTIO_F_INDIRECT_DESC | spec::VIRTIO_F_EVENT_IDX;
  offer.features = config_.features | spec::VIRTIO_F_VERSION_1 | kRings;
  offer.protocol_features = kProtocolFeatures;
  if (!config_.config.empty()) offer.protocol_features |= spec::VHOST_USER_PROTOCOL_F_CONFIG;
  offer.vrings = config_.queues;
  offer.queue_num = config_.queues;
  return offer;
}

Status SimpleDevice::start_ring(const RingStart& start) {
  const auto* layout = std::get_if<ring::SplitLayout>(&start.layout);
  if (layout == nullptr) return fail(ErrorCode::kUnsupported, "only split rings are offered");
  const ring::SplitDeviceConfig config{
      .layout = *layout,
      .next_avail = static_cast<uint16_t>(start.base),
      .indirect = (start.features & spec::VIRTIO_F_INDIRECT_DESC) != 0,
      .event_idx = (start.features & spec::VIRTIO_F_EVENT_IDX) != 0};
  queues_.insert_or_assign(start.index,
                           Queue{ring::SplitDeviceRing<>(config, PeerView(*start.memory)),
                                 start.controls,
                                 start.memory,
                                 {},
                                 {}});
  if (auto ok = watch(start.index); !ok) {
    queues_.erase(start.index);
    return ok;
  }
  serve(start.index);  // what the driver put there before
  return {};
}

Status SimpleDevice::watch(uint16_t index) {
  Queue& queue = queues_.at(index);
  queue.kicks.reset();
  const auto wake = [this, index] { serve(index); };
  auto watch = queue.controls.kick ? loop_.watch_fd(queue.controls.kick->get(), EPOLLIN,
                                                    [wake](uint32_t) { wake(); })
                                   : loop_.every(kPollPeriod, wake);
  if (!watch) return forward(watch);
  queue.kicks = std::move(*watch);
  return {};
}

Result<uint32_t> SimpleDevice::stop_ring(uint16_t index) {
  const auto queue = queues_.extract(index);
  return uint32_t{queue.mapped().ring.next_avail()};
}

void SimpleDevice::update_ring(uint16_t index, const RingControls& controls) {
  Queue& queue = queues_.at(index);
  queue.kicks.reset();  // before its descriptor goes
  queue.controls = controls;
  if (auto ok = watch(index); !ok) log_.error(ok.error().what);
  serve(index);
}

void SimpleDevice::serve(uint16_t index) {
  Queue& queue = queues_.at(index);
  queue.again.reset();
  if (queue.controls.kick && !drain_event_fd(queue.controls.kick->get())) queue.kicks.reset();
  if (!queue.controls.enabled) return;
  int served = 0;
  while (served < kChainsATurn && serve_one(index, queue)) ++served;
  if (served != 0 && queue.ring.publish() && queue.controls.call) {
    signal_event(queue.controls.call->get());
  }
  if (queue.ring.error() != ring::RingError::none) return;
  if (served < kChainsATurn && !queue.ring.request_notifications()) return;
  auto again = loop_.after(Nanos::zero(), [this, index] { serve(index); });
  if (again) queue.again = std::move(*again);
}

/// False when there is no chain, or none that can be trusted.
bool SimpleDevice::serve_one(uint16_t index, Queue& queue) {
  uint16_t head = 0;
  if (queue.ring.available(1) == 0 || !queue.ring.head(0, head)) {
    if (queue.ring.error() != ring::RingError::none) break_off(index, queue);
    return false;
  }
  Chain chain;
  const auto status =
      queue.ring.walk_both(head, [&](std::byte* data, uint32_t size, MemoryAccess access) {
        auto& pieces = access == MemoryAccess::kWrite ? chain.writable_ : chain.readable_;
        pieces.emplace_back(data, size);
        return true;
      });
  if (status != ring::ChainStatus::kOk) {
    queue.ring.fail(ring::RingError::chain_rules);
    break_off(index, queue);
    return false;
  }
  handler_(index, chain);
  queue.ring.take(1);
  queue.ring.put_used(head, chain.written_);
  return true;
}

void SimpleDevice::break_off(uint16_t index, Queue& queue) {
  if (!queue.kicks.active()) return;
  queue.kicks.reset();
  log_.warn(fmt::format("queue {} is stopped: {}", index, describe(queue.ring.error())));
  if (queue.controls.err) signal_event(queue.controls.err->get());
}

}  // namespace pollux::vhost
