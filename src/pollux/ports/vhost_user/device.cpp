// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "pollux/base/peer_fd.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/vhost/backend_session.hpp"

namespace pollux::vhost_user {
namespace {

// What the session could do for other devices; docs/vhost-user.md says why not for this one.
constexpr uint64_t kNotOffered = spec::VHOST_USER_PROTOCOL_F_CONFIG |
                                 spec::VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS |
                                 spec::VHOST_USER_PROTOCOL_F_SHMEM;

}  // namespace

NetDevice::NetDevice(const Config& config, Quiescence& quiescence, Log log)
    : config_(config),
      quiescence_(quiescence),
      log_(std::move(log)),
      rx_(config.queue_pairs),
      tx_(std::max<size_t>(config.queue_pairs, config.senders)),
      rx_rings_(config.queue_pairs),
      tx_rings_(config.queue_pairs) {
  for (TxSlot& slot : tx_) {
    slot.offloads = &offloads_;
    slot.reception = &reception_;
    if (config.queue_pairs > 1) slot.lanes.resize(config.queue_pairs);
  }
  for (uint16_t pair = 0; pair < config.queue_pairs; ++pair) {
    rx_[pair].pair = pair;
    rx_[pair].reception = &reception_;
    rx_[pair].large = &sends_large_;
  }
  reset_control(0);
}

std::vector<RxQueue> NetDevice::rx_queues() {
  std::vector<RxQueue> handles;
  for (RxSlot& slot : rx_) handles.push_back(slot.handle());
  return handles;
}

std::vector<TxQueue> NetDevice::tx_queues() {
  std::vector<TxQueue> handles;
  for (TxSlot& slot : tx_) handles.push_back(slot.handle());
  return handles;
}

vhost::DeviceOffer NetDevice::offer() const {
  vhost::DeviceOffer offer;
  offer.features = config_.features;
  offer.protocol_features = vhost::BackendSession::kProtocolFeatures & ~kNotOffered;
  if (config_.in_band) offer.protocol_features |= spec::VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS;
  if (config_.config_space) offer.protocol_features |= spec::VHOST_USER_PROTOCOL_F_CONFIG;
  const bool control = (config_.features & spec::VIRTIO_NET_F_CTRL_VQ) != 0;
  offer.vrings = static_cast<uint16_t>(2 * config_.queue_pairs + (control ? 1 : 0));
  offer.queue_num = config_.queue_pairs;
  return offer;
}

Status NetDevice::start_ring(const vhost::RingStart& start) {
  if (const uint32_t size = vhost::size_of(start.layout); size > config_.queue_size) {
    return fail(
        ErrorCode::kUnsupported,
        fmt::format("a ring of {} entries is larger than queue-size={}", size, config_.queue_size));
  }
  if (!is_control(start.index) && start.index >= 2 * config_.queue_pairs) {
    return fail(ErrorCode::kUnsupported, "there is no control queue: CTRL_VQ was not negotiated");
  }
  auto past = find_past(start);
  if (!past) {
    log_.warn(fmt::format("ring {} can not start: {}", start.index, past.error().what));
    if (start.controls.err) signal_event(start.controls.err->get());
    return forward(past);
  }
  if (is_control(start.index)) {
    start_control(start, *past);
    return {};
  }
  const auto set_up = [&](auto& slot, auto live) {
    slot.live = std::move(live);
    slot.controls = std::make_unique<const vhost::RingControls>(start.controls);
    slot.live->controls.store(slot.controls.get());
    slot.log = start.log;
    slot.reported = false;
    if (const size_t left = start.in_flight.size() + past->left.size(); left != 0) {
      log_.info(fmt::format("ring {}: {} buffers that an earlier back end had taken go back",
                            start.index, left));
    }
    // An earlier back end may have died between a used buffer and its notification.
    const bool packed = std::holds_alternative<ring::PackedLayout>(start.layout);
    const bool ran = slot.live->base() != vhost::initial_ring_base(packed);
    if (ran && !start.base_ours) slot.live->notify();
  };
  const size_t pair = start.index / 2;
  if (is_rx(start.index)) {
    auto live = make_live_rx(start, *past);
    if (!start.controls.enabled) {
      live->left_alone_until = std::chrono::steady_clock::now() + config_.enable_grace;
    }
    set_up(rx_rings_[pair], std::move(live));
  } else {
    auto live = make_live_tx(start, *past);
    apply_offloads(*live);
    live->set_offloads(&offloads_);
    set_up(tx_rings_[pair], std::move(live));
  }
  publish(start.index);
  // A worker that sleeps is to look at the new ring.
  (void)quiescence_.synchronize(kQuiescenceDeadline);
  if (start.iotlb) look_ahead();
  return {};
}

void NetDevice::publish(uint16_t index) {
  if (is_rx(index)) {
    rx_[index / 2].live.store(rx_rings_[index / 2].live.get());
  } else {
    tx_rings_[index / 2].published = true;
    map_tx();
  }
}

/// Spreads the handles over the receiveqs that may be used; none when there are none.
void NetDevice::map_tx() {
  std::vector<LiveTx*> usable;
  for (const auto& ring : std::span(tx_rings_).first(pairs_in_use())) {
    if (ring.published && ring.controls->enabled) usable.push_back(ring.live.get());
  }
  for (size_t i = 0; i < tx_.size(); ++i) {
    tx_[i].live.store(usable.empty() ? nullptr : usable[i % usable.size()]);
  }
  if (steers()) publish_reception();  // it names rings
}

/// Takes a ring out of the workers' sight; false when one of them may still use it.
bool NetDevice::unpublish(uint16_t index) {
  if (is_rx(index)) {
    rx_[index / 2].live.store(nullptr);
  } else {
    tx_rings_[index / 2].published = false;
    map_tx();
  }
  return quiescence_.synchronize(kQuiescenceDeadline);
}

Result<uint32_t> NetDevice::stop_ring(uint16_t index) {
  if (runs_control(index)) return stop_control();
  const size_t pair = index / 2;
  const bool quiet = unpublish(index);
  const auto take_down = [&](auto& ring, auto& stranded) -> Result<uint32_t> {
    if (!quiet) {
      stranded.push_back(std::exchange(ring, {}));
      return fail(ErrorCode::kTimeout, "a worker did not let go of a ring in time");
    }
    const uint32_t base = ring.live->base();
    ring = {};
    return base;
  };
  return is_rx(index) ? take_down(rx_rings_[pair], stranded_rx_)
                      : take_down(tx_rings_[pair], stranded_tx_);
}

void NetDevice::update_ring(uint16_t index, const vhost::RingControls& controls) {
  if (runs_control(index)) {
    control_queue_->update(controls);
  } else if (is_rx(index)) {
    Ring<LiveRx>& ring = rx_rings_[index / 2];
    if (controls.enabled) ring.live->left_alone_until.store({});
    update(ring, index, controls);
  } else {
    update(tx_rings_[index / 2], index, controls);
  }
}

template <typename Live>
void NetDevice::update(Ring<Live>& ring, uint16_t index, const vhost::RingControls& controls) {
  auto before = std::exchange(ring.controls, std::make_unique<const vhost::RingControls>(controls));
  ring.live->controls.store(ring.controls.get());
  if (controls.enabled != before->enabled && !is_rx(index)) map_tx();
  if (quiescence_.synchronize(kQuiescenceDeadline)) return;
  log_.error("a worker did not take notice of a changed ring in time: is its CPU taken?");
  stranded_controls_.push_back(std::move(before));
}

Status NetDevice::update_log(uint16_t index, std::shared_ptr<const WriteLog> log) {
  if (runs_control(index)) {
    control_queue_->set_log(std::move(log));
    return {};
  }
  const auto swap = [&](auto& ring) {
    ring.live->set_log(log.get());
    return std::exchange(ring.log, std::move(log));
  };
  auto before = is_rx(index) ? swap(rx_rings_[index / 2]) : swap(tx_rings_[index / 2]);
  if (quiescence_.synchronize(kQuiescenceDeadline)) return {};
  stranded_logs_.push_back(std::move(before));
  return fail(ErrorCode::kTimeout, "a worker did not take notice of the dirty log in time");
}

Status NetDevice::mappings_changed() {
  if (!quiescence_.synchronize(kQuiescenceDeadline)) {
    return fail(ErrorCode::kTimeout, "a worker did not let go of the IOMMU's old mappings in time");
  }
  look_ahead();
  serve_control();  // it may have waited for these
  return {};
}

/// Buffers that wait for packets are looked up before those come.
void NetDevice::look_ahead() {
  for (const auto& ring : tx_rings_) {
    if (!ring.live || !ring.live->iotlb) continue;
    const std::lock_guard guard(ring.live->lock);
    ring.live->look_ahead();
  }
}

void NetDevice::send_rarp(const std::array<uint8_t, 6>& mac) {
  uint64_t number = uint64_t{1} << 63;
  for (size_t i = 0; i < mac.size(); ++i) number |= uint64_t{mac[i]} << (8 * i);
  rx_[0].announce.store(number);
  (void)quiescence_.synchronize(kQuiescenceDeadline);  // wakes the worker, should it sleep
}

Status NetDevice::set_mtu(uint64_t mtu) {
  if (mtu < 68 || mtu > 65535) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("an MTU of {} is impossible", mtu));
  }
  mtu_ = static_cast<uint16_t>(mtu);
  return {};
}

void NetDevice::report_broken_rings() {
  for (size_t i = 0; i < rx_rings_.size(); ++i) {
    report(rx_rings_[i], fmt::format("rx{}", i));
    report(tx_rings_[i], fmt::format("tx{}", i));
  }
  if (control_queue_) control_queue_->report_if_broken(log_);
}

template <typename Live>
void NetDevice::report(Ring<Live>& ring, const std::string& name) {
  if (!ring.live || ring.reported) return;
  const ring::RingError error = ring.live->broken.load(std::memory_order_relaxed);
  if (error == ring::RingError::none) return;
  ring.reported = true;
  log_.warn(fmt::format("{} is stopped: {}", name, ring::describe(error)));
  if (ring.controls->err) signal_event(ring.controls->err->get());
}

void NetDevice::describe(PortInfo& info) const {
  info.rx_queues = config_.queue_pairs;
  info.tx_queues = config_.queue_pairs;
  info.mtu = mtu_;
  describe_control(info);
  const auto add = [&](const LiveRing* live, std::string name) {
    PortInfo::Ring ring{std::move(name), 0, false, ""};
    if (live != nullptr) {
      ring.size = live->size;
      ring.format = live->format;
      ring.enabled = live->enabled();
      const ring::RingError error = live->broken.load(std::memory_order_relaxed);
      if (error != ring::RingError::none) {
        info.broken = fmt::format("{}: {}", ring.name, ring::describe(error));
      }
    }
    info.rings.push_back(std::move(ring));
  };
  for (size_t i = 0; i < rx_rings_.size(); ++i) {
    add(rx_rings_[i].live.get(), fmt::format("rx{}", i));
    add(tx_rings_[i].live.get(), fmt::format("tx{}", i));
    info.link_up |= tx_rings_[i].live && tx_rings_[i].live->enabled() && rx_rings_[i].live;
  }
  if (control_queue_) add(&control_queue_->live(), "control");
}

}  // namespace pollux::vhost_user
