// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace pollux::ring {

/// How a peer can break a ring so that nothing after it can be trusted: the queue stops until the
/// peer sets it up anew. One table: name and a sentence for people.
#define POLLUX_RING_ERRORS(X)                                                                   \
  X(none, "not broken")                                                                         \
  X(avail_jump, "the driver made more chains available at once than the queue has entries")     \
  X(head_range, "the driver made a chain available whose head is not an entry of the queue")    \
  X(id_range, "the driver gave a buffer an id that is not below the queue's size")              \
  X(chain_torn, "the driver made the start of a chain available before the rest of it")         \
  X(chain_length, "the driver chained more descriptors than a chain may have")                  \
  X(chain_rules, "the driver offered a chain that breaks the rules or lies outside its memory") \
  X(used_jump, "the device returned more chains at once than are outstanding")                  \
  X(used_range, "the device returned an id that is not an entry of the queue")                  \
  X(used_not_outstanding, "the device returned a chain that is not outstanding")                \
  X(used_length, "the device claims to have written more than the chain holds")                 \
  X(num_buffers, "the device forged num_buffers: zero, or more than it returned")

enum class RingError : uint8_t {
#define POLLUX_X(name, help) name,
  POLLUX_RING_ERRORS(POLLUX_X)
#undef POLLUX_X
};

/// One sentence for people.
[[nodiscard]] constexpr std::string_view describe(RingError error) {
  constexpr std::array kText{
#define POLLUX_X(name, help) std::string_view{help},
      POLLUX_RING_ERRORS(POLLUX_X)
#undef POLLUX_X
  };
  return kText[static_cast<size_t>(error)];
}

}  // namespace pollux::ring
