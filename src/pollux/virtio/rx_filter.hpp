// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <vector>

#include "pollux/packet/packet.hpp"
#include "pollux/virtio/net_control.hpp"

namespace pollux::virtio {

/// A driver's receive filters (VIRTIO 1.3, 5.1.6.5.1 to 5.1.6.5.3), made ready for asking once a
/// packet. Immutable; any number of threads.
class RxFilter {
 public:
  explicit RxFilter(const RxFilterState& state);

  /// True when `state` lets everything through, so that no filter need be asked.
  [[nodiscard]] static bool passes_all(const RxFilterState& state) { return state.promisc; }

  /// Whether the driver wants the frame. It has an Ethernet header at least.
  ///
  ///     promiscuous                        yes
  ///     tagged with a VLAN not in the table  no; priority tags (VLAN 0) count as no tag
  ///     broadcast                          unless NOBCAST
  ///     multicast                          unless NOMULTI; if ALLMULTI or in the table
  ///     unicast                            unless NOUNI; if ALLUNI, its own or in the table
  ///
  /// A driver whose own address nobody told is given all unicast frames.
  [[nodiscard]] bool accepts(const Packet& packet) const noexcept;

 private:
  [[nodiscard]] bool accepts_vlan(const Packet& packet) const noexcept;

  bool promisc_;
  bool all_multicast_;
  bool all_unicast_;
  bool no_multicast_;
  bool no_unicast_;
  bool no_broadcast_;
  bool filters_vlans_;
  std::vector<uint64_t> macs_;  // keys, sorted: the own one and both tables
  std::bitset<spec::kVlanIds> vlans_;
};

}  // namespace pollux::virtio
