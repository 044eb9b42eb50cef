// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/mem/absent_pages.hpp"
#include "pollux/mem/iotlb.hpp"
#include "pollux/mem/iotlb_reader.hpp"
#include "pollux/mem/page_faults.hpp"
#include "pollux/vhost/backend_channel.hpp"
#include "pollux/vhost/device.hpp"
#include "pollux/vhost/inflight.hpp"
#include "pollux/vhost/message.hpp"
#include "pollux/vhost/miss_ledger.hpp"
#include "pollux/vhost/request_table.hpp"
#include "pollux/vhost/session_state.hpp"
#include "pollux/vhost/state_transfer.hpp"

namespace pollux::vhost {

/// The back end of one vhost-user connection as a state machine: messages in, replies out, no I/O
/// and no thread of its own. A message is validated whole, then applied, or refused without
/// effect. One thread; it calls the device from inside `handle` and `end`.
class BackendSession {
 public:
  /// Protocol features that sessions implement; a device's offer is cut down to these.
  static constexpr uint64_t kProtocolFeatures =
      spec::VHOST_USER_PROTOCOL_F_MQ | spec::VHOST_USER_PROTOCOL_F_LOG_SHMFD |
      spec::VHOST_USER_PROTOCOL_F_RARP | spec::VHOST_USER_PROTOCOL_F_REPLY_ACK |
      spec::VHOST_USER_PROTOCOL_F_MTU | spec::VHOST_USER_PROTOCOL_F_BACKEND_REQ |
      spec::VHOST_USER_PROTOCOL_F_CROSS_ENDIAN | spec::VHOST_USER_PROTOCOL_F_CONFIG |
      spec::VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD | spec::VHOST_USER_PROTOCOL_F_RESET_DEVICE |
      spec::VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS |
      spec::VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | spec::VHOST_USER_PROTOCOL_F_STATUS |
      spec::VHOST_USER_PROTOCOL_F_SHARED_OBJECT | spec::VHOST_USER_PROTOCOL_F_DEVICE_STATE |
      spec::VHOST_USER_PROTOCOL_F_SHMEM | spec::VHOST_USER_PROTOCOL_F_PAGEFAULT |
      spec::VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
  /// The same without what this process may not do here: post-copy needs userfaultfd.
  [[nodiscard]] static uint64_t possible_protocol_features();

  /// Whether sessions serve this request of the front end; the others are refused.
  [[nodiscard]] static bool serves(uint32_t request);

  /// `device` outlives the session.
  explicit BackendSession(BackendDevice& device, Log log = {});
  ~BackendSession();
  BackendSession(const BackendSession&) = delete;
  BackendSession& operator=(const BackendSession&) = delete;

  /// Handles one request and returns the reply to send, if any. A refused request that asked for a
  /// reply (REPLY_ACK) gets one that says so, and the session goes on; any other refused request
  /// is an error: the connection is to be closed, the sentence says why. Nothing of a refused
  /// request is applied.
  [[nodiscard]] Result<std::optional<Message>> handle(Message message);

  /// Sends a request of the back end's own to the front end, without waiting; `answered` is called
  /// from `channel_ready` or `tick`, and never if the session ends before. A request that
  /// has no reply of its own may go without. kUnsupported when what it belongs to was not
  /// negotiated or the front end has given no channel; kResource when the front end is behind with
  /// reading or answering: the request was not sent, and may be tried again later.
  [[nodiscard]] Status request(Message message, BackendChannel::Answered answered = nullptr);

  /// BACKEND_CONFIG_CHANGE_MSG: what `BackendDevice::config` returns has changed. Errors as for
  /// `request`.
  [[nodiscard]] Status config_changed();

  /// The channel to be watched and ticked (see BackendChannel), or null. It may come, change and go
  /// with each message and each of the next two calls.
  [[nodiscard]] const BackendChannel* channel() const { return channel_.get(); }
  [[nodiscard]] Status channel_ready();

  /// Behind an IOMMU: `fd` turns readable when workers miss translations, and serve_misses() asks
  /// the front end for them. Null otherwise. It comes and goes with SET_FEATURES.
  [[nodiscard]] const std::shared_ptr<MissBell>& miss_bell() const { return bell_; }
  [[nodiscard]] Status serve_misses();

  /// True while something has a deadline: tick() is to be called every BackendChannel::kTick. An
  /// error of it, or of the calls above, is the end of the session.
  [[nodiscard]] bool wants_ticks() const {
    return (channel_ && channel_->busy()) || !misses_.empty();
  }
  [[nodiscard]] Status tick();

  /// A session that another process began, with the same device; its rings that ran run again.
  /// Errors: kProtocol and kUnsupported when it is none that this device could have, those of
  /// mapping memory.
  [[nodiscard]] Status adopt(SessionState state);

  /// Whether all of the session can go to another process; kUnsupported, and what to wait for, if
  /// not.
  [[nodiscard]] Status can_hand_over() const;

  /// Stops all rings, each at the end of what was taken from it, for another process to go on with
  /// state(), or for resume(). Nothing else may be called in between. Errors: the device's.
  [[nodiscard]] Status pause();
  void resume();

  /// The front end is gone: stops all rings, lets go of memory and descriptors. The destructor
  /// does the same.
  void end() noexcept;

  /// "In-band notifications": events of the session's own that the device gets in the place of call
  /// and err descriptors. Whoever does the session's I/O watches them and calls inband_ready() with
  /// the place of one that is readable. They are added when rings start, and go with the session.
  [[nodiscard]] size_t inband_events() const { return inband_.size(); }
  [[nodiscard]] int inband_event(size_t place) const { return inband_[place].event->get(); }
  void inband_ready(size_t place);

  /// The device's state that is on its way, or null. Whoever does the session's I/O watches its
  /// descriptor and calls advance_transfer() when that is ready.
  [[nodiscard]] const StateTransfer* transfer() const { return transfer_ ? &*transfer_ : nullptr; }
  void advance_transfer();

  [[nodiscard]] const SessionState& state() const { return state_; }
  [[nodiscard]] const std::shared_ptr<const PeerMemory>& memory() const { return memory_; }
  /// The log of dirty pages that the front end shared, if any; in use or not.
  [[nodiscard]] const std::shared_ptr<DirtyLog>& dirty_log() const { return dirty_log_; }
  /// The pages of a guest that is migrated post-copy; null: all are here. Call `pages_arrived` when
  /// its `arrivals()` is readable.
  [[nodiscard]] std::shared_ptr<AbsentPages> absent_pages() const;
  void pages_arrived();
  /// Tells the front end, if it wants to know, that pages were marked since the last call. Call it
  /// now and then: workers do not.
  void tell_of_dirty_pages() const noexcept;
  /// What is known of the guest's IOMMU; null without one.
  [[nodiscard]] std::shared_ptr<const Iotlb> iotlb() const { return iotlb_; }

 private:
  using Reply = std::optional<Message>;
  struct VringFd {
    uint16_t index;
    SharedFd fd;
  };
  /// A ring behind an IOMMU.
  struct IommuRing {
    std::shared_ptr<IotlbReader> reader;               // while the ring runs
    std::vector<std::pair<uint64_t, uint64_t>> parts;  // first and last address of each
    bool waits = false;                                // for the IOMMU, to start

    [[nodiscard]] bool lies_in(uint64_t first, uint64_t last) const {
      return std::any_of(parts.begin(), parts.end(), [&](const auto& part) {
        return part.first <= last && first <= part.second;
      });
    }
  };
  using Handler = Result<Reply> (BackendSession::*)(Message&);
  /// One event that is told as a message. One message at a time is on its way: what happens until
  /// it is answered is told by the next one.
  struct Inband {
    uint32_t request;
    uint16_t index;
    SharedFd event;
    bool due = false;
    bool unanswered = false;
  };

  [[nodiscard]] static Handler find_handler(uint32_t request);
  [[nodiscard]] Result<Reply> dispatch(const RequestRule* rule, Message& message);
  [[nodiscard]] Result<Reply> refuse(const RequestRule* rule, const Message& message,
                                     const Error& error);

  Result<Reply> get_features(Message& message);
  Result<Reply> set_features(Message& message);
  Result<Reply> get_protocol_features(Message& message);
  Result<Reply> set_protocol_features(Message& message);
  Result<Reply> set_owner(Message& message);
  Result<Reply> reset_owner(Message& message);
  Result<Reply> get_queue_num(Message& message);
  Result<Reply> get_max_mem_slots(Message& message);
  Result<Reply> set_mem_table(Message& message);
  Result<Reply> add_mem_reg(Message& message);
  Result<Reply> rem_mem_reg(Message& message);
  Result<Reply> set_vring_num(Message& message);
  Result<Reply> set_vring_addr(Message& message);
  Result<Reply> set_vring_base(Message& message);
  Result<Reply> get_vring_base(Message& message);
  Result<Reply> set_vring_kick(Message& message);
  Result<Reply> set_vring_call(Message& message);
  Result<Reply> set_vring_err(Message& message);
  Result<Reply> set_vring_enable(Message& message);
  Result<Reply> postcopy_advise(Message& message);
  Result<Reply> postcopy_listen(Message& message);
  Result<Reply> postcopy_end(Message& message);
  Result<Reply> set_log_base(Message& message);
  Result<Reply> set_log_fd(Message& message);
  Result<Reply> vring_kick(Message& message);
  Result<Reply> send_rarp(Message& message);
  Result<Reply> net_set_mtu(Message& message);
  Result<Reply> get_config(Message& message);
  Result<Reply> set_backend_req_fd(Message& message);
  Result<Reply> set_config(Message& message);
  Result<Reply> iotlb_msg(Message& message);
  Result<Reply> get_inflight_fd(Message& message);
  Result<Reply> set_inflight_fd(Message& message);
  Result<Reply> set_status(Message& message);
  Result<Reply> get_status(Message& message);
  Result<Reply> reset_device(Message& message);
  Result<Reply> set_vring_endian(Message& message);
  Result<Reply> get_shared_object(Message& message);
  Result<Reply> get_shmem_config(Message& message);
  Result<Reply> set_device_state_fd(Message& message);
  Result<Reply> check_device_state(Message& message);

  // Each of the following validates; nothing is changed when it fails.
  [[nodiscard]] Result<uint16_t> check_index(uint64_t index) const;
  [[nodiscard]] Result<VringFd> check_vring_fd(Message& message, int access) const;
  [[nodiscard]] Status check_features(uint64_t features) const;
  [[nodiscard]] Status check_adopted(const SessionState& state) const;
  [[nodiscard]] static Result<std::shared_ptr<const PeerMemory>> map_all(
      const std::vector<MemorySlot>& slots);
  [[nodiscard]] static Result<std::shared_ptr<DirtyLog>> map_log(const LogState& log);
  [[nodiscard]] Result<StateTransfer> begin_transfer(Message& message);
  // These ask the IOMMU for what they miss.
  [[nodiscard]] Result<RingStart> prepare_start(uint16_t index);
  [[nodiscard]] Result<RingLayout> find_ring(uint16_t index);
  [[nodiscard]] bool log_is_missing(const VringState& vring) const;
  [[nodiscard]] std::shared_ptr<const WriteLog> write_log(const VringState& vring,
                                                          const RingLayout& layout) const;

  // Each of the following applies; a failure of the device to stop a ring breaks the session.
  [[nodiscard]] Status stop(uint16_t index);
  [[nodiscard]] Status stop_all(const std::string& because);
  void try_start(uint16_t index);
  void try_start_all();
  [[nodiscard]] Status replace_memory(std::shared_ptr<const PeerMemory> memory,
                                      std::vector<MemorySlot> slots);
  [[nodiscard]] Status change_features(uint64_t features);
  [[nodiscard]] Status update_log(uint16_t index);
  [[nodiscard]] Status update_logs();
  [[nodiscard]] InflightFormat inflight_format() const;
  [[nodiscard]] Status use_inflight(const SharedFd& fd, const spec::VhostUserInflight& told);
  [[nodiscard]] Status recover_in_flight(RingStart& start) const;
  void commit_in_flight(const RingStart& start) const;
  // A guest whose pages still come: session_postcopy.cpp.
  [[nodiscard]] bool in_postcopy() const;
  [[nodiscard]] static bool is_postcopy_go(const Message& message);
  [[nodiscard]] Message postcopy_table(const Message& message, std::vector<MemorySlot> slots,
                                       std::vector<PeerRegion> regions);
  [[nodiscard]] Result<Reply> postcopy_add(Message& message);
  [[nodiscard]] Result<Reply> postcopy_go();
  void forget_absent_pages(const PeerRegion& region) noexcept;
  void abandon_absent_pages() noexcept;

  void update_controls(uint16_t index);
  void set_enabled(uint16_t index, bool enabled);

  void close_channel(const Error& because);
  void make_inband_events(uint16_t index);
  void send_inband(size_t place);
  [[nodiscard]] SharedFd inband_for(uint32_t request, uint16_t index) const;
  [[nodiscard]] RingControls effective_controls(uint16_t index) const;
  [[nodiscard]] Status whole() const;

  // session_iotlb.cpp
  [[nodiscard]] Status set_up_iotlb();
  [[nodiscard]] Status restore_mappings();
  void rebase_iotlb();
  void forget_mappings();
  [[nodiscard]] Status change_mappings(const spec::vhost_iotlb_msg& wanted);
  [[nodiscard]] Status show_mappings(uint64_t first, uint64_t last);
  void settle_misses(uint64_t first, uint64_t last, uint8_t granted);
  void refuse_access(const IotlbMiss& miss);
  [[nodiscard]] Result<RingLayout> find_ring_behind_iommu(uint16_t index);
  [[nodiscard]] Result<std::byte*> find_iova(const RingPart& part);
  void ask_misses();
  [[nodiscard]] bool ask(const MissLedger::Question& question);
  void on_miss_answered(const MissLedger::Question& question, const Result<Message>& answer);
  void collect_misses();
  void forget_misses(uint64_t first, uint64_t last);
  void tick_misses();

  [[nodiscard]] uint64_t virtio_features() const;
  [[nodiscard]] bool packed() const;
  [[nodiscard]] uint32_t base_of(const VringState& vring) const;
  void forget_bases();
  [[nodiscard]] bool negotiated(uint64_t protocol_feature) const;

  BackendDevice& device_;
  Log log_;
  DeviceOffer offer_;
  SessionState state_;
  std::shared_ptr<const PeerMemory> memory_;
  std::shared_ptr<const InflightRegion> inflight_;  // null: the front end keeps none
  std::unique_ptr<BackendChannel> channel_;
  std::shared_ptr<DirtyLog> dirty_log_;
  struct Postcopy {
    PageFaults faults;
    bool listening = false;           // POSTCOPY_LISTEN came
    std::vector<MemorySlot> slots{};  // what the front end has shared since, in use or not
    std::vector<PeerRegion> regions{};
  };
  std::optional<Postcopy> postcopy_;
  std::vector<Inband> inband_;
  std::optional<StateTransfer> transfer_;
  std::optional<Status> loaded_;  // what came of transfer_, once it is over
  // Behind an IOMMU; null otherwise.
  std::shared_ptr<Iotlb> iotlb_;
  std::shared_ptr<MissBell> bell_;
  std::vector<IommuRing> iommu_rings_;
  MissLedger misses_;
  size_t asked_ = 0;          // questions on their way
  uint64_t iotlb_epoch_ = 0;  // answers to questions of an earlier one mean nothing
  bool broken_ = false;       // a ring could not be stopped: nothing can be promised any more
};

}  // namespace pollux::vhost
