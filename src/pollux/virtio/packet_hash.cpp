// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/packet_hash.hpp"

#include <array>
#include <cstring>

#include "pollux/net/ipv4.hpp"
#include "pollux/net/ipv6.hpp"
#include "pollux/net/parse.hpp"

namespace pollux::virtio {
namespace {

using namespace spec;  // NOLINT(google-build-using-namespace): the kinds are names of the text

/// What may be reported for one version of IP, most specific first.
struct Kinds {
  uint8_t tcp;
  uint8_t udp;
  uint8_t ip;
};
constexpr Kinds kIpv4{VIRTIO_NET_HASH_REPORT_TCPv4, VIRTIO_NET_HASH_REPORT_UDPv4,
                      VIRTIO_NET_HASH_REPORT_IPv4};
constexpr Kinds kIpv6{VIRTIO_NET_HASH_REPORT_TCPv6, VIRTIO_NET_HASH_REPORT_UDPv6,
                      VIRTIO_NET_HASH_REPORT_IPv6};

}  // namespace

PacketHash::Value PacketHash::of(const Packet& packet) const noexcept {
  const std::span<const std::byte> head = packet.head_bytes();
  const net::ParsedHeaders headers = net::parse(head);
  if (headers.ip_version == 0) return {};
  const bool v4 = headers.ip_version == 4;
  const Kinds& kinds = v4 ? kIpv4 : kIpv6;
  const bool ports = headers.payload_offset != 0 && !headers.fragment;
  Value value;
  if (ports && headers.is_tcp() && enabled(kinds.tcp)) {
    value.report = kinds.tcp;
  } else if (ports && headers.is_udp() && enabled(kinds.udp)) {
    value.report = kinds.udp;
  } else if (enabled(kinds.ip)) {
    value.report = kinds.ip;
  } else {
    return {};
  }
  // Both addresses lie side by side in either header, source first, and so do the ports.
  std::array<std::byte, net::Toeplitz::kMaxInput> input;
  const size_t addresses = v4 ? 2 * sizeof(net::Ipv4Address) : 2 * sizeof(net::Ipv6Address);
  const size_t from = headers.l3_offset +
                      (v4 ? offsetof(net::Ipv4Header, source) : offsetof(net::Ipv6Header, source));
  std::memcpy(input.data(), head.data() + from, addresses);
  size_t size = addresses;
  if (value.report != kinds.ip) {
    std::memcpy(input.data() + size, head.data() + headers.l4_offset, 4);
    size += 4;
  }
  value.hash = toeplitz_.hash({input.data(), size});
  return value;
}

}  // namespace pollux::virtio
