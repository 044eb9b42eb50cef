// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/net/ethernet.hpp"
#include "pollux/port/port.hpp"
#include "pollux/port/quiescence.hpp"
#include "pollux/ports/vhost_user/control_queue.hpp"
#include "pollux/ports/vhost_user/queues.hpp"
#include "pollux/ports/vhost_user/reception.hpp"
#include "pollux/ports/vhost_user/ring_file.hpp"
#include "pollux/spec/virtio_net_control.hpp"
#include "pollux/vhost/device.hpp"
#include "pollux/virtio/net_control.hpp"

namespace pollux::vhost_user {

/// The virtio-net device that a vhost-user port shows to its front end: starts and stops rings as
/// the session says, and lets them appear and vanish behind queue handles that stay. Knows nothing
/// of sockets. Control thread only, but for the handles.
class NetDevice final : public vhost::BackendDevice {
 public:
  struct Config {
    uint16_t queue_pairs = 1;
    unsigned senders = 1;  ///< threads that may send at once; each gets a handle of its own
    uint32_t queue_size = spec::kMaxSplitQueueSize;  ///< largest ring accepted
    uint64_t features = 0;                           ///< offered
    bool in_band = false;                            ///< offer INBAND_NOTIFICATIONS
    bool steer_flows = true;  ///< automatic receive steering for drivers with several receiveqs
    /// How long a ring that starts disabled may wait to be enabled before it is emptied.
    std::chrono::milliseconds enable_grace{1000};
    /// Serves the control queue; needed if CTRL_VQ is offered. Outlives the device.
    EventLoop* loop = nullptr;
    // The configuration space, 5.1.4; told only if it is offered.
    bool config_space = false;
    std::optional<net::MacAddress> mac{};
    uint16_t mtu = 1500;
    uint32_t speed = spec::VIRTIO_NET_SPEED_UNKNOWN;  ///< Mbit/s
    bool gro = true;                                  ///< kTxJoin, see packet/tx_offloads.hpp
    std::string ring_file{};  ///< path for RingFile; empty: packed rings are noted nowhere
  };

  /// `quiescence` outlives the device.
  NetDevice(const Config& config, Quiescence& quiescence, Log log);

  [[nodiscard]] std::vector<RxQueue> rx_queues();
  [[nodiscard]] std::vector<TxQueue> tx_queues();

  /// Tells log and peer, once, of each ring that broke since the last call.
  void report_broken_rings();

  /// Serves the control queue of a driver that does not kick.
  void serve_control();

  /// Fills in what the device knows: rings, link, MTU and what is broken.
  void describe(PortInfo& info) const;

  // Hand-over.
  /// The descriptor of the RingFile, -1 without one.
  [[nodiscard]] int ring_file_fd() const { return ring_file_ ? ring_file_->fd() : -1; }
  /// The file that another process had open. Before rings start.
  [[nodiscard]] Status adopt_ring_file(UniqueFd fd);

  /// What the driver has set through its control queue.
  [[nodiscard]] const virtio::NetControlState& control_state() const { return control_.state(); }
  /// The session that begins between these two calls is one that another process had, whose driver
  /// had set `state`.
  void begin_adoption(virtio::NetControlState state);
  void end_adoption();

  // vhost::BackendDevice. Ring 2i is the receiveq of queue pair i, ring 2i+1 its transmitq
  // (VIRTIO 1.3, 5.1.2): what the guest sends is what the switch receives.
  [[nodiscard]] vhost::DeviceOffer offer() const override;
  [[nodiscard]] Status start_ring(const vhost::RingStart& start) override;
  [[nodiscard]] Result<uint32_t> stop_ring(uint16_t index) override;
  void forget_ring(uint16_t index) override;
  void update_ring(uint16_t index, const vhost::RingControls& controls) override;
  [[nodiscard]] Status update_log(uint16_t index, std::shared_ptr<const WriteLog> log) override;
  [[nodiscard]] Status mappings_changed() override;
  void features_changed(uint64_t features) override;
  void send_rarp(const std::array<uint8_t, 6>& mac) override;
  [[nodiscard]] Status set_mtu(uint64_t mtu) override;
  [[nodiscard]] Result<std::vector<std::byte>> save_state() override;
  [[nodiscard]] Status load_state(std::span<const std::byte> state) override;
  [[nodiscard]] std::span<const std::byte> config() const override;
  void reset() override;
  void kick(uint16_t index) override;

 private:
  static constexpr auto kQuiescenceDeadline = std::chrono::seconds(2);
  /// With the control queue, whether there is one or not.
  [[nodiscard]] uint16_t rings() const {
    return static_cast<uint16_t>(2 * config_.queue_pairs + 1);
  }
  static bool is_rx(uint16_t index) { return index % 2 == 1; }

  /// One ring as control knows it, whether it runs or not.
  template <typename Live>
  struct Ring {
    std::unique_ptr<Live> live;
    std::unique_ptr<const vhost::RingControls> controls;
    std::shared_ptr<const WriteLog> log;  // what the ring's view marks its writes in
    bool published = false;
    bool reported = false;  // that it is broken
  };

  [[nodiscard]] bool unpublish(uint16_t index);
  [[nodiscard]] Result<PackedPast> find_past(const vhost::RingStart& start);
  [[nodiscard]] ring::PackedJournal journal_of(const vhost::RingStart& start,
                                               const ring::PackedLayout& layout);
  void publish(uint16_t index);
  void map_tx();
  void look_ahead();
  template <typename Live>
  void update(Ring<Live>& ring, uint16_t index, const vhost::RingControls& controls);
  template <typename Live>
  void report(Ring<Live>& ring, const std::string& name);

  // The control queue and what it sets: device_control.cpp.
  [[nodiscard]] bool is_control(uint16_t index) const;
  [[nodiscard]] bool runs_control(uint16_t index) const {
    return control_queue_ && control_queue_->index() == index;
  }
  [[nodiscard]] size_t pairs_in_use() const;
  void start_control(const vhost::RingStart& start, const PackedPast& past);
  [[nodiscard]] Result<uint32_t> stop_control();
  void reset_control(uint64_t features);
  [[nodiscard]] bool execute(std::span<const std::byte> command);
  void apply_offloads();
  void apply_offloads(LiveTx& ring) const;
  [[nodiscard]] bool steers() const;
  [[nodiscard]] bool steers_flows() const;
  [[nodiscard]] std::unique_ptr<const Reception> make_reception();
  [[nodiscard]] bool place_rings(Reception& reception) const;
  void publish_reception();
  void update_config_space();
  void describe_control(PortInfo& info) const;

  Config config_;
  Quiescence& quiescence_;
  Log log_;
  uint16_t mtu_ = 0;
  uint64_t features_ = 0;  // negotiated
  virtio::NetControl control_{virtio::NetControl::Config{}};
  std::optional<virtio::NetControlState> adopted_control_;  // for the features that come next
  spec::virtio_net_config space_{};
  FlowSteering flows_;
  std::unique_ptr<const Reception> reception_owner_;
  std::atomic<const Reception*> reception_{nullptr};
  std::atomic<uint32_t> offloads_{0};
  std::atomic<uint32_t> sends_large_{0};  // see RxQueue::large
  std::unique_ptr<RingFile> ring_file_;   // opened for the first packed ring; outlives all rings
  bool ring_file_failed_ = false;
  std::vector<RxSlot> rx_;
  std::vector<TxSlot> tx_;
  std::vector<Ring<LiveRx>> rx_rings_;
  std::vector<Ring<LiveTx>> tx_rings_;
  /// What a worker may still use since it missed a deadline: kept as long as the port.
  std::vector<Ring<LiveRx>> stranded_rx_;
  std::vector<Ring<LiveTx>> stranded_tx_;
  std::vector<std::unique_ptr<const vhost::RingControls>> stranded_controls_;
  std::vector<std::shared_ptr<const WriteLog>> stranded_logs_;
  std::vector<std::unique_ptr<const Reception>> stranded_receptions_;
  std::unique_ptr<ControlQueue> control_queue_;
};

}  // namespace pollux::vhost_user
