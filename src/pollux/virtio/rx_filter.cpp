// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/rx_filter.hpp"

#include <algorithm>

#include "pollux/net/vlan.hpp"
#include "pollux/net/wire.hpp"

namespace pollux::virtio {

RxFilter::RxFilter(const RxFilterState& state)
    : promisc_(state.promisc),
      all_multicast_(state.allmulti || state.multicast.overflow),
      all_unicast_(state.alluni || state.unicast.overflow || !state.mac),
      no_multicast_(state.nomulti),
      no_unicast_(state.nouni),
      no_broadcast_(state.nobcast),
      filters_vlans_(state.vlan_filter),
      vlans_(state.vlans) {
  for (const auto* table : {&state.unicast, &state.multicast}) {
    for (const net::MacAddress& mac : table->macs) macs_.push_back(mac.key());
  }
  if (state.mac) macs_.push_back(state.mac->key());
  std::sort(macs_.begin(), macs_.end());
}

bool RxFilter::accepts(const Packet& packet) const noexcept {
  if (promisc_) return true;
  if (filters_vlans_ && !accepts_vlan(packet)) return false;
  const uint64_t to = net::destination_key(packet.head());
  if (to == net::MacAddress::kKeyMask) return !no_broadcast_;
  const bool group = net::is_multicast_key(to);
  if (group ? no_multicast_ : no_unicast_) return false;
  if (group ? all_multicast_ : all_unicast_) return true;
  return std::binary_search(macs_.begin(), macs_.end(), to);
}

bool RxFilter::accepts_vlan(const Packet& packet) const noexcept {
  net::EthernetHeader ethernet;
  net::VlanTag tag;
  if (!net::read_at(packet.head_bytes(), 0, ethernet) ||
      !net::is_vlan_type(ethernet.ether_type.value()) ||
      !net::read_at(packet.head_bytes(), net::kEthernetHeaderSize, tag)) {
    return true;
  }
  const uint16_t id = net::vlan_id(tag.tci.value());
  return id == 0 || vlans_[id];
}

}  // namespace pollux::virtio
