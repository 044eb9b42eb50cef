// SPDX-License-Identifier: Apache-2.0
// UDP, RFC 768.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/base/endian.hpp"

namespace pollux::net {

struct UdpHeader {
  Be16 source_port;
  Be16 destination_port;
  Be16 length;    ///< of header and data
  Be16 checksum;  ///< 0: none
};
inline constexpr size_t kUdpHeaderSize = 8;
static_assert(sizeof(UdpHeader) == kUdpHeaderSize);

inline constexpr uint16_t kUdpChecksumOffset = offsetof(UdpHeader, checksum);
static_assert(kUdpChecksumOffset == 6);

}  // namespace pollux::net
