// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/mem/dirty_log.hpp"
#include "pollux/mem/iotlb_reader.hpp"
#include "pollux/mem/peer_memory.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/vhost/inflight.hpp"
#include "pollux/vhost/ring_layout.hpp"

namespace pollux::vhost {

/// A descriptor that the session lists in its state while the device uses it: whoever holds it
/// last closes it, so that no worker ever writes to a number that means another file by then.
/// Null: the front end gave none.
using SharedFd = std::shared_ptr<const UniqueFd>;

/// What a device has to offer to a front end; constant while a session lasts.
struct DeviceOffer {
  /// virtio feature bits; the session adds VHOST_USER_F_PROTOCOL_FEATURES.
  uint64_t features = 0;
  /// VHOST_USER_PROTOCOL_F_... bits wanted; the session leaves out what it does not implement.
  /// With LOG_SHMFD it offers VHOST_F_LOG_ALL, and the device marks what it writes (update_log).
  uint64_t protocol_features = 0;
  /// Rings that the front end may set up, at most 256. A net device has two a queue pair.
  uint16_t vrings = 2;
  /// The answer to GET_QUEUE_NUM, by convention: queue pairs for net, rings for others.
  uint64_t queue_num = 1;
  /// Memory regions at a time, at most spec::kMaxMemSlots; the answer to GET_MAX_MEM_SLOTS.
  uint32_t mem_slots = spec::kMaxMemSlots;
};

/// What may change on a ring while it runs.
struct RingControls {
  /// A disabled ring is started nevertheless. Net: nothing is received through it, and what the
  /// driver sends is taken and discarded. Text: "Ring states".
  bool enabled = false;
  /// Readable when the driver put buffers on the ring; null: the driver expects us to poll.
  SharedFd kick;
  /// Written (8 bytes) when buffers were used; null: the driver polls. Non-blocking.
  SharedFd call;
  /// Written when the ring is broken; may be null. Non-blocking.
  SharedFd err;
};

/// Everything a device needs to run one ring.
struct RingStart {
  uint16_t index = 0;
  /// Host pointers: inside `memory`, aligned as VIRTIO 1.3, 2.7 and 2.8 want, each part whole in
  /// one region.
  RingLayout layout;
  /// Where to go on, as SET_VRING_BASE says it: the available index of a split ring, a
  /// ring::PackedPosition inside a packed one.
  uint32_t base = 0;
  /// The base is where stop_ring stopped the ring, in this session or before a hand-over: it is
  /// true. Front ends may not know.
  bool base_ours = false;
  uint64_t features = 0;  ///< negotiated
  /// Where to mark what is written to `memory`, from the first byte on; null: nowhere.
  std::shared_ptr<const WriteLog> log;
  RingControls controls;
  /// Of a split ring: chains that an earlier back end had taken and not returned, in the order in
  /// which it took them, each below the ring's size and none twice. They lie before those of the
  /// available ring, and are to be returned before start_ring returns: whoever resumes us relies on
  /// order.
  std::vector<uint16_t> in_flight;
  /// Of a packed ring: the front end's region, where the device finds what an earlier one has left
  /// of this ring, and notes where it is itself. Null: the front end keeps none.
  std::shared_ptr<const InflightRegion> inflight;
  /// What the ring's descriptors point into. Keeping it keeps the mappings.
  std::shared_ptr<const PeerMemory> memory;
  /// Behind an IOMMU (VIRTIO_F_ACCESS_PLATFORM): what its descriptors mean. To be kept as long as
  /// a view of it. Null otherwise.
  std::shared_ptr<IotlbReader> iotlb;

  /// What the ring translates descriptors with.
  [[nodiscard]] PeerView view() const {
    return iotlb ? PeerView(*memory, *iotlb) : PeerView(*memory);
  }
};

/// The device behind a session: what a port (or any other vhost-user device) implements. All calls
/// come from the thread that runs the session. Indices are below offer().vrings.
class BackendDevice {
 public:
  virtual ~BackendDevice() = default;

  [[nodiscard]] virtual DeviceOffer offer() const = 0;

  /// Publishes a ring to the workers. Called for a stopped ring only. A failure leaves the ring
  /// stopped, with the sentence shown as the reason; the session goes on.
  [[nodiscard]] virtual Status start_ring(const RingStart& start) = 0;

  /// Takes a running ring from the workers, waits until none of them uses it, and returns where it
  /// would go on, in the form of RingStart::base. On failure (a worker did not come by in time) the
  /// session ends; the device keeps what the worker may still use.
  [[nodiscard]] virtual Result<uint32_t> stop_ring(uint16_t index) = 0;

  /// The front end took a stopped ring back, and was told where it stands: what it starts next may
  /// be another ring at the same place.
  virtual void forget_ring(uint16_t /*index*/) {}

  /// Behind an IOMMU: mappings changed, and the rings' readers find the new ones at their next
  /// refresh(). Returns well when no worker uses the ones before. On failure the session ends; the
  /// device keeps what a worker may still use.
  [[nodiscard]] virtual Status mappings_changed() { return {}; }

  /// New controls for a running ring; the workers have seen them when this returns.
  virtual void update_ring(uint16_t index, const RingControls& controls) = 0;

  /// A running ring's writes are marked in `log` from now on, or nowhere if null. When this returns
  /// well no worker uses the log before any more. On failure the session ends; the device keeps
  /// what a worker may still use.
  [[nodiscard]] virtual Status update_log(uint16_t /*index*/,
                                          std::shared_ptr<const WriteLog> /*log*/) {
    return fail(ErrorCode::kUnsupported, "this device does not log what it writes");
  }

  /// The negotiated features changed; all rings are stopped. 0 when the session ended.
  virtual void features_changed(uint64_t /*features*/) {}

  /// SEND_RARP: announce this address of the guest on the network.
  virtual void send_rarp(const std::array<uint8_t, 6>& /*mac*/) {}

  /// NET_SET_MTU. kInvalidArgument when the device can not do it.
  [[nodiscard]] virtual Status set_mtu(uint64_t /*mtu*/) { return {}; }

  /// The virtio configuration space for GET_CONFIG.
  [[nodiscard]] virtual std::span<const std::byte> config() const { return {}; }

  /// SET_CONFIG of bytes that lie inside config(): by the driver, or with `migrating` by the front
  /// end of a guest that moved here, which may write fields that are read-only to the driver.
  [[nodiscard]] virtual Status set_config(uint32_t /*offset*/, std::span<const std::byte> /*bytes*/,
                                          bool /*migrating*/) {
    return fail(ErrorCode::kUnsupported, "no field of this configuration space can be written");
  }

  /// RESET_DEVICE, or a status of 0: forget what the driver set up (VIRTIO 1.3, 2.4). All rings are
  /// stopped; features_changed(0) comes before for RESET_DEVICE.
  virtual void reset() {}

  /// VRING_KICK: a notification that came as a message. The ring runs.
  virtual void kick(uint16_t /*index*/) {}

  /// GET_SHARED_OBJECT: the dma-buf that the device exports under this UUID, or none.
  [[nodiscard]] virtual UniqueFd shared_object(const spec::VhostUserShared& /*uuid*/) { return {}; }

  /// GET_SHMEM_CONFIG: sizes of the VIRTIO shared memory regions, by their id; at most 256.
  [[nodiscard]] virtual std::span<const uint64_t> shared_memory_sizes() const { return {}; }

  /// SET_DEVICE_STATE_FD: what a device has to carry to another host that the front end does not
  /// carry for it, in a format of the device's own; at most StateTransfer::kMaxState bytes. All
  /// rings are stopped.
  [[nodiscard]] virtual Result<std::vector<std::byte>> save_state() {
    return std::vector<std::byte>();
  }
  /// The same on the other host. Refused states change nothing.
  [[nodiscard]] virtual Status load_state(std::span<const std::byte> state) {
    if (state.empty()) return {};
    return fail(ErrorCode::kInvalidArgument, "this device has no state, but some came");
  }
};

}  // namespace pollux::vhost
