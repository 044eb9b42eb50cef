// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/port.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "pollux/packet/tx_offloads.hpp"
#include "pollux/ports/vhost_user/queues.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/vhost/listener.hpp"
#include "pollux/vhost/request_table.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux {
namespace {

using vhost_user::DeviceRing;
using vhost_user::LiveRing;
using vhost_user::LiveRx;
using vhost_user::LiveTx;
using vhost_user::RxSlot;
using vhost_user::TxSlot;

constexpr auto kQuiescenceDeadline = std::chrono::seconds(2);
constexpr auto kWatchPeriod = std::chrono::milliseconds(100);

constexpr std::array kKeys{
    PortKey{"queues", "queue pairs offered to the front end, 1 to 128 (1)"},
    PortKey{"queue-size", "largest ring accepted, a power of two up to 32768 (32768)"},
    PortKey{"server", "on: listen on the socket; off: connect to it, for ever (on)"},
    PortKey{"mrg", "offer mergeable receive buffers (on)"},
    PortKey{"indirect", "offer indirect descriptors (on)"},
    PortKey{"event-idx", "offer event indices (on)"},
    PortKey{"csum", "offer checksum offload (on)"},
    PortKey{"tso", "offer TCP segmentation offload (on)"},
};

struct Config {
  std::string path;
  vhost::BackendEndpoint::Mode mode = vhost::BackendEndpoint::Mode::kServer;
  uint16_t queue_pairs = 1;
  uint32_t queue_size = spec::kMaxSplitQueueSize;
  uint64_t features = 0;
};

uint64_t offered_features(SpecReader& read, uint16_t queue_pairs) {
  using namespace spec;
  uint64_t features =
      VIRTIO_F_VERSION_1 | VIRTIO_F_ANY_LAYOUT | VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_MTU;
  if (read.get_bool("mrg", true)) features |= VIRTIO_NET_F_MRG_RXBUF;
  if (read.get_bool("indirect", true)) features |= VIRTIO_F_INDIRECT_DESC;
  if (read.get_bool("event-idx", true)) features |= VIRTIO_F_EVENT_IDX;
  if (queue_pairs > 1) features |= VIRTIO_NET_F_MQ;
  const bool csum = read.get_bool("csum", true);
  if (csum) features |= VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM;
  // 5.1.3.1: segmentation needs checksum offload.
  if (read.get_bool("tso", true) && csum) {
    features |= VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN |
                VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN |
                VIRTIO_NET_F_GSO;
  }
  return features;
}

Result<Config> read_config(const PortSpec& spec) {
  SpecReader read(spec);
  read.require_target("the path of a socket, e.g. vhost-user:/run/v0.sock");
  Config config;
  config.path = spec.target;
  config.queue_pairs = static_cast<uint16_t>(read.get_u32("queues", {.min = 1, .max = 128}, 1));
  config.queue_size =
      read.get_u32("queue-size", {.min = 2, .max = spec::kMaxSplitQueueSize, .power_of_two = true},
                   spec::kMaxSplitQueueSize);
  config.mode = read.get_bool("server", true) ? vhost::BackendEndpoint::Mode::kServer
                                              : vhost::BackendEndpoint::Mode::kClient;
  config.features = offered_features(read, config.queue_pairs);
  if (auto ok = read.finish(); !ok) return forward(ok);
  return config;
}

/// What this peer takes undone, from the features that it negotiated.
uint32_t tx_offloads(uint64_t features) {
  using namespace spec;
  uint32_t bits = 0;
  if ((features & VIRTIO_NET_F_GUEST_CSUM) != 0) bits |= kTxChecksum;
  if ((features & VIRTIO_NET_F_GUEST_TSO4) != 0) bits |= kTxTso4;
  if ((features & VIRTIO_NET_F_GUEST_TSO6) != 0) bits |= kTxTso6;
  if ((features & VIRTIO_NET_F_GUEST_ECN) != 0) bits |= kTxTsoEcn;
  return bits;
}

/// One ring as control knows it, whether it runs or not.
template <typename Live>
struct Ring {
  std::unique_ptr<Live> live;
  bool reported = false;  // that it is broken
};

class VhostUserPort final : public Port, private vhost::BackendDevice {
 public:
  VhostUserPort(Config config, const PortContext& context)
      : config_(std::move(config)),
        context_(context),
        rx_(config_.queue_pairs),
        tx_(config_.queue_pairs),
        rx_rings_(config_.queue_pairs),
        tx_rings_(config_.queue_pairs) {
    for (TxSlot& slot : tx_) slot.offloads = &offloads_;
  }
  ~VhostUserPort() override { VhostUserPort::stop(); }

  Status start() override {
    auto endpoint = vhost::BackendEndpoint::start(context_.loop, config_.path, config_.mode, *this,
                                                  context_.log);
    if (!endpoint) return forward(endpoint);
    auto watch = context_.loop.every(kWatchPeriod, [this] { look_after_rings(); });
    if (!watch) return forward(watch);
    endpoint_ = std::move(*endpoint);
    watch_ = std::move(*watch);
    return {};
  }

  void stop() noexcept override {
    watch_.reset();
    endpoint_.reset();
  }

  std::vector<RxQueue> rx_queues() override {
    std::vector<RxQueue> handles;
    for (RxSlot& slot : rx_) handles.push_back(slot.handle());
    return handles;
  }

  std::vector<TxQueue> tx_queues() override {
    std::vector<TxQueue> handles;
    for (TxSlot& slot : tx_) handles.push_back(slot.handle());
    return handles;
  }

  PortInfo info() const override;

 private:
  // vhost::BackendDevice. Ring 2i is the receiveq of queue pair i, ring 2i+1 its transmitq
  // (VIRTIO 1.3, 5.1.2): what the guest sends is what the switch receives.
  static bool is_rx(uint16_t index) { return index % 2 == 1; }

  vhost::DeviceOffer offer() const override {
    vhost::DeviceOffer offer;
    offer.features = config_.features;
    offer.protocol_features =
        vhost::BackendSession::kProtocolFeatures & ~(spec::VHOST_USER_PROTOCOL_F_CONFIG);
    offer.vrings = static_cast<uint16_t>(2 * config_.queue_pairs);
    offer.queue_num = config_.queue_pairs;
    return offer;
  }

  Status start_ring(const vhost::RingStart& start) override;
  Result<uint32_t> stop_ring(uint16_t index) override;
  void update_ring(uint16_t index, const vhost::RingControls& controls) override;

  void features_changed(uint64_t features) override {
    features_ = features;
    offloads_.store(tx_offloads(features), std::memory_order_relaxed);
  }

  void send_rarp(const std::array<uint8_t, 6>& mac) override {
    uint64_t number = uint64_t{1} << 63;
    for (size_t i = 0; i < mac.size(); ++i) number |= uint64_t{mac[i]} << (8 * i);
    rx_[0].announce.store(number);
  }

  Status set_mtu(uint64_t mtu) override {
    if (mtu < 68 || mtu > 65535) {
      return fail(ErrorCode::kInvalidArgument, fmt::format("an MTU of {} is impossible", mtu));
    }
    mtu_ = static_cast<uint16_t>(mtu);
    return {};
  }

  bool unpublish(uint16_t index);
  void publish(uint16_t index);
  void map_tx();
  void look_after_rings();
  template <typename Live>
  void report(Ring<Live>& ring, const std::string& name);

  Config config_;
  PortContext context_;
  uint64_t features_ = 0;
  uint16_t mtu_ = 0;
  std::atomic<uint32_t> offloads_{0};
  std::vector<RxSlot> rx_;
  std::vector<TxSlot> tx_;
  std::vector<Ring<LiveRx>> rx_rings_;
  std::vector<Ring<LiveTx>> tx_rings_;
  /// Rings that a worker may still use since it missed a deadline: kept as long as the port.
  std::vector<std::unique_ptr<LiveRx>> stranded_rx_;
  std::vector<std::unique_ptr<LiveTx>> stranded_tx_;
  std::unique_ptr<vhost::BackendEndpoint> endpoint_;
  EventLoop::Watch watch_;
};

Status VhostUserPort::start_ring(const vhost::RingStart& start) {
  if (start.layout.size > config_.queue_size) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("a ring of {} entries is larger than queue-size={}", start.layout.size,
                            config_.queue_size));
  }
  // We return chains in the order in which we take them, so whatever a back end before us took and
  // did not return starts at the used index: go on there, whatever base the front end remembers.
  const uint16_t next = SharedAccess{}.load_acquire(&start.layout.used->idx);
  const ring::DeviceRingConfig ring_config{
      .layout = start.layout,
      .next_avail = next,
      .indirect = (start.features & spec::VIRTIO_F_INDIRECT_DESC) != 0,
      .event_idx = (start.features & spec::VIRTIO_F_EVENT_IDX) != 0};
  DeviceRing ring(ring_config, PeerView(*start.memory));
  ring.suppress_notifications();
  const auto set_up = [&](auto& slot) {
    using Live = typename std::remove_reference_t<decltype(slot.live)>::element_type;
    slot.live = std::make_unique<Live>(std::move(ring), start.features);
    slot.live->set_controls(start.controls);
    slot.live->memory = start.memory;
    slot.live->size = start.layout.size;
    slot.reported = false;
  };
  const size_t pair = start.index / 2;
  if (is_rx(start.index)) {
    set_up(rx_rings_[pair]);
  } else {
    set_up(tx_rings_[pair]);
  }
  publish(start.index);
  return {};
}

void VhostUserPort::publish(uint16_t index) {
  if (is_rx(index)) {
    rx_[index / 2].live.store(rx_rings_[index / 2].live.get());
  } else {
    map_tx();
  }
}

/// Spreads the handles over the receiveqs that may be used; none when there are none.
void VhostUserPort::map_tx() {
  std::vector<LiveTx*> usable;
  for (const auto& ring : tx_rings_) {
    if (ring.live && ring.live->enabled) usable.push_back(ring.live.get());
  }
  for (size_t i = 0; i < tx_.size(); ++i) {
    tx_[i].live.store(usable.empty() ? nullptr : usable[i % usable.size()]);
  }
}

/// Takes a ring out of the workers' sight; false when one of them may still use it.
bool VhostUserPort::unpublish(uint16_t index) {
  if (is_rx(index)) {
    rx_[index / 2].live.store(nullptr);
  } else {
    LiveTx* const gone = tx_rings_[index / 2].live.get();
    gone->enabled = false;
    map_tx();
  }
  return context_.quiescence.synchronize(kQuiescenceDeadline);
}

Result<uint32_t> VhostUserPort::stop_ring(uint16_t index) {
  const size_t pair = index / 2;
  const bool quiet = unpublish(index);
  const auto take_down = [&](auto& ring, auto& stranded) -> Result<uint32_t> {
    if (!quiet) {
      stranded.push_back(std::move(ring.live));
      return fail(ErrorCode::kTimeout, "a worker did not let go of a ring in time");
    }
    const uint32_t base = ring.live->queue.ring().next_avail();
    ring.live.reset();
    return base;
  };
  return is_rx(index) ? take_down(rx_rings_[pair], stranded_rx_)
                      : take_down(tx_rings_[pair], stranded_tx_);
}

void VhostUserPort::update_ring(uint16_t index, const vhost::RingControls& controls) {
  // Off, changed, and on again: a pause of microseconds, and no field that two threads share.
  if (!unpublish(index)) {
    context_.log.error("a worker did not let go of a ring in time: its change is not applied");
  } else if (is_rx(index)) {
    rx_rings_[index / 2].live->set_controls(controls);
  } else {
    tx_rings_[index / 2].live->set_controls(controls);
  }
  publish(index);
}

/// Now and then: tells people and peer of a ring that broke, and lets go of a peer whose memory
/// vanished.
void VhostUserPort::look_after_rings() {
  for (size_t i = 0; i < rx_rings_.size(); ++i) {
    report(rx_rings_[i], fmt::format("rx{}", i));
    report(tx_rings_[i], fmt::format("tx{}", i));
  }
  const vhost::BackendConnection* connection = endpoint_->connection();
  if (connection == nullptr) return;
  const auto& memory = connection->session().memory();
  if (memory && memory->faulted()) {
    endpoint_->disconnect("the front end shrank a file that it shared as memory");
  }
}

template <typename Live>
void VhostUserPort::report(Ring<Live>& ring, const std::string& name) {
  if (!ring.live || ring.reported) return;
  const ring::RingError error = ring.live->broken.load(std::memory_order_relaxed);
  if (error == ring::RingError::none) return;
  ring.reported = true;
  context_.log.warn(fmt::format("{} is stopped: {}", name, describe(error)));
  if (ring.live->err) (void)eventfd_write(ring.live->err->get(), 1);
}

PortInfo VhostUserPort::info() const {
  PortInfo info;
  info.kind = "vhost-user";
  info.target = config_.path;
  info.rx_queues = config_.queue_pairs;
  info.tx_queues = config_.queue_pairs;
  info.mtu = mtu_;
  info.state = endpoint_ ? endpoint_->describe() : "stopped";
  const auto add = [&](const LiveRing* live, std::string name) {
    PortInfo::Ring ring{std::move(name), 0, false, "split"};
    if (live != nullptr) {
      ring.size = live->size;
      ring.enabled = live->enabled;
      const ring::RingError error = live->broken.load(std::memory_order_relaxed);
      if (error != ring::RingError::none) {
        info.broken = fmt::format("{}: {}", ring.name, describe(error));
      }
    }
    info.rings.push_back(std::move(ring));
  };
  for (size_t i = 0; i < rx_rings_.size(); ++i) {
    add(rx_rings_[i].live.get(), fmt::format("rx{}", i));
    add(tx_rings_[i].live.get(), fmt::format("tx{}", i));
    info.link_up |= tx_rings_[i].live && tx_rings_[i].live->enabled && rx_rings_[i].live;
  }
  const vhost::BackendConnection* connection = endpoint_ ? endpoint_->connection() : nullptr;
  if (connection == nullptr) return info;
  const vhost::SessionState& session = connection->session().state();
  info.peer = connection->peer().describe();
  info.features = session.features;
  info.feature_names = virtio::net_feature_names(session.features);
  info.protocol_feature_names = vhost::protocol_feature_names(session.protocol_features);
  if (const auto& memory = connection->session().memory()) {
    uint64_t bytes = 0;
    for (const PeerRegion& region : memory->regions()) bytes += region.size;
    info.memory = fmt::format("{} region{}, {} MiB", memory->regions().size(),
                              memory->regions().size() == 1 ? "" : "s", bytes >> 20);
  }
  return info;
}

}  // namespace

Result<std::unique_ptr<Port>> make_vhost_user_port(const PortSpec& spec,
                                                   const PortContext& context) {
  auto config = read_config(spec);
  if (!config) return forward(config);
  return std::make_unique<VhostUserPort>(std::move(*config), context);
}

std::span<const PortKey> vhost_user_port_keys() { return kKeys; }

}  // namespace pollux
