// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/packet/packet.hpp"
#include "pollux/spec/virtio_net.hpp"

namespace pollux::virtio {

/// Turns what a virtio-net header asks for (VIRTIO 1.3, 5.1.6.2 and 5.1.6.4) into the packet's
/// metadata, after the headers in the packet's private head: `hdr` is a private copy in host byte
/// order, and nothing of it is believed that the headers can tell. False, with the offload fields
/// clear, when it asks for the impossible: drop the packet as bad_net_header.
///
///   NEEDS_CSUM  csum_start and csum_offset are kept, for any protocol, if the field lies behind
///               the Ethernet header and inside the packet
///   GSO         the packet must be what gso_type says, whole, with its headers inside the head
///               and lengths that agree with the packet's; NEEDS_CSUM must be set (5.1.6.2.1) and
///               point at the transport header. gso_size below 8, less than any Linux uses, or
///               more than 1024 segments are refused: too much work for one descriptor. A packet
///               that one segment holds is no GSO packet.
///   UFO         gso_size counts all that follows the IP header, as Linux has it, and is rounded
///               down to a multiple of 8
///   ECN         follows from the TCP header's CWR flag
///   hdr_len     is only a hint and not looked at; DATA_VALID is the caller's to judge.
///
/// That the driver negotiated what it asks for is not checked here.
[[nodiscard]] bool apply_offload(Packet& packet, const spec::virtio_net_hdr& hdr) noexcept;

}  // namespace pollux::virtio
