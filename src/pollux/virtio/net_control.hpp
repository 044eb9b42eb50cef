// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/net/ethernet.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/spec/virtio_net_control.hpp"

namespace pollux::virtio {

/// Which frames a driver wants, VIRTIO 1.3, 5.1.6.5.1 to 5.1.6.5.3. As after a reset, when all
/// are let through: the text asks no device to filter before it is told to.
struct RxFilterState {
  /// A driver's list of addresses. One too long to keep is kept as "any address".
  struct MacTable {
    std::vector<net::MacAddress> macs;
    bool overflow = false;
  };
  static constexpr size_t kMaxMacs = 256;

  bool promisc = true;
  bool allmulti = false;
  bool alluni = false;
  bool nomulti = false;
  bool nouni = false;
  bool nobcast = false;
  MacTable unicast;
  MacTable multicast;
  std::optional<net::MacAddress> mac;  ///< the driver's own; none: nobody told it
  bool vlan_filter = false;            ///< CTRL_VLAN was negotiated
  std::bitset<spec::kVlanIds> vlans;
};

/// How hashes are computed, 5.1.6.4.3.
struct HashState {
  uint32_t types = 0;  ///< VIRTIO_NET_HASH_TYPE_... bits; 0: no hash
  std::vector<std::byte> key;
};

/// How frames are spread over receiveqs, 5.1.6.5.7; queues count from 0.
struct RssState {
  std::vector<uint16_t> table;  ///< a power of two
  uint16_t unclassified = 0;
};

/// All that a driver has set through the control queue: plain values.
struct NetControlState {
  RxFilterState filter;
  uint16_t queue_pairs = 1;  ///< in use
  HashState hash;
  std::optional<RssState> rss;  ///< none: automatic receive steering
  uint64_t guest_offloads = 0;  ///< feature bits of what the driver takes undone now
};

/// What is to be done after a command.
enum class ControlEffect : uint8_t { kNone, kFilter, kMac, kQueues, kOffloads };

/// The device's side of the control queue's commands, 5.1.6.5: reads one, checks it whole, and
/// changes the state, or refuses it and changes nothing. Knows nothing of rings.
class NetControl {
 public:
  struct Config {
    uint64_t features = 0;         ///< negotiated
    uint16_t max_queue_pairs = 1;  ///< what the configuration space says
    std::optional<net::MacAddress> mac{};
  };

  /// Hash types that the device can compute: the supported_hash_types of the configuration space.
  static constexpr uint32_t kHashTypes =
      spec::VIRTIO_NET_HASH_TYPE_IPv4 | spec::VIRTIO_NET_HASH_TYPE_TCPv4 |
      spec::VIRTIO_NET_HASH_TYPE_UDPv4 | spec::VIRTIO_NET_HASH_TYPE_IPv6 |
      spec::VIRTIO_NET_HASH_TYPE_TCPv6 | spec::VIRTIO_NET_HASH_TYPE_UDPv6;
  /// Features that GUEST_OFFLOADS_SET turns off and on again.
  static constexpr uint64_t kGuestOffloads =
      spec::VIRTIO_NET_F_GUEST_CSUM | spec::VIRTIO_NET_F_GUEST_TSO4 |
      spec::VIRTIO_NET_F_GUEST_TSO6 | spec::VIRTIO_NET_F_GUEST_ECN | spec::VIRTIO_NET_F_GUEST_UFO |
      spec::VIRTIO_NET_F_GUEST_USO4 | spec::VIRTIO_NET_F_GUEST_USO6;
  /// Longest command that has a meaning, with some room: anything longer is refused unread.
  static constexpr size_t kMaxCommand = 65536;

  /// As after a reset, with these features.
  explicit NetControl(const Config& config);

  /// Carries out a command: class, command and data, in private memory. Errors: one sentence for
  /// people; the driver is told VIRTIO_NET_ERR.
  [[nodiscard]] Result<ControlEffect> apply(std::span<const std::byte> command);

  [[nodiscard]] const NetControlState& state() const { return state_; }
  /// Takes on what another process's device with these features was told.
  void restore(NetControlState state) { state_ = std::move(state); }

 private:
  using Bytes = std::span<const std::byte>;
  Result<ControlEffect> rx_mode(uint8_t command, Bytes data);
  Result<ControlEffect> mac(uint8_t command, Bytes data);
  Result<ControlEffect> mac_table(Bytes data);
  Result<ControlEffect> vlan(uint8_t command, Bytes data);
  [[nodiscard]] Result<ControlEffect> announce(uint8_t command, Bytes data) const;
  Result<ControlEffect> queues(uint8_t command, Bytes data);
  Result<ControlEffect> queue_pairs(Bytes data);
  Result<ControlEffect> rss(Bytes data);
  Result<ControlEffect> hash(Bytes data);
  Result<ControlEffect> offloads(uint8_t command, Bytes data);

  [[nodiscard]] Status need(uint64_t feature) const;
  [[nodiscard]] Result<HashState> check_hash(uint32_t types, Bytes key_with_length) const;

  Config config_;
  NetControlState state_;
};

}  // namespace pollux::virtio
