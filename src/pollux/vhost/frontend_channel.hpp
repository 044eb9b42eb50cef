// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/vhost/codec.hpp"
#include "pollux/vhost/message.hpp"
#include "pollux/vhost/request_table.hpp"

namespace pollux::vhost {

/// What a front end does about requests of its back end ("Back-end message types"): override what
/// it can do; all else is refused. Called from within the front end's calls and its
/// wait_for_hang_up(); must not call the front end.
class BackendRequestHandler {
 public:
  virtual ~BackendRequestHandler() = default;
  virtual Status iotlb(const spec::vhost_iotlb_msg& /*message*/) { return refuse(); }
  virtual Status config_changed() { return refuse(); }
  virtual Status vring_call(uint32_t /*index*/) { return refuse(); }
  virtual Status vring_err(uint32_t /*index*/) { return refuse(); }
  /// Without a descriptor: the notifier is taken back.
  virtual Status host_notifier(const spec::VhostUserVringArea& /*area*/, UniqueFd /*fd*/) {
    return refuse();
  }
  virtual Status shared_object_add(const spec::VhostUserShared& /*uuid*/) { return refuse(); }
  virtual Status shared_object_remove(const spec::VhostUserShared& /*uuid*/) { return refuse(); }
  virtual Result<UniqueFd> shared_object_lookup(const spec::VhostUserShared& /*uuid*/) {
    return forward(refuse());
  }
  virtual Status shmem_map(const spec::VhostUserMMap& /*area*/, UniqueFd /*file*/) {
    return refuse();
  }
  virtual Status shmem_unmap(const spec::VhostUserMMap& /*area*/) { return refuse(); }

 protected:
  [[nodiscard]] static Status refuse() {
    return fail(ErrorCode::kUnsupported, "this front end does nothing about it");
  }
};

/// The front end's end of the channel that SET_BACKEND_REQ_FD gives to the back end. Never waits.
/// One thread.
class FrontendChannel {
 public:
  /// `socket` is non-blocking; `handler` outlives the channel.
  FrontendChannel(UniqueFd socket, BackendRequestHandler& handler)
      : socket_(std::move(socket)), handler_(handler) {}

  [[nodiscard]] int fd() const { return socket_.get(); }
  /// POLLIN, or POLLOUT while answers wait to be read: a back end that does not read them is not
  /// read from.
  [[nodiscard]] short events() const;

  /// Answers the requests that have come, at most 64 of them. kDisconnected when the back end
  /// closed the channel, kProtocol when it says what can not be a request.
  [[nodiscard]] Status serve(const Negotiated& negotiated);

 private:
  [[nodiscard]] Status answer(const Negotiated& negotiated, Message& message);
  [[nodiscard]] Status dispatch(Message& message);
  [[nodiscard]] Message look_up(const Message& message);

  UniqueFd socket_;
  BackendRequestHandler& handler_;
  MessageReader reader_;
  MessageWriter writer_;
};

}  // namespace pollux::vhost
