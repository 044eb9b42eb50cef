// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "pollux/base/drop_reason.hpp"
#include "pollux/packet/burst.hpp"

namespace pollux::stage {

/// Where a packet goes: a port's index, or one of the values above kMaxPort.
using Output = uint16_t;
inline constexpr Output kMaxPort = 0xfeff;    ///< largest index that a port may have
inline constexpr Output kUndecided = 0xfffe;  ///< no stage has decided yet
inline constexpr Output kFlood = 0xffff;      ///< every port but the one that it came from

/// Not carried, for a reason.
constexpr Output drop_output(DropReason reason) {
  return static_cast<Output>(0xff00 + static_cast<uint16_t>(reason));
}
constexpr bool is_drop(Output output) { return output > kMaxPort && output < kUndecided; }
/// The reason in a drop_output().
constexpr DropReason drop_reason(Output output) { return static_cast<DropReason>(output - 0xff00); }
static_assert(kDropReasonCount < kUndecided - 0xff00);

/// What the stages decided for the packets of a burst: `of[i]` belongs to burst[i].
struct Outputs {
  std::array<Output, Burst::kCapacity> of;
  bool uniform = false;  ///< all packets of the burst have the output of[0]

  void reset() noexcept { of.fill(kUndecided); }
};

/// Hands the packets of a burst over, one call `sink(Output, Burst&)` for each output that occurs,
/// packets in their order. When all have one output the burst itself is handed over: no copy.
/// Otherwise they pass through `scratch`, which must be empty. What the sink leaves is released;
/// afterwards both bursts are empty.
template <typename Sink>
void dispatch(Burst& burst, const Outputs& outputs, Burst& scratch, Sink&& sink) noexcept {
  const size_t count = burst.size();
  if (count == 0) return;
  if (outputs.uniform) {
    sink(outputs.of[0], burst);
    burst.clear();
    return;
  }
  std::array<Packet*, Burst::kCapacity> packets;
  for (size_t i = 0; i < count; ++i) packets[i] = &burst[i];
  burst.take_front(count);
  std::array<bool, Burst::kCapacity> done{};
  for (size_t first = 0; first < count; ++first) {
    if (done[first]) continue;
    const Output output = outputs.of[first];
    for (size_t i = first; i < count; ++i) {
      if (outputs.of[i] != output) continue;
      scratch.push(packets[i]);
      done[i] = true;
    }
    sink(output, scratch);
    scratch.clear();
  }
}

}  // namespace pollux::stage
