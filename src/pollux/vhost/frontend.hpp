// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/base/strong.hpp"
#include "pollux/vhost/codec.hpp"
#include "pollux/vhost/frontend_channel.hpp"
#include "pollux/vhost/message.hpp"
#include "pollux/vhost/state_transfer.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::vhost {

/// A region of the front end's memory to share. The descriptor stays the caller's.
struct SharedMemoryRegion {
  GuestAddr guest{};
  uint64_t size = 0;
  UserAddr user{};
  uint64_t mmap_offset = 0;
  int fd = -1;
};

/// Addresses of a ring's parts in the front end's address space.
struct VringAddresses {
  UserAddr desc{};
  UserAddr used{};   ///< packed: the device's event structure
  UserAddr avail{};  ///< packed: the driver's event structure
  bool log_used = false;
  GuestAddr log{};
};

/// How a front end's calls wait.
struct FrontendOptions {
  const Clock* clock = nullptr;  ///< required; outlives the front end
  /// The longest that one call may take.
  Nanos timeout = std::chrono::seconds(5);
  /// When this descriptor becomes readable (an eventfd), every call ends with kDisconnected.
  int stop_fd = -1;
};

/// The front end of a vhost-user connection (the driver's side): each call sends one request and,
/// where one is due, waits for the reply. For a thread that may block. After any error the
/// connection is of no use any more and is to be dropped. With REPLY_ACK negotiated every request
/// is acknowledged, so that a refusal is seen where it happens; without, a back end that refuses
/// hangs up. Errors: kTimeout, kDisconnected (hung up, or told to stop), kProtocol (a reply that
/// is none), kInvalidArgument (refused). Not thread-safe. Movable.
class Frontend {
 public:
  /// Takes a connected stream socket (made non-blocking).
  [[nodiscard]] static Result<Frontend> adopt(UniqueFd socket, FrontendOptions options);
  /// Connects once. kNotFound or kDisconnected when nobody listens: try again later.
  [[nodiscard]] static Result<Frontend> connect(const std::string& path, FrontendOptions options);
  /// Waits for a back end to connect to `listener`.
  [[nodiscard]] static Result<Frontend> accept(const UnixListener& listener,
                                               FrontendOptions options);

  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] const PeerCredentials& peer() const { return peer_; }

  // Negotiation.
  [[nodiscard]] Status set_owner();
  [[nodiscard]] Result<uint64_t> get_features();
  [[nodiscard]] Status set_features(uint64_t features);
  [[nodiscard]] Result<uint64_t> get_protocol_features();
  [[nodiscard]] Status set_protocol_features(uint64_t protocol_features);
  /// What was last acknowledged by set_protocol_features.
  [[nodiscard]] uint64_t protocol_features() const { return protocol_features_; }
  [[nodiscard]] Result<uint64_t> get_queue_num();

  // Memory.
  /// At most 8 regions; more need CONFIGURE_MEM_SLOTS and add_mem_reg.
  [[nodiscard]] Status set_mem_table(std::span<const SharedMemoryRegion> regions);
  [[nodiscard]] Result<uint64_t> get_max_mem_slots();
  [[nodiscard]] Status add_mem_reg(const SharedMemoryRegion& region);
  [[nodiscard]] Status rem_mem_reg(const SharedMemoryRegion& region);
  /// Shares any number of regions: by set_mem_table up to 8 of them, else one by one with
  /// add_mem_reg, if the back end has CONFIGURE_MEM_SLOTS and room.
  [[nodiscard]] Status share_memory(std::span<const SharedMemoryRegion> regions);

  // Rings.
  [[nodiscard]] Status set_vring_num(uint16_t index, uint32_t size);
  [[nodiscard]] Status set_vring_addr(uint16_t index, const VringAddresses& addresses);
  [[nodiscard]] Status set_vring_base(uint16_t index, uint32_t base);
  /// Stops the ring; the available index of the next entry that the back end did not process. Of a
  /// packed ring both places with their wrap counters: available in bits 0 to 15, used in 16 to 31.
  [[nodiscard]] Result<uint32_t> get_vring_base(uint16_t index);
  /// -1: no descriptor, that is polling. Descriptors stay the caller's.
  [[nodiscard]] Status set_vring_kick(uint16_t index, int fd);
  [[nodiscard]] Status set_vring_call(uint16_t index, int fd);
  [[nodiscard]] Status set_vring_err(uint16_t index, int fd);
  [[nodiscard]] Status set_vring_enable(uint16_t index, bool enabled);

  // Migration.
  /// Shares the log of dirty pages: bytes [offset, offset + size) of `fd`, one bit for each page of
  /// 4 KiB. Needs LOG_SHMFD. The descriptor stays the caller's, here and below.
  [[nodiscard]] Status set_log_base(int fd, uint64_t offset, uint64_t size);
  /// Post-copy, needs PAGEFAULT: the userfaultfd on which the back end's page faults arrive.
  [[nodiscard]] Result<UniqueFd> postcopy_advise();
  [[nodiscard]] Status postcopy_listen();
  /// After postcopy_listen, instead of set_mem_table: where the back end has the regions, which it
  /// does not touch before postcopy_go.
  [[nodiscard]] Result<std::vector<UserAddr>> postcopy_mem_table(
      std::span<const SharedMemoryRegion> regions);
  /// Page faults are served from now on.
  [[nodiscard]] Status postcopy_go();
  [[nodiscard]] Status postcopy_end();
  /// An eventfd that the back end writes to when it has marked pages; -1: none.
  [[nodiscard]] Status set_log_fd(int fd);

  /// Behind an IOMMU: tells of a mapping (VHOST_IOTLB_UPDATE), takes it back (INVALIDATE), or
  /// refuses access (ACCESS_FAIL). A mapping is not used any more when its invalidation is
  /// answered.
  [[nodiscard]] Status iotlb(const spec::vhost_iotlb_msg& message);

  // In-flight tracking: the region is this side's to keep, for the back end after this one.
  struct Inflight {
    spec::VhostUserInflight told{};
    UniqueFd fd;
  };
  /// A region for that many rings of that size. kProtocol when the back end sends none that fits.
  [[nodiscard]] Result<Inflight> get_inflight_fd(uint16_t queues, uint16_t queue_size);
  [[nodiscard]] Status set_inflight_fd(const Inflight& region);

  // Net.
  [[nodiscard]] Status send_rarp(const std::array<uint8_t, 6>& mac);
  [[nodiscard]] Status set_mtu(uint16_t mtu);

  // Device.
  [[nodiscard]] Status set_status(uint8_t status);
  [[nodiscard]] Result<uint8_t> get_status();
  [[nodiscard]] Status reset_device();
  /// Deprecated in the text: disables all rings.
  [[nodiscard]] Status reset_owner();
  /// `size` bytes of the configuration space, at most 256. kInvalidArgument when the back end has
  /// no such part of it.
  [[nodiscard]] Result<std::vector<std::byte>> get_config(uint32_t offset, uint32_t size);
  /// With `migrating`, of a guest that moved here: read-only fields may be written too.
  [[nodiscard]] Status set_config(uint32_t offset, std::span<const std::byte> bytes,
                                  bool migrating = false);
  /// The byte order of a legacy driver's ring.
  [[nodiscard]] Status set_vring_endian(uint16_t index, std::endian order);
  /// A notification as a message; needs INBAND_NOTIFICATIONS.
  [[nodiscard]] Status vring_kick(uint16_t index);
  /// The dma-buf that the back end exports under `uuid`; an invalid descriptor when there is none.
  [[nodiscard]] Result<UniqueFd> get_shared_object(const spec::VhostUserShared& uuid);
  /// Sizes of the back end's VIRTIO shared memory regions by their id; 0: no such region.
  [[nodiscard]] Result<std::vector<uint64_t>> get_shmem_config();

  // A back end's own state on the way to another host; all rings are stopped.
  /// At most StateTransfer::kMaxState bytes.
  [[nodiscard]] Result<std::vector<std::byte>> save_device_state();
  [[nodiscard]] Status load_device_state(std::span<const std::byte> state);

  // The way back.
  /// Gives the back end a channel for requests of its own, in the place of one before. They are
  /// answered by `handler`, which outlives the front end, while calls wait and in
  /// wait_for_hang_up().
  [[nodiscard]] Status open_channel(BackendRequestHandler& handler);

  /// Waits until the back end hangs up or the stop descriptor is readable (kDisconnected either
  /// way), or `timeout` passes (fine). Unasked-for messages are kProtocol.
  [[nodiscard]] Status wait_for_hang_up(Nanos timeout);

  /// Waits until `fd` is readable: one by which the back end tells of something it did in a ring.
  /// Also kDisconnected when it hangs up.
  [[nodiscard]] Status wait_for_event(int fd);

  /// Sends `message` as it is and waits for nothing: for requests not above, and for tests.
  [[nodiscard]] Status send(Message message);
  /// Waits for the reply to `request`.
  [[nodiscard]] Result<Message> receive_reply(uint32_t request);

 private:
  Frontend(UniqueFd socket, FrontendOptions options);
  [[nodiscard]] Status wait_for(int fd, short events, Nanos deadline);
  [[nodiscard]] Status serve_channel();
  [[nodiscard]] Status send_acknowledged(Message message);
  [[nodiscard]] Result<Message> table_of(std::span<const SharedMemoryRegion> regions) const;
  [[nodiscard]] Result<uint64_t> ask_u64(uint32_t request);
  [[nodiscard]] Status send_vring_fd(uint32_t request, uint16_t index, int fd);
  [[nodiscard]] Result<StateTransfer> transfer_state(bool save, std::vector<std::byte> state);
  [[nodiscard]] Status check_device_state();

  UniqueFd socket_;
  FrontendOptions options_;
  PeerCredentials peer_;
  uint64_t protocol_features_ = 0;
  MessageReader reader_;
  MessageWriter writer_;
  uint64_t features_ = 0;
  std::unique_ptr<FrontendChannel> channel_;
};

}  // namespace pollux::vhost
