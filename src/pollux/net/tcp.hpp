// SPDX-License-Identifier: Apache-2.0
// TCP, RFC 9293 section 3.1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/base/endian.hpp"

namespace pollux::net {

struct TcpHeader {
  Be16 source_port;
  Be16 destination_port;
  Be32 sequence;
  Be32 acknowledgment;
  uint8_t data_offset;  ///< in the upper four bits, in units of 4 bytes
  uint8_t flags;
  Be16 window;
  Be16 checksum;
  Be16 urgent_pointer;

  /// With options; 20 to 60 when the header is good.
  [[nodiscard]] constexpr size_t size() const { return size_t{data_offset} / 16 * 4; }
};
inline constexpr size_t kTcpHeaderSize = 20;
static_assert(sizeof(TcpHeader) == kTcpHeaderSize);

inline constexpr uint8_t kTcpFin = 0x01;
inline constexpr uint8_t kTcpSyn = 0x02;
inline constexpr uint8_t kTcpRst = 0x04;
inline constexpr uint8_t kTcpPsh = 0x08;
inline constexpr uint8_t kTcpAck = 0x10;
inline constexpr uint8_t kTcpUrg = 0x20;
inline constexpr uint8_t kTcpEce = 0x40;
inline constexpr uint8_t kTcpCwr = 0x80;

inline constexpr uint16_t kTcpChecksumOffset = offsetof(TcpHeader, checksum);
static_assert(kTcpChecksumOffset == 16);

}  // namespace pollux::net
