// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/port.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "pollux/port/parcel.hpp"
#include "pollux/ports/vhost_user/control_parcel.hpp"
#include "pollux/ports/vhost_user/device.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/vhost/listener.hpp"
#include "pollux/vhost/request_table.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux {
namespace {

constexpr auto kWatchPeriod = std::chrono::milliseconds(100);

constexpr std::array kKeys{
    PortKey{"queues", "queue pairs offered to the front end, 1 to 128 (1)"},
    PortKey{"queue-size", "largest ring accepted, a power of two up to 32768 (32768)"},
    PortKey{"server", "on: listen on the socket; off: connect to it, for ever (on)"},
    PortKey{"packed", "offer packed rings (on)"},
    PortKey{"in-order", "offer use of buffers in order (on)"},
    PortKey{"mrg", "offer mergeable receive buffers (on)"},
    PortKey{"indirect", "offer indirect descriptors (on)"},
    PortKey{"event-idx", "offer event indices (on)"},
    PortKey{"iommu", "offer to work behind the guest's IOMMU (on)"},
    PortKey{"csum", "offer checksum offload (on)"},
    PortKey{"tso", "offer TCP segmentation offload (on)"},
    PortKey{"gro", "join small TCP segments for a driver that takes large ones (on)"},
    PortKey{"ufo", "offer UDP fragmentation offload (on)"},
    PortKey{"uso", "offer UDP segmentation offload (on)"},
    PortKey{"steering",
            "with several queues: flow: answers go to the queue pair that asked, "
            "worker: each worker fills one (flow)"},
    PortKey{"in-band", "offer notifications as messages, for simulations (off)"},
    PortKey{"ctrl-queue", "offer a control queue served here, not by the front end (off)"},
    PortKey{"mac", "address that the configuration space tells the driver (none)"},
    PortKey{"mtu", "MTU that the configuration space tells the driver, 68 to 65535 (1500)"},
    PortKey{"speed", "Mbit/s that the configuration space tells the driver (unknown)"},
};

struct Config {
  std::string path;
  vhost::BackendEndpoint::Mode mode = vhost::BackendEndpoint::Mode::kServer;
  vhost_user::NetDevice::Config device;
};

/// A socket's path as the name of a file: the same after a restart, and told from others.
std::string file_name_of(const std::string& path) {
  std::string name = std::filesystem::absolute(path).lexically_normal();
  std::ranges::replace(name, '/', '!');
  return name;
}

uint64_t offered_features(SpecReader& read, uint16_t queue_pairs) {
  using namespace spec;
  uint64_t features =
      VIRTIO_F_VERSION_1 | VIRTIO_F_ANY_LAYOUT | VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_MTU |
      VIRTIO_NET_F_GUEST_HDRLEN;  // 5.1.6.2: hdr_len is a hint, here never looked at
  if (read.get_bool("packed", true)) features |= VIRTIO_F_RING_PACKED;
  if (read.get_bool("in-order", true)) features |= VIRTIO_F_IN_ORDER;
  if (read.get_bool("mrg", true)) features |= VIRTIO_NET_F_MRG_RXBUF;
  if (read.get_bool("indirect", true)) features |= VIRTIO_F_INDIRECT_DESC;
  if (read.get_bool("event-idx", true)) features |= VIRTIO_F_EVENT_IDX;
  if (read.get_bool("iommu", true)) features |= VIRTIO_F_ACCESS_PLATFORM;
  if (queue_pairs > 1) features |= VIRTIO_NET_F_MQ;
  const bool csum = read.get_bool("csum", true);
  if (csum) features |= VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM;
  // 5.1.3.1: segmentation needs checksum offload.
  if (read.get_bool("tso", true) && csum) {
    features |= VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN |
                VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN |
                VIRTIO_NET_F_GSO;
  }
  if (read.get_bool("ufo", true) && csum)
    features |= VIRTIO_NET_F_HOST_UFO | VIRTIO_NET_F_GUEST_UFO;
  if (read.get_bool("uso", true) && csum) {
    features |= VIRTIO_NET_F_HOST_USO | VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6;
  }
  return features;
}

/// The control queue and the configuration space. QEMU and DPDK have their own of both, and QEMU
/// warns of a space that it does not ask for: so they are offered only to who wants them.
void read_control(SpecReader& read, vhost_user::NetDevice::Config& device) {
  using namespace spec;
  const bool control = read.get_bool("ctrl-queue", false);
  device.config_space = control || read.has("mac") || read.has("mtu") || read.has("speed");
  device.mac = read.get_mac("mac");
  device.mtu = static_cast<uint16_t>(read.get_u32("mtu", {.min = 68, .max = 65535}, 1500));
  if (read.has("speed")) device.speed = read.get_u32("speed", {.min = 0, .max = INT32_MAX}, 0);
  if (device.config_space) device.features |= VIRTIO_NET_F_STATUS;
  if (device.mac) device.features |= VIRTIO_NET_F_MAC;
  if (read.has("speed")) device.features |= VIRTIO_NET_F_SPEED_DUPLEX;
  if (device.mac && device.mac->is_multicast()) read.fail_with("mac= is a group's address");
  if (!control) return;
  device.features |= VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA |
                     VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CTRL_MAC_ADDR |
                     VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | VIRTIO_NET_F_HASH_REPORT;
  if (device.queue_pairs > 1) device.features |= VIRTIO_NET_F_RSS;
  // The protocol's messages name 256 rings.
  if (device.queue_pairs > 127) read.fail_with("with ctrl-queue=on there are at most 127 queues");
}

Result<Config> read_config(const PortSpec& spec) {
  SpecReader read(spec);
  read.require_target("the path of a socket, e.g. vhost-user:/run/v0.sock");
  Config config;
  config.path = spec.target;
  config.device.queue_pairs =
      static_cast<uint16_t>(read.get_u32("queues", {.min = 1, .max = 128}, 1));
  config.device.queue_size =
      read.get_u32("queue-size", {.min = 2, .max = spec::kMaxSplitQueueSize, .power_of_two = true},
                   spec::kMaxSplitQueueSize);
  config.mode = read.get_bool("server", true) ? vhost::BackendEndpoint::Mode::kServer
                                              : vhost::BackendEndpoint::Mode::kClient;
  config.device.features = offered_features(read, config.device.queue_pairs);
  config.device.gro = read.get_bool("gro", true);
  config.device.in_band = read.get_bool("in-band", false);
  config.device.steer_flows = read.get_choice("steering", {"flow", "worker"}, 0) == 0;
  read_control(read, config.device);
  if (auto ok = read.finish(); !ok) return forward(ok);
  return config;
}

class VhostUserPort final : public Port {
 public:
  VhostUserPort(const Config& config, const PortContext& context)
      : config_(config),
        context_(context),
        device_(device_config(config, context), context.quiescence, context.log) {}
  ~VhostUserPort() override { VhostUserPort::stop(); }

  Status start() override {
    auto endpoint = vhost::BackendEndpoint::start(context_.loop, config_.path, config_.mode,
                                                  device_, context_.log);
    if (!endpoint) return forward(endpoint);
    return begin(std::move(*endpoint));
  }

  Status can_hand_over() const override { return endpoint_->can_hand_over(); }
  Status save(PortParcel& to) override {
    to.values["ring_file"] = to.fds.lend(device_.ring_file_fd());
    to.values["control"] = vhost_user::pack_control(device_.control_state());
    return endpoint_->save(to.values, to.fds);
  }
  void resume() override { endpoint_->resume(); }
  void release() override { endpoint_->release(); }
  Status adopt(PortParcel& from) override {
    auto ring_file = from.fds.take(from.values.at("ring_file"));
    if (!ring_file) return forward(ring_file);
    if (*ring_file) {
      if (auto ok = device_.adopt_ring_file(std::move(*ring_file)); !ok) return ok;
    }
    device_.begin_adoption(vhost_user::unpack_control(from.values.at("control")));
    auto endpoint = vhost::BackendEndpoint::adopt(context_.loop, config_.path, config_.mode,
                                                  device_, context_.log, from.values, from.fds);
    device_.end_adoption();
    if (!endpoint) return forward(endpoint);
    return begin(std::move(*endpoint));
  }

  void stop() noexcept override {
    watch_.reset();
    endpoint_.reset();
  }

  std::vector<RxQueue> rx_queues() override { return device_.rx_queues(); }
  std::vector<TxQueue> tx_queues() override { return device_.tx_queues(); }

  PortInfo info() const override;

 private:
  static vhost_user::NetDevice::Config device_config(const Config& config,
                                                     const PortContext& context) {
    vhost_user::NetDevice::Config device = config.device;
    device.senders = context.senders;
    device.loop = &context.loop;
    if (!context.state_dir.empty()) {
      device.ring_file = fmt::format("{}/{}.rings", context.state_dir, file_name_of(config.path));
    }
    return device;
  }
  Status begin(std::unique_ptr<vhost::BackendEndpoint> endpoint) {
    auto watch = context_.loop.every(kWatchPeriod, [this] { look_after_peer(); });
    if (!watch) return forward(watch);
    endpoint_ = std::move(endpoint);
    watch_ = std::move(*watch);
    return {};
  }
  void look_after_peer();

  Config config_;
  PortContext context_;
  vhost_user::NetDevice device_;
  std::unique_ptr<vhost::BackendEndpoint> endpoint_;
  EventLoop::Watch watch_;
};

/// Now and then: tells people and peer of a ring that broke, and lets go of a peer whose memory
/// vanished.
void VhostUserPort::look_after_peer() {
  device_.report_broken_rings();
  device_.serve_control();
  const vhost::BackendConnection* connection = endpoint_->connection();
  if (connection == nullptr) return;
  const auto& memory = connection->session().memory();
  if (memory && memory->faulted()) {
    endpoint_->disconnect("the front end shrank a file that it shared as memory");
    return;
  }
  const auto& log = connection->session().dirty_log();
  if (log && log->faulted()) {
    endpoint_->disconnect("the front end shrank the file of its log of dirty pages");
    return;
  }
  if (log && log->take_incomplete()) {
    context_.log.warn(
        "the front end's log of dirty pages is too small for what was written: a "
        "guest that is migrated now may be damaged");
  }
  connection->session().tell_of_dirty_pages();
}

std::string describe_iommu(const vhost::BackendSession& session) {
  const auto iotlb = session.iotlb();
  if (!iotlb) return "";
  const vhost::IotlbCounters& c = session.state().iotlb;
  const std::string& lost = session.state().channel_problem;
  return fmt::format(
      "{} mappings, {} misses, {} updates, {} invalidations, {} evicted, {} faults, {} overdue, "
      "{} refused{}",
      iotlb->runs(), c.misses, c.updates, c.invalidations, iotlb->evicted(), c.faults, c.overdue,
      c.refused, lost.empty() ? "" : "; no way to ask: " + lost);
}

PortInfo VhostUserPort::info() const {
  PortInfo info;
  info.kind = "vhost-user";
  info.target = config_.path;
  info.state = endpoint_ ? endpoint_->describe() : "stopped";
  device_.describe(info);
  const vhost::BackendConnection* connection = endpoint_ ? endpoint_->connection() : nullptr;
  if (connection == nullptr) return info;
  const vhost::SessionState& session = connection->session().state();
  info.peer = connection->peer().describe();
  info.features = session.features;
  info.feature_names = virtio::net_feature_names(session.features);
  info.protocol_feature_names = vhost::protocol_feature_names(session.protocol_features);
  info.iommu = describe_iommu(connection->session());
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
  return std::make_unique<VhostUserPort>(*config, context);
}

std::span<const PortKey> vhost_user_port_keys() { return kKeys; }

}  // namespace pollux
