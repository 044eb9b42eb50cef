// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tests/support/guest.hpp"

namespace pollux::test {

/// Numbers as they stand in network headers.
inline void put_be16(std::byte* at, size_t value) {
  at[0] = static_cast<std::byte>(value >> 8);
  at[1] = static_cast<std::byte>(value);
}

/// Ethernet, IPv4 or IPv6 without options, TCP without options, and `payload` bytes. Lengths are
/// right; the TCP checksum is left to whoever gets NEEDS_CSUM. L4 begins at 34 (54 for IPv6).
inline Bytes tcp_frame(size_t payload, bool v6 = false, uint8_t destination = 1,
                       uint8_t source = 2) {
  const size_t l4 = v6 ? 54 : 34;
  Bytes frame(l4 + 20);
  frame[0] = frame[6] = std::byte{2};
  frame[5] = std::byte{destination};
  frame[11] = std::byte{source};
  put_be16(&frame[12], v6 ? 0x86dd : 0x0800);
  if (v6) {
    frame[14] = std::byte{0x60};
    put_be16(&frame[18], 20 + payload);
    frame[20] = std::byte{6};
  } else {
    frame[14] = std::byte{0x45};
    put_be16(&frame[16], 40 + payload);
    frame[22] = std::byte{64};
    frame[23] = std::byte{6};
  }
  put_be16(&frame[l4], 1000);
  put_be16(&frame[l4 + 2], 2000);
  frame[l4 + 12] = std::byte{0x50};
  frame[l4 + 13] = std::byte{0x10};  // ACK
  const Bytes data = pattern(payload);
  frame.insert(frame.end(), data.begin(), data.end());
  return frame;
}

/// A virtio-net header of 12 bytes (5.1.6).
struct NetHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;

  [[nodiscard]] Bytes bytes() const {
    Bytes out(12);
    out[0] = std::byte{flags};
    out[1] = std::byte{gso_type};
    put_le(&out[2], hdr_len);
    put_le(&out[4], gso_size);
    put_le(&out[6], csum_start);
    put_le(&out[8], csum_offset);
    put_le(&out[10], num_buffers);
    return out;
  }
};

/// What a guest asks for with a TCP/IPv4 frame of tcp_frame(): TSO with this segment size.
inline NetHeader tso4(uint16_t gso_size) {
  return {.flags = 1,
          .gso_type = 1,
          .hdr_len = 54,
          .gso_size = gso_size,
          .csum_start = 34,
          .csum_offset = 16};
}

}  // namespace pollux::test
