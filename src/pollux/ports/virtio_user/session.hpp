// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/net/ethernet.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/ports/virtio_user/queues.hpp"
#include "pollux/ports/virtio_user/shared_memory.hpp"
#include "pollux/spec/virtio.hpp"
#include "pollux/vhost/frontend.hpp"
#include "pollux/virtio/net_commands.hpp"

namespace pollux::virtio_user {

/// What a port wants of a back end.
struct SessionConfig {
  uint64_t features = 0;       ///< virtio bits that it can use
  uint64_t required = 0;       ///< of those, the ones that it does not do without
  uint16_t queue_pairs = 1;    ///< at most; a back end may have fewer
  uint32_t queue_size = 1024;  ///< of split rings the next power of two below it
  uint32_t pool_regions = 1;
  uint16_t mtu = 0;                    ///< to tell the back end; 0: nothing
  std::optional<net::MacAddress> mac;  ///< to tell it through the control queue
};

/// Of the features that a back end offers and a port wants, those that make sense together, with
/// such a pool and such rings (VIRTIO 1.3, 5.1.3.1): no segmentation without checksums, no large
/// frames without mergeable buffers or without room for their chains, no packed rings for legacy
/// devices, no commands without a control queue.
[[nodiscard]] uint64_t choose_features(uint64_t offered, const SessionConfig& config,
                                       uint32_t buffer_size);

/// One connection to a back end with its memory and running rings. Belongs to the port's thread;
/// the rings are lent to the workers in between.
class Session {
 public:
  /// Negotiates, shares memory, sets rings up, posts receive buffers and enables the rings. Takes
  /// as long as the front end's timeouts allow. Errors: the front end's, or kUnsupported, for a
  /// back end without a feature that is required, too.
  [[nodiscard]] static Result<std::unique_ptr<Session>> establish(vhost::Frontend frontend,
                                                                  const SessionConfig& config,
                                                                  Pool& pool);
  /// Gives all buffers back to the pool. No worker may use the rings any more. If the back end may
  /// still be alive, stop_rings() was called before.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Goes on with the rings as they are, and all that lies in them, behind a new connection, to a
  /// back end that takes the place of one that has gone. No worker uses the rings meanwhile.
  /// Errors: kUnsupported when that back end offers less than the one before, so that rings have to
  /// be made anew; else the front end's, after which it may be tried again.
  [[nodiscard]] Status resume(vhost::Frontend frontend);

  /// Whether another device can go on with the rings: none was broken, and of each it is known
  /// where. No worker uses them.
  [[nodiscard]] bool sound() const;

  /// Tells the back end to stop, and waits until it has: from then on it touches no memory.
  [[nodiscard]] Status stop_rings();

  [[nodiscard]] vhost::Frontend& frontend() { return frontend_; }
  [[nodiscard]] std::vector<std::unique_ptr<LiveRx>>& rx() { return rx_; }
  [[nodiscard]] std::vector<std::unique_ptr<LiveTx>>& tx() { return tx_; }
  [[nodiscard]] uint64_t features() const { return features_; }
  [[nodiscard]] bool packed() const { return has(spec::VIRTIO_F_RING_PACKED); }
  /// Entries of each ring.
  [[nodiscard]] uint32_t queue_size() const;
  [[nodiscard]] std::string memory() const { return memory_->describe(); }

 private:
  Session(vhost::Frontend frontend, const SessionConfig& config, Pool& pool)
      : frontend_(std::move(frontend)), config_(config), pool_(pool) {}
  [[nodiscard]] Status negotiate();
  [[nodiscard]] Status negotiate_protocol();
  [[nodiscard]] Status make_memory();
  [[nodiscard]] Status share_memory();
  [[nodiscard]] Status share_inflight();
  [[nodiscard]] Status make_rings();
  [[nodiscard]] Status tell_rings();
  [[nodiscard]] Status tell_ring(uint16_t index, const LiveRing& ring, uint32_t place);
  [[nodiscard]] Status start();
  // The control queue: control.cpp.
  [[nodiscard]] Status find_control();
  [[nodiscard]] Status make_control();
  [[nodiscard]] Status say_what_is_wanted();
  [[nodiscard]] Status command(const char* what, const virtio::NetCommand& bytes);
  [[nodiscard]] std::unique_ptr<LiveRx> make_rx(uint16_t index,
                                                const virtio::NetDriverConfig& config);
  [[nodiscard]] std::unique_ptr<LiveTx> make_tx(uint16_t index,
                                                const virtio::NetDriverConfig& config);
  [[nodiscard]] ring::DriverRingOptions ring_options(uint16_t index) const;
  /// Whether ring `index` is packed, and the region that we keep says where it is.
  [[nodiscard]] bool is_noted(uint16_t index) const;
  [[nodiscard]] bool has(uint64_t feature) const { return (features_ & feature) != 0; }

  vhost::Frontend frontend_;
  SessionConfig config_;
  Pool& pool_;
  uint64_t features_ = 0;
  uint16_t queue_pairs_ = 1;
  std::optional<SharedMemory> memory_;
  std::optional<vhost::Frontend::Inflight> inflight_;  // kept for the back end after this one
  std::vector<std::unique_ptr<LiveRx>> rx_;
  std::vector<std::unique_ptr<LiveTx>> tx_;
  uint16_t control_index_ = 0;  // as the back end counts
  std::unique_ptr<LiveControl> control_;
};

}  // namespace pollux::virtio_user
