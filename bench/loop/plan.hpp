// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/loop/attachment.hpp"
#include "bench/loop/frames.hpp"
#include "pollux/base/result.hpp"

namespace pollux::bench {

/// The command line; main.cpp says what each means.
struct Options {
  std::vector<std::string> sockets;
  std::string sizes = "64";
  bool packed = false;
  bool touch = false;
  bool shared = false;
  bool json = false;
  bool prompted = false;
  uint32_t ring_size = 1024;
  uint32_t in_flight = 256;
  uint32_t first_mac = 0;
  uint32_t macs = 1;
  uint32_t flows = 1;
  double rate = 0;  ///< frames a second, both directions together; 0: round and round
  int watched = 0;  ///< process; 0: none
  double seconds = 3;
  double warm = 1;
  int cpu = -1;
};

/// What follows from it.
struct Plan {
  Traffic traffic;
  AttachOptions attach;
  uint32_t buffer_size = 0;  ///< payload of a buffer
};

/// Errors: kInvalidArgument, naming the option.
[[nodiscard]] Result<Plan> make_plan(const Options& options);

}  // namespace pollux::bench
