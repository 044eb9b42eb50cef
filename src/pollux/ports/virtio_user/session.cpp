// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/virtio_user/session.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/vhost/inflight.hpp"
#include "pollux/vhost/ring_layout.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux::virtio_user {
namespace {

using namespace spec;

/// 5.1.6.3: the largest frame with segmentation offloads, and its header.
constexpr uint32_t kLargestFrame = 65589 + kNetHdrSize;
constexpr uint64_t kHostTso = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6;
constexpr uint64_t kGuestTso = VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6;
constexpr uint64_t kHostGso = kHostTso | VIRTIO_NET_F_HOST_UFO | VIRTIO_NET_F_HOST_USO;
constexpr uint64_t kGuestGso =
    kGuestTso | VIRTIO_NET_F_GUEST_UFO | VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6;

/// Longest chain that a transmitq makes: a whole packet's segments, its head, a legacy header.
constexpr uint32_t kTableEntries = Packet::kMaxSegments + 2;

uint16_t receiveq(uint16_t pair) { return static_cast<uint16_t>(2 * pair); }
uint16_t transmitq(uint16_t pair) { return static_cast<uint16_t>(2 * pair + 1); }

}  // namespace

uint64_t choose_features(uint64_t offered, const SessionConfig& config, uint32_t buffer_size) {
  uint64_t features = offered & config.features;
  const auto without = [&](bool missing, uint64_t bits) {
    if (missing) features &= ~bits;
  };
  const uint32_t pieces = kLargestFrame / buffer_size + 3;
  const bool too_many = pieces > std::min<uint32_t>(config.queue_size, Packet::kMaxSegments);
  without((features & VIRTIO_F_VERSION_1) == 0, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER);
  without((features & VIRTIO_NET_F_CSUM) == 0 || too_many, kHostGso);
  without((features & VIRTIO_NET_F_GUEST_CSUM) == 0 || too_many, kGuestGso);
  without((features & VIRTIO_NET_F_MRG_RXBUF) == 0, kGuestGso);
  without((features & kHostTso) == 0, VIRTIO_NET_F_HOST_ECN);
  without((features & kGuestTso) == 0, VIRTIO_NET_F_GUEST_ECN);
  without(config.queue_pairs < 2, VIRTIO_NET_F_MQ);
  without(config.mtu == 0, VIRTIO_NET_F_MTU);
  without((features & VIRTIO_NET_F_CTRL_VQ) == 0,
          VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_MAC_ADDR);
  return features;
}

Result<std::unique_ptr<Session>> Session::establish(vhost::Frontend frontend,
                                                    const SessionConfig& config, Pool& pool) {
  std::unique_ptr<Session> session(new Session(std::move(frontend), config, pool));
  if (auto ok = session->negotiate(); !ok) return forward(ok);
  if (auto ok = session->make_memory(); !ok) return forward(ok);
  if (auto ok = session->share_memory(); !ok) return forward(ok);
  if (auto ok = session->share_inflight(); !ok) return forward(ok);
  if (auto ok = session->make_rings(); !ok) return forward(ok);
  if (auto ok = session->tell_rings(); !ok) return forward(ok);
  if (auto ok = session->start(); !ok) return forward(ok);
  return session;
}

Status Session::resume(vhost::Frontend frontend) {
  frontend_ = std::move(frontend);
  const uint64_t features = features_;
  const uint16_t pairs = queue_pairs_;
  // What is new in this back end would need other rings.
  config_.features = features;
  config_.queue_pairs = pairs;
  auto negotiated = negotiate();
  const bool same = features_ == features && queue_pairs_ == pairs;
  features_ = features;
  queue_pairs_ = pairs;
  if (!negotiated) return negotiated;
  if (!same) {
    return fail(ErrorCode::kUnsupported,
                "the back end offers other features than the one before it: starting anew");
  }
  if (auto ok = share_memory(); !ok) return ok;
  if (auto ok = share_inflight(); !ok) return ok;
  if (auto ok = tell_rings(); !ok) return ok;
  return start();
}

bool Session::sound() const {
  const auto good = [&](const LiveRing& ring, uint16_t index) {
    return ring.broken.load() == ring::RingError::none && (ring.base() || is_noted(index));
  };
  for (uint16_t pair = 0; pair < queue_pairs_; ++pair) {
    if (!good(*rx_[pair], receiveq(pair)) || !good(*tx_[pair], transmitq(pair))) return false;
  }
  return true;
}

bool Session::is_noted(uint16_t index) const {
  return packed() && inflight_ &&
         vhost::InflightRegion::tells_packed(inflight_->fd.get(), inflight_->told, index,
                                             queue_size());
}

Session::~Session() {
  PoolCache cache(pool_);
  for (auto& rx : rx_) rx->stop(cache);
  for (auto& tx : tx_) tx->stop(cache);
}

uint32_t Session::queue_size() const {
  return packed() ? config_.queue_size : std::bit_floor(config_.queue_size);
}

Status Session::negotiate() {
  if (auto ok = frontend_.set_owner(); !ok) return ok;
  auto offered = frontend_.get_features();
  if (!offered) return forward(offered);
  features_ = choose_features(*offered, config_, pool_.buffer_size());
  if (const uint64_t missing = config_.required & ~features_; missing != 0) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the back end has no {}: \"on\" instead of \"only\" goes on without",
                            fmt::join(virtio::net_feature_names(missing), " and no ")));
  }
  if ((*offered & VHOST_USER_F_PROTOCOL_FEATURES) != 0) {
    features_ |= VHOST_USER_F_PROTOCOL_FEATURES;
    if (auto ok = negotiate_protocol(); !ok) return ok;
  }
  if (queue_pairs_ < 2) features_ &= ~VIRTIO_NET_F_MQ;
  if (auto ok = frontend_.set_features(features_); !ok) return ok;
  return find_control();
}

Status Session::negotiate_protocol() {
  auto offered = frontend_.get_protocol_features();
  if (!offered) return forward(offered);
  uint64_t wanted = VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
                    VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
  if (has(VIRTIO_NET_F_MQ)) wanted |= VHOST_USER_PROTOCOL_F_MQ;
  if (config_.mtu != 0) wanted |= VHOST_USER_PROTOCOL_F_MTU;
  if (has(VIRTIO_NET_F_CTRL_VQ)) wanted |= VHOST_USER_PROTOCOL_F_CONFIG;
  if (auto ok = frontend_.set_protocol_features(*offered & wanted); !ok) return ok;
  if ((frontend_.protocol_features() & VHOST_USER_PROTOCOL_F_MQ) == 0) return {};
  auto queues = frontend_.get_queue_num();
  if (!queues) return forward(queues);
  if (*queues == 0) return fail(ErrorCode::kProtocol, "the back end says that it has no queues");
  queue_pairs_ = static_cast<uint16_t>(std::min<uint64_t>(*queues, config_.queue_pairs));
  return {};
}

Status Session::make_memory() {
  SharedMemory::Shape shape;
  shape.rings = 2U * queue_pairs_;
  shape.control = has(VIRTIO_NET_F_CTRL_VQ);
  shape.size = queue_size();
  shape.packed = packed();
  shape.table_entries = has(VIRTIO_F_INDIRECT_DESC) ? kTableEntries : 0;
  shape.pool_regions = config_.pool_regions;
  auto memory = SharedMemory::create(pool_, shape);
  if (!memory) return forward(memory);
  memory_ = std::move(*memory);
  return {};
}

Status Session::share_memory() {
  if ((frontend_.protocol_features() & VHOST_USER_PROTOCOL_F_MTU) != 0) {
    if (auto ok = frontend_.set_mtu(config_.mtu); !ok) return ok;
  }
  return frontend_.share_memory(memory_->regions());
}

ring::DriverRingOptions Session::ring_options(uint16_t index) const {
  return {.event_idx = has(VIRTIO_F_EVENT_IDX),
          .in_order = has(VIRTIO_F_IN_ORDER),
          .indirect = memory_->tables(index)};
}

std::unique_ptr<LiveRx> Session::make_rx(uint16_t index, const virtio::NetDriverConfig& config) {
  const ring::DriverRingOptions options = ring_options(index);
  if (packed()) {
    ring::PackedDriverRing<> ring(memory_->packed_layout(index), options);
    return std::make_unique<LiveRxOf<ring::PackedDriverRing<>>>(std::move(ring), pool_, config);
  }
  ring::SplitDriverRing<> ring(memory_->split_layout(index), options);
  return std::make_unique<LiveRxOf<ring::SplitDriverRing<>>>(std::move(ring), pool_, config);
}

std::unique_ptr<LiveTx> Session::make_tx(uint16_t index, const virtio::NetDriverConfig& config) {
  const ring::DriverRingOptions options = ring_options(index);
  if (packed()) {
    ring::PackedDriverRing<> ring(memory_->packed_layout(index), options);
    return std::make_unique<LiveTxOf<ring::PackedDriverRing<>>>(std::move(ring), pool_, config);
  }
  ring::SplitDriverRing<> ring(memory_->split_layout(index), options);
  return std::make_unique<LiveTxOf<ring::SplitDriverRing<>>>(std::move(ring), pool_, config);
}

/// The region of the first back end that has one goes to all that follow it; one that can not have
/// it leaves it behind, and it says nothing of the rings any more.
Status Session::share_inflight() {
  if ((frontend_.protocol_features() & VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) == 0) {
    inflight_.reset();
    return {};
  }
  if (!inflight_) {
    const int rings = has(VIRTIO_NET_F_CTRL_VQ) ? control_index_ + 1 : 2 * queue_pairs_;
    auto made = frontend_.get_inflight_fd(static_cast<uint16_t>(rings),
                                          static_cast<uint16_t>(queue_size()));
    if (!made) return forward(made);
    inflight_ = std::move(*made);
  }
  return frontend_.set_inflight_fd(*inflight_);
}

Status Session::make_rings() {
  const virtio::NetDriverConfig config{
      memory_->pool_window(), features_,
      // Half the pool at most for all rings: the rest is for what is on its way through here.
      std::max<uint32_t>(pool_.buffer_count() / (4 * queue_pairs_), 1)};
  PoolCache cache(pool_);
  for (uint16_t pair = 0; pair < queue_pairs_; ++pair) {
    rx_.push_back(make_rx(receiveq(pair), config));
    tx_.push_back(make_tx(transmitq(pair), config));
    if (auto ok = rx_.back()->make_events(); !ok) return ok;
    if (auto ok = tx_.back()->make_events(); !ok) return ok;
    (void)rx_.back()->fill(cache);
  }
  return {};
}

Status Session::tell_rings() {
  for (uint16_t pair = 0; pair < queue_pairs_; ++pair) {
    if (auto ok = tell_ring(receiveq(pair), *rx_[pair], receiveq(pair)); !ok) return ok;
    if (auto ok = tell_ring(transmitq(pair), *tx_[pair], transmitq(pair)); !ok) return ok;
  }
  if (!has(VIRTIO_NET_F_CTRL_VQ)) return {};
  if (auto ok = make_control(); !ok) return ok;
  return tell_ring(control_index_, *control_, memory_->control_index());
}

/// `place` is the ring's index in our memory.
Status Session::tell_ring(uint16_t index, const LiveRing& ring, uint32_t place) {
  std::optional<uint32_t> base = ring.base();
  // A back end before this one has noted where the ring is: "at the beginning" says that we do not
  // know.
  if (!base && is_noted(index)) base = vhost::initial_ring_base(packed());
  if (!base) return fail(ErrorCode::kUnsupported, "a ring can not be taken over: starting anew");
  if (auto ok = frontend_.set_vring_num(index, queue_size()); !ok) return ok;
  if (auto ok = frontend_.set_vring_base(index, *base); !ok) return ok;
  if (auto ok = frontend_.set_vring_addr(index, memory_->addresses(place)); !ok) return ok;
  if (auto ok = frontend_.set_vring_call(index, ring.call.get()); !ok) return ok;
  return frontend_.set_vring_kick(index, ring.kick.get());
}

Status Session::start() {
  // "Ring states": without protocol features rings start enabled.
  if (has(VHOST_USER_F_PROTOCOL_FEATURES)) {
    for (uint16_t ring = 0; ring < 2 * queue_pairs_; ++ring) {
      if (auto ok = frontend_.set_vring_enable(ring, true); !ok) return ok;
    }
    if (control_) {
      if (auto ok = frontend_.set_vring_enable(control_index_, true); !ok) return ok;
    }
  }
  // A back end that waits for its first notification gets one for what is in the rings already.
  for (const auto& rx : rx_) rx->notify();
  for (const auto& tx : tx_) tx->notify();
  return control_ ? say_what_is_wanted() : Status();
}

Status Session::stop_rings() {
  for (uint16_t ring = 0; ring < 2 * queue_pairs_; ++ring) {
    if (auto base = frontend_.get_vring_base(ring); !base) return forward(base);
  }
  if (!control_) return {};
  if (auto base = frontend_.get_vring_base(control_index_); !base) return forward(base);
  return {};
}

}  // namespace pollux::virtio_user
