// SPDX-License-Identifier: Apache-2.0
// The one file that sees the rings: compiled again for each mutation of them.
#include "tests/sim/run.hpp"

#include "tests/sim/device_side.hpp"
#include "tests/sim/driver_side.hpp"
#include "tests/sim/split_format.hpp"

namespace pollux::sim {
namespace {

template <typename Format>
Outcome run_format(const Config& config, Chooser& chooser, bool trace) {
  World world(config, chooser);
  world.trace(trace);
  Queue<Format> queue(world);
  DriverSide<Format> driver(queue);
  DeviceSide<Format> device(queue);
  world.run([&] { driver.run(); }, [&] { device.run(); });
  return {world.failure(), world.steps()};
}

}  // namespace

Outcome run_queue(const Config& config, Chooser& chooser, bool trace) {
  return run_format<SplitFormat>(config, chooser, trace);
}

}  // namespace pollux::sim
