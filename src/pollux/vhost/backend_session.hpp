// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/vhost/device.hpp"
#include "pollux/vhost/message.hpp"
#include "pollux/vhost/request_table.hpp"
#include "pollux/vhost/session_state.hpp"

namespace pollux::vhost {

/// The back end of one vhost-user connection as a state machine: messages in, replies out, no I/O
/// and no thread of its own. A message is validated whole, then applied, or refused without
/// effect. One thread; it calls the device from inside `handle` and `end`.
class BackendSession {
 public:
  /// Protocol features that sessions implement; a device's offer is cut down to these.
  static constexpr uint64_t kProtocolFeatures =
      spec::VHOST_USER_PROTOCOL_F_MQ | spec::VHOST_USER_PROTOCOL_F_RARP |
      spec::VHOST_USER_PROTOCOL_F_REPLY_ACK | spec::VHOST_USER_PROTOCOL_F_MTU |
      spec::VHOST_USER_PROTOCOL_F_CONFIG | spec::VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
      spec::VHOST_USER_PROTOCOL_F_STATUS;

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

  /// The front end is gone: stops all rings, lets go of memory and descriptors. The destructor
  /// does the same.
  void end() noexcept;

  [[nodiscard]] const SessionState& state() const { return state_; }
  [[nodiscard]] const std::shared_ptr<const PeerMemory>& memory() const { return memory_; }

 private:
  using Reply = std::optional<Message>;
  using Handler = Result<Reply> (BackendSession::*)(Message&);
  struct HandlerRow;

  [[nodiscard]] static Handler find_handler(uint32_t request);
  [[nodiscard]] Result<Reply> dispatch(Message& message);
  [[nodiscard]] Result<Reply> refuse(const Message& message, const Error& error);

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
  Result<Reply> send_rarp(Message& message);
  Result<Reply> net_set_mtu(Message& message);
  Result<Reply> get_config(Message& message);
  Result<Reply> set_status(Message& message);
  Result<Reply> get_status(Message& message);

  [[nodiscard]] Result<uint16_t> check_index(uint32_t index) const;
  [[nodiscard]] Status replace_memory(std::shared_ptr<const PeerMemory> memory,
                                      std::vector<MemorySlot> slots);
  [[nodiscard]] Result<RingStart> prepare_start(uint16_t index) const;
  void try_start(uint16_t index);
  [[nodiscard]] Status stop(uint16_t index);
  [[nodiscard]] Status with_rings_stopped(const std::function<void()>& change);
  void update_controls(uint16_t index);

  BackendDevice& device_;
  Log log_;
  DeviceOffer offer_;
  SessionState state_;
  std::shared_ptr<const PeerMemory> memory_;
};

}  // namespace pollux::vhost
