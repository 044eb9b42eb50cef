// SPDX-License-Identifier: Apache-2.0
// Segments of TCP connections, right to the checksum, for session_fuzz.cpp: what is joined and cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "pollux/net/checksum.hpp"
#include "tests/support/lying_driver.hpp"

namespace pollux::liar {

inline constexpr size_t kTcpHeaders = 54;  // Ethernet, IPv4, TCP

inline void put_be16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

/// Makes a frame of tcp_packet(), without its net header, number `n` of its connection: sequence
/// number and identification count on, and checksums are right. `partial`: TCP's is left to
/// whoever minds.
inline void number_segment(std::span<uint8_t> frame, uint32_t n, bool last, bool partial) {
  const auto payload = static_cast<uint32_t>(frame.size() - kTcpHeaders);
  const auto bytes = std::as_bytes(frame);
  uint8_t* ip = frame.data() + 14;
  uint8_t* tcp = frame.data() + 34;
  put_be16(ip + 4, n);
  put_be16(ip + 10, 0);
  put_be16(ip + 10, net::checksum(bytes.subspan(14, 20)).value());
  put_be16(tcp + 4, n * payload >> 16);
  put_be16(tcp + 6, n * payload);
  if (last) tcp[13] |= 8;                    // PSH
  const uint32_t pseudo = 6 + 20 + payload;  // addresses are zeros
  put_be16(tcp + 16, pseudo);
  if (partial) return;
  // The sum of a segment that has its pseudo header's sum in the field is what belongs there.
  put_be16(tcp + 16, net::checksum(bytes.subspan(34)).value());
}

/// A header of 12 bytes grows to the one with a hash (5.1.6).
inline void widen_header(std::vector<uint8_t>& packet) {
  packet.insert(packet.begin() + spec::kNetHdrSize, spec::kHashNetHdrSize - spec::kNetHdrSize, 0);
}

}  // namespace pollux::liar
