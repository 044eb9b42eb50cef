// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/net/ethernet.hpp"

namespace pollux {

/// What a `tap:` port was asked for.
struct TapOptions {
  std::string name;  ///< of the network interface
  uint32_t queues = 1;
  bool offload = true;  ///< let the kernel leave checksums and segmentation to us
  bool gro = true;      ///< join small segments for the kernel; with `offload`
  bool up = true;       ///< set the interface up
  std::optional<net::MacAddress> mac;
  std::optional<uint32_t> mtu;
};

/// A tap interface of the kernel, attached: one descriptor a queue, non-blocking. Every packet is
/// preceded by a virtio_net_hdr of 12 bytes in host byte order. When the descriptors are closed
/// the kernel removes the interface, unless somebody made it persistent.
/// See Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h of the kernel.
class TapDevice {
 public:
  /// Attaches to the interface, in the calling thread's network namespace; makes it when there is
  /// none of that name. Errors: kPermission with advice, kAlreadyExists when another program has
  /// it, kInvalidArgument when it exists and is of another kind.
  [[nodiscard]] static Result<TapDevice> open(const TapOptions& options);

  /// The same interface in another process, from the descriptors that this one has of it.
  [[nodiscard]] static TapDevice adopt(const std::string& name, UniqueFd control,
                                       std::vector<UniqueFd> queues, uint32_t offloads);
  [[nodiscard]] int control_fd() const { return control_.get(); }

  [[nodiscard]] std::vector<UniqueFd>& queues() { return queues_; }
  /// kTx... bits that packets written to it may ask for.
  [[nodiscard]] uint32_t offloads() const { return offloads_; }

  struct State {
    bool there = false;      ///< false: the interface was removed
    bool elsewhere = false;  ///< moved to another network namespace: nothing more is known
    bool up = false;
    uint16_t mtu = 0;
    std::optional<net::MacAddress> mac;
  };
  /// What the interface is now, under whatever name. While the queues are open.
  [[nodiscard]] State state() const;

 private:
  TapDevice(std::string name, UniqueFd control)
      : name_(std::move(name)), control_(std::move(control)) {}
  Status attach(const TapOptions& options);
  Status configure(const TapOptions& options) const;
  Status set_up() const;
  void offer_offloads();

  std::string name_;
  UniqueFd control_;  // a socket for the interface's ioctls, in its network namespace
  std::vector<UniqueFd> queues_;
  int first_queue_ = -1;  // stays the queue's own
  uint32_t offloads_ = 0;
};

}  // namespace pollux
