// SPDX-License-Identifier: Apache-2.0
// The one file that sees the rings: compiled again for each mutation of them.
#include "tests/sim/run.hpp"

#include "tests/sim/device_side.hpp"
#include "tests/sim/driver_side.hpp"
#include "tests/sim/packed_format.hpp"
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
  using enum ring::UsedEntries;
  // As the data path does: one entry for many where nothing is written to the chains.
  const bool one_for_many = config.in_order && !config.to_driver;
  if (config.format == Format::kPacked) {
    return one_for_many ? run_format<PackedFormat<kOneForMany>>(config, chooser, trace)
                        : run_format<PackedFormat<kEach>>(config, chooser, trace);
  }
  return one_for_many ? run_format<SplitFormat<kOneForMany>>(config, chooser, trace)
                      : run_format<SplitFormat<kEach>>(config, chooser, trace);
}

}  // namespace pollux::sim
