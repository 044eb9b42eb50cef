// SPDX-License-Identifier: Apache-2.0
// What the driver of a NetDevice sets through its control queue, and what comes of it; the
// configuration space. VIRTIO 1.3, 5.1.4 and 5.1.6.5.
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "pollux/packet/tx_offloads.hpp"
#include "pollux/ports/vhost_user/device.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/spec/virtio_net_control.hpp"

namespace pollux::vhost_user {
namespace {

using namespace spec;  // NOLINT(google-build-using-namespace): the features are names of the text

constexpr uint64_t kMultiqueue = VIRTIO_NET_F_MQ | VIRTIO_NET_F_RSS;

/// kTx... bits for GUEST_... feature bits. `gro`: join segments for who takes them joined.
uint32_t tx_offloads(uint64_t guest_offloads, bool gro) {
  uint32_t bits = 0;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_CSUM) != 0) bits |= kTxChecksum;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_TSO4) != 0) bits |= kTxTso4;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_TSO6) != 0) bits |= kTxTso6;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_ECN) != 0) bits |= kTxTsoEcn;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_UFO) != 0) bits |= kTxUfo;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_USO4) != 0) bits |= kTxUso4;
  if ((guest_offloads & VIRTIO_NET_F_GUEST_USO6) != 0) bits |= kTxUso6;
  if (gro && (bits & kTxChecksum) != 0 && (bits & (kTxTso4 | kTxTso6)) != 0) bits |= kTxJoin;
  return bits;
}

/// What a driver that negotiated `features` sends large; see RxQueue::large.
uint32_t sent_large(uint64_t features) {
  if ((features & VIRTIO_NET_F_GSO) != 0) return kTxTso4 | kTxTso6;
  uint32_t bits = 0;
  if ((features & VIRTIO_NET_F_HOST_TSO4) != 0) bits |= kTxTso4;
  if ((features & VIRTIO_NET_F_HOST_TSO6) != 0) bits |= kTxTso6;
  return bits;
}

std::string describe_filter(const virtio::RxFilterState& filter) {
  if (filter.promisc) return "promiscuous";
  std::string text = fmt::format("{} unicast and {} multicast addresses",
                                 filter.unicast.macs.size(), filter.multicast.macs.size());
  if (filter.alluni || filter.unicast.overflow) text += ", all unicast";
  if (filter.allmulti || filter.multicast.overflow) text += ", all multicast";
  if (filter.nouni) text += ", no unicast";
  if (filter.nomulti) text += ", no multicast";
  if (filter.nobcast) text += ", no broadcast";
  if (filter.vlan_filter) text += fmt::format(", {} VLANs", filter.vlans.count());
  return text;
}

}  // namespace

/// 5.1.2: behind the queue pairs that there are for this driver.
bool NetDevice::is_control(uint16_t index) const {
  if ((features_ & VIRTIO_NET_F_CTRL_VQ) == 0) return false;
  const uint16_t pairs = (features_ & kMultiqueue) != 0 ? config_.queue_pairs : uint16_t{1};
  return index == 2 * pairs;
}

/// Receiveqs that the driver wants frames in, 5.1.6.5.6: without a control queue it is told by
/// which rings it enables.
size_t NetDevice::pairs_in_use() const {
  return (features_ & VIRTIO_NET_F_CTRL_VQ) != 0 ? control_.state().queue_pairs
                                                 : config_.queue_pairs;
}

/// As after a reset by a driver with these features.
void NetDevice::reset_control(uint64_t features) {
  features_ = features;
  control_ = virtio::NetControl(
      {.features = features, .max_queue_pairs = config_.queue_pairs, .mac = config_.mac});
  if (adopted_control_) control_.restore(*std::exchange(adopted_control_, std::nullopt));
  update_config_space();
  offloads_.store(tx_offloads(control_.state().guest_offloads, config_.gro),
                  std::memory_order_relaxed);
  sends_large_.store(sent_large(features), std::memory_order_relaxed);
}

void NetDevice::begin_adoption(virtio::NetControlState state) {
  state.queue_pairs = std::min(state.queue_pairs, config_.queue_pairs);
  adopted_control_ = std::move(state);
}

void NetDevice::end_adoption() { adopted_control_.reset(); }

void NetDevice::features_changed(uint64_t features) {
  reset_control(features);
  publish_reception();  // waits: a worker that read the old bits must not send to a new ring
}

void NetDevice::reset() {
  for (uint16_t i = 0; i < rings(); ++i) forget_ring(i);
  features_changed(features_);
}

void NetDevice::kick(uint16_t index) {
  if (runs_control(index)) control_queue_->serve();
}

bool NetDevice::execute(std::span<const std::byte> command) {
  const auto effect = control_.apply(command);
  if (!effect) {
    log_.debug(fmt::format("refused a command of the driver: {}", effect.error().what));
    return false;
  }
  switch (*effect) {
    case virtio::ControlEffect::kNone:
      break;
    case virtio::ControlEffect::kMac:
      update_config_space();
      [[fallthrough]];
    case virtio::ControlEffect::kFilter:
      publish_reception();
      break;
    case virtio::ControlEffect::kQueues:
      map_tx();
      // Waits. 5.1.6.5.6.2: nothing comes in the other queues once the driver is told.
      publish_reception();
      break;
    case virtio::ControlEffect::kOffloads:
      apply_offloads();
      break;
  }
  return true;
}

void NetDevice::apply_offloads() {
  offloads_.store(tx_offloads(control_.state().guest_offloads, config_.gro),
                  std::memory_order_relaxed);
  for (auto& ring : tx_rings_) {
    if (!ring.live) continue;
    const std::lock_guard guard(ring.live->lock);
    apply_offloads(*ring.live);
  }
  (void)quiescence_.synchronize(kQuiescenceDeadline);
}

/// What the driver has set outlives a ring that stops and starts again (5.1.6.5.8).
void NetDevice::apply_offloads(LiveTx& ring) const {
  if ((features_ & VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) == 0) return;
  ring.set_guest_csum((control_.state().guest_offloads & VIRTIO_NET_F_GUEST_CSUM) != 0);
}

/// By what the driver sends, as long as it has not said how (5.1.6.5.6).
bool NetDevice::steers_flows() const {
  return config_.steer_flows && (features_ & VIRTIO_NET_F_MQ) != 0 && !control_.state().rss &&
         pairs_in_use() > 1;
}

bool NetDevice::steers() const { return control_.state().rss || steers_flows(); }

/// The receiveqs that a driver uses and has enabled; false when there are none.
bool NetDevice::place_rings(Reception& reception) const {
  const size_t most = control_.state().rss ? tx_rings_.size() : pairs_in_use();
  for (uint16_t pair = 0; pair < most; ++pair) {
    const auto& ring = tx_rings_[pair];
    const bool usable = ring.published && ring.controls->enabled;
    reception.rings.push_back(usable ? ring.live.get() : nullptr);
    if (usable) reception.usable.push_back(pair);
  }
  if (reception.usable.empty()) reception.rings.clear();
  return !reception.usable.empty();
}

std::unique_ptr<const Reception> NetDevice::make_reception() {
  const virtio::NetControlState& state = control_.state();
  const bool reports = (features_ & VIRTIO_NET_F_HASH_REPORT) != 0;
  const bool passes_all = virtio::RxFilter::passes_all(state.filter);
  if (passes_all && !reports && !steers()) return nullptr;
  auto reception = std::make_unique<Reception>();
  if (!passes_all) reception->filter.emplace(state.filter);
  if (reports || state.rss) reception->hash.emplace(state.hash);
  if (!steers() || !place_rings(*reception)) return reception;
  if (!state.rss) {
    // With one receiveq there is nothing to choose, and no packet is hashed for it.
    if (reception->usable.size() > 1) {
      reception->flows = &flows_;
    } else {
      reception->rings.clear();
    }
    return reception;
  }
  // A receiveq that can not be used is stood in for by the first that can.
  const auto usable = [&](uint16_t pair) {
    return reception->rings[pair] != nullptr ? pair : reception->usable.front();
  };
  for (const uint16_t pair : state.rss->table) reception->table.push_back(usable(pair));
  reception->unclassified = usable(state.rss->unclassified);
  return reception;
}

/// Lets the workers see what the driver asked for, and waits until they do.
void NetDevice::publish_reception() {
  auto before = std::exchange(reception_owner_, make_reception());
  reception_.store(reception_owner_.get());
  if (quiescence_.synchronize(kQuiescenceDeadline)) return;
  stranded_receptions_.push_back(std::move(before));
}

void NetDevice::start_control(const vhost::RingStart& start, const PackedPast& past) {
  control_queue_ = std::make_unique<ControlQueue>(
      *config_.loop, start, past,
      [this](std::span<const std::byte> command) { return execute(command); });
}

Result<uint32_t> NetDevice::stop_control() {
  const uint32_t base = control_queue_->live().base();
  control_queue_.reset();
  return base;
}

void NetDevice::serve_control() {
  if (control_queue_) control_queue_->serve();
}

void NetDevice::update_config_space() {
  const auto& mac = control_.state().filter.mac;
  space_ = {};
  if (mac) space_.mac = mac->bytes();
  space_.status.set(VIRTIO_NET_S_LINK_UP);
  space_.max_virtqueue_pairs.set(config_.queue_pairs);
  space_.mtu.set(config_.mtu);
  space_.speed.set(config_.speed);
  space_.rss_max_key_size = kRssKeySize;
  space_.rss_max_indirection_table_length.set(kRssTableLength);
  space_.supported_hash_types.set(virtio::NetControl::kHashTypes);
  space_.duplex = config_.speed == VIRTIO_NET_SPEED_UNKNOWN ? VIRTIO_NET_DUPLEX_UNKNOWN
                                                            : VIRTIO_NET_DUPLEX_FULL;
}

std::span<const std::byte> NetDevice::config() const {
  return std::as_bytes(std::span(&space_, size_t{1}));
}

void NetDevice::describe_control(PortInfo& info) const {
  info.mac = control_.state().filter.mac;
  if ((features_ & VIRTIO_NET_F_CTRL_VQ) == 0) return;
  info.control = fmt::format("{}; {} of {} queue pairs", describe_filter(control_.state().filter),
                             pairs_in_use(), config_.queue_pairs);
  if (const auto& rss = control_.state().rss) {
    info.control += fmt::format(", RSS by a table of {}", rss->table.size());
  }
}

}  // namespace pollux::vhost_user
