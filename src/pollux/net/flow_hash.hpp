// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pollux/net/parse.hpp"

namespace pollux::net {

/// Which direction of a conversation is meant.
enum class FlowDirection : uint8_t {
  kOwn,      ///< the frame's
  kReverse,  ///< that of the answers to it: their hash in their own direction is the same
};

/// A hash of the flow that a frame belongs to: of addresses, protocol and ports when they are
/// there (fragments have no ports, so that all of one packet hash alike), else of the Ethernet
/// addresses. Never 0. `head` is what `headers` was parsed from. `seed` keeps senders from
/// choosing where their flows go.
[[nodiscard]] uint32_t flow_hash(std::span<const std::byte> head, const ParsedHeaders& headers,
                                 uint64_t seed,
                                 FlowDirection direction = FlowDirection::kOwn) noexcept;

}  // namespace pollux::net
