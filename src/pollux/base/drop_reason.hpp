// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace pollux {

/// Why a packet was not carried: the one table. Name (stable: tools parse it) and a sentence for
/// people. Feeds the CLI, JSON and metrics alike; add a row here and it appears in all of them.
#define POLLUX_DROP_REASONS(X)                                                                    \
  X(receiver_ring_full,                                                                           \
    "the receiving port had no free buffers: the guest posts them more slowly than packets come") \
  X(receiver_down, "the receiving port has no peer, or its queue is not started and enabled")     \
  X(receiver_too_small, "the packet is larger than the buffers that the receiver posted")         \
  X(receiver_bad_buffer, "a buffer posted by the receiver lies outside its memory")               \
  X(receiver_unmapped,                                                                            \
    "the receiver's IOMMU has not said yet where its buffer lies: frequent remapping in the "     \
    "guest")                                                                                      \
  X(receiver_no_offload, "the packet needs an offload that can not be done for this receiver")    \
  X(receiver_filter, "the receiver asked not to get it: by its address, VLAN or mode filters")    \
  X(receiver_error, "the receiving device or file refused the write")                             \
  X(queue_disabled, "sent on a queue that the peer started but did not enable")                   \
  X(bad_descriptor, "the sender's descriptor chain breaks VIRTIO's rules")                        \
  X(bad_address, "the sender's descriptor points outside the memory that it shared")              \
  X(bad_net_header, "the virtio-net header is short or asks for an impossible offload")           \
  X(runt, "shorter than an Ethernet header")                                                      \
  X(too_long, "longer than any packet that this port may carry")                                  \
  X(no_packets, "the packet pool is empty: start with a larger one")                              \
  X(no_buffers, "the buffer pool is empty: start with a larger one")                              \
  X(source_multicast, "the source address is a multicast address, which no sender may use")       \
  X(same_port, "the destination was learned on the port that the packet came from")               \
  X(no_destination, "there is no other port to flood to")                                         \
  X(receive_truncated, "the host cut the packet short when it was received")

enum class DropReason : uint8_t {
#define POLLUX_X(name, help) name,
  POLLUX_DROP_REASONS(POLLUX_X)
#undef POLLUX_X
};

#define POLLUX_X(name, help) +1
inline constexpr size_t kDropReasonCount = 0 POLLUX_DROP_REASONS(POLLUX_X);
#undef POLLUX_X

struct DropReasonInfo {
  std::string_view name;
  std::string_view help;
};

inline constexpr std::array<DropReasonInfo, kDropReasonCount> kDropReasons{{
#define POLLUX_X(name, help) {#name, help},
    POLLUX_DROP_REASONS(POLLUX_X)
#undef POLLUX_X
}};

[[nodiscard]] constexpr const DropReasonInfo& info(DropReason reason) {
  return kDropReasons[static_cast<size_t>(reason)];
}

}  // namespace pollux
