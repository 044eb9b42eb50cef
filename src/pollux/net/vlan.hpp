// SPDX-License-Identifier: Apache-2.0
// VLAN tags, IEEE 802.1Q clause 9.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/base/endian.hpp"
#include "pollux/net/ethernet.hpp"

namespace pollux::net {

/// What follows an EtherType of kEtherTypeVlan or kEtherTypeQinQ.
struct VlanTag {
  Be16 tci;         ///< priority (3 bits), drop eligible (1), identifier (12)
  Be16 ether_type;  ///< of what follows the tag
};
static_assert(sizeof(VlanTag) == 4);

/// More tags than any network stacks; further ones are not looked behind.
inline constexpr size_t kMaxVlanTags = 4;

constexpr bool is_vlan_type(uint16_t ether_type) {
  return ether_type == kEtherTypeVlan || ether_type == kEtherTypeQinQ;
}
constexpr uint16_t vlan_id(uint16_t tci) { return tci & 0x0fff; }
constexpr uint8_t vlan_priority(uint16_t tci) { return static_cast<uint8_t>(tci >> 13); }

}  // namespace pollux::net
