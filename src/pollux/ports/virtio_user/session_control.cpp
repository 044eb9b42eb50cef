// SPDX-License-Identifier: Apache-2.0
// The control queue of a session: VIRTIO 1.3, 5.1.6.5. Commands are sent one at a time, each
// answered before the next, by the port's thread.
#include <fmt/format.h>

#include <cstddef>
#include <cstring>

#include "pollux/base/event_fd.hpp"
#include "pollux/ports/virtio_user/session.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/spec/virtio_net_control.hpp"

namespace pollux::virtio_user {

using namespace spec;  // NOLINT(google-build-using-namespace): the features are names of the text

/// 5.1.2: it comes behind all queue pairs that the device has, used or not.
Status Session::find_control() {
  if (!has(VIRTIO_NET_F_CTRL_VQ)) return {};
  uint16_t pairs = 1;
  if (has(VIRTIO_NET_F_MQ)) {
    if ((frontend_.protocol_features() & VHOST_USER_PROTOCOL_F_CONFIG) == 0) {
      return fail(ErrorCode::kUnsupported,
                  "the back end does not say where its control queue is: use ctrl-queue=off");
    }
    Le16 most{};
    auto bytes =
        frontend_.get_config(offsetof(virtio_net_config, max_virtqueue_pairs), sizeof most);
    if (!bytes) return forward(bytes);
    std::memcpy(&most, bytes->data(), sizeof most);
    pairs = most.value();
  }
  constexpr unsigned kMaxPairs = 127;  // the protocol's messages name 256 rings
  if (pairs < queue_pairs_ || pairs > kMaxPairs) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the back end says that it has {} queue pairs and a control queue: "
                            "use ctrl-queue=off",
                            pairs));
  }
  control_index_ = static_cast<uint16_t>(2 * pairs);
  return {};
}

/// Always anew: a command that a back end before this one left unanswered is not for this one.
Status Session::make_control() {
  const uint32_t place = memory_->control_index();
  const ring::DriverRingOptions options{.event_idx = has(VIRTIO_F_EVENT_IDX),
                                        .in_order = has(VIRTIO_F_IN_ORDER)};
  if (packed()) {
    using Ring = ring::PackedDriverRing<>;
    control_ = std::make_unique<LiveControlOf<Ring>>(Ring(memory_->packed_layout(place), options),
                                                     memory_->control_room());
  } else {
    using Ring = ring::SplitDriverRing<>;
    control_ = std::make_unique<LiveControlOf<Ring>>(Ring(memory_->split_layout(place), options),
                                                     memory_->control_room());
  }
  return control_->make_events();
}

/// A switch wants all frames, in all of its queues.
Status Session::say_what_is_wanted() {
  if (has(VIRTIO_NET_F_CTRL_RX)) {
    const auto promiscuous = virtio::rx_mode_command(VIRTIO_NET_CTRL_RX_PROMISC, true);
    if (auto ok = command("to pass all frames on", promiscuous); !ok) return ok;
  }
  if (has(VIRTIO_NET_F_CTRL_MAC_ADDR) && config_.mac) {
    if (auto ok = command("this address", virtio::mac_command(*config_.mac)); !ok) return ok;
  }
  if (has(VIRTIO_NET_F_MQ)) {
    return command("to use all queues", virtio::queue_pairs_command(queue_pairs_));
  }
  return {};
}

/// Sends a command and waits for the answer; `what` is for people.
Status Session::command(const char* what, const virtio::NetCommand& bytes) {
  if (control_->post(bytes)) control_->notify();
  // A back end may interrupt for nothing, but not for ever.
  constexpr int kMaxInterrupts = 1000;
  for (int i = 0; i < kMaxInterrupts; ++i) {
    if (const auto ack = control_->answer()) {
      if (*ack == VIRTIO_NET_OK) return {};
      return fail(ErrorCode::kProtocol, fmt::format("the back end refused {}", what));
    }
    if (const ring::RingError broken = control_->broken.load(); broken != ring::RingError::none) {
      return fail(ErrorCode::kProtocol, fmt::format("control queue: {}", describe(broken)));
    }
    if (control_->arm()) continue;
    auto waited = frontend_.wait_for_event(control_->call.get());
    if (!waited && waited.error().code == ErrorCode::kTimeout) break;
    if (!waited) return waited;
    (void)drain_event_fd(control_->call.get());
  }
  return fail(ErrorCode::kTimeout,
              "the back end does not serve the control queue that it offers (those made for QEMU "
              "leave it to QEMU): use ctrl-queue=off");
}

}  // namespace pollux::virtio_user
