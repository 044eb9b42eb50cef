// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "apps/traffic/pattern.hpp"
#include "pollux/spec/virtio_net.hpp"

namespace pollux::bench {
namespace {

/// A common frame fits into one, as guests have it; a large segment takes pages, as Linux posts
/// them.
uint32_t buffer_for(uint32_t largest) {
  if (largest <= 2048) return 2048;
  return largest <= kMaxPlainFrame ? kMaxPlainFrame : 4096 - spec::kNetHdrSize;
}

Status check_sizes(const Options& options, uint32_t smallest, uint32_t largest) {
  if (smallest < kMinFrame || largest > kMaxFrame) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("--sizes: from {} to {} bytes", kMinFrame, kMaxFrame));
  }
  if (options.rate > 0 && largest > kMaxPlainFrame) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("--sizes: at most {} bytes with --rate", kMaxPlainFrame));
  }
  return {};
}

}  // namespace

Result<Plan> make_plan(const Options& options) {
  auto mix = apps::SizeMix::parse(options.sizes);
  if (!mix) return forward(mix);
  const auto [smallest, largest] = std::ranges::minmax(mix->sizes);
  if (auto ok = check_sizes(options, smallest, largest); !ok) return forward(ok);
  Plan plan;
  plan.buffer_size = buffer_for(largest);
  const uint32_t pieces = largest / plan.buffer_size + 1;
  plan.attach = {.packed = options.packed,
                 .large = largest > kMaxPlainFrame,
                 .ring_size = options.ring_size,
                 .chain = pieces};
  plan.traffic = {.sizes = mix->sizes,
                  .in_flight = options.in_flight,
                  .first_mac = options.first_mac,
                  .macs = options.macs,
                  .flows = options.flows,
                  .touch = options.touch,
                  .shared = options.shared};
  // All frames of one direction fit into the other side's receiveq, with some room.
  const uint32_t most = options.ring_size * 3 / 4 / pieces;
  plan.traffic.in_flight = std::clamp(plan.traffic.in_flight, 1U, std::max(most, 1U));
  return plan;
}

}  // namespace pollux::bench
