// SPDX-License-Identifier: Apache-2.0
// One packet as joining (stage/gro.hpp) sees it.
#pragma once

#include <cstdint>

#include "pollux/base/endian.hpp"
#include "pollux/packet/packet.hpp"

namespace pollux::stage {

/// What a packet has to do with joining. Only of a kSegment is more known than the connection.
struct TcpSegment {
  enum class Kind : uint8_t {
    kOther,    ///< no TCP
    kUnclear,  ///< perhaps part of any connection, such as a fragment
    kApart,    ///< of a connection, and to be left alone
    kSegment,  ///< may be joined
  };

  Kind kind = Kind::kOther;
  bool v6 = false;
  bool ends = false;  ///< PSH or FIN: nothing may follow
  uint16_t l3 = 0;    ///< offsets in the packet, all inside its head
  uint16_t l4 = 0;
  uint16_t payload_at = 0;
  uint16_t identification = 0;  ///< IPv4
  uint32_t connection = 0;      ///< a hash of addresses and ports, not more
  uint32_t sequence = 0;
  uint32_t payload = 0;  ///< bytes, at least kLeastPayload
};

/// Linux has no smaller segments, and drivers and devices refuse to make them.
inline constexpr uint32_t kLeastPayload = 8;

/// Tells what a packet is. `types`: kTxTso4, kTxTso6, what may be joined; the rest is kApart. So
/// is whatever segmentation would not make again from its headers: flags other than ACK, PSH, FIN
/// and ECE, no payload, IP options, bytes behind the IP packet, checksums left to the receiver in
/// another way than TCP's.
[[nodiscard]] TcpSegment look_at(Packet& packet, uint32_t types) noexcept;

/// True if `later` differs from `earlier`, both kSegment, only in what segmentation makes anew:
/// lengths, identification, checksums, sequence number, PSH and FIN.
[[nodiscard]] bool same_headers(const Packet& earlier, const TcpSegment& of_earlier,
                                const Packet& later, const TcpSegment& of_later) noexcept;

/// True if the IPv4 header's checksum is right, and TCP's too; or, with needs_csum, the sum of the
/// pseudo header in its place. Right to the bit: 0xffff, which would do for 0, is not.
[[nodiscard]] bool checksums_right(const Packet& packet, const TcpSegment& segment) noexcept;

/// The pseudo header's sum for `length` bytes of TCP header and payload.
[[nodiscard]] Be16 pseudo_sum(const Packet& packet, const TcpSegment& segment,
                              uint32_t length) noexcept;

}  // namespace pollux::stage
