// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/config.hpp"

#include <array>
#include <charconv>
#include <functional>

#include "tests/sim/random.hpp"

namespace pollux::sim {
namespace {

/// One table: an option's name, how it is read and how it is shown.
struct Option {
  const char* name;
  std::function<void(Config&, uint64_t)> set;
  std::function<uint64_t(const Config&)> get;
};

#define POLLUX_OPTION(name, field)                                                    \
  Option {                                                                            \
    name, [](Config& c, uint64_t v) { c.field = static_cast<decltype(c.field)>(v); }, \
        [](const Config& c) { return static_cast<uint64_t>(c.field); }                \
  }

const std::array kOptions{
    POLLUX_OPTION("format", format),
    POLLUX_OPTION("seed", seed),
    POLLUX_OPTION("size", size),
    POLLUX_OPTION("event-idx", event_idx),
    POLLUX_OPTION("tables", tables),
    POLLUX_OPTION("to-driver", to_driver),
    POLLUX_OPTION("in-order", in_order),
    POLLUX_OPTION("max-chain", max_chain),
    POLLUX_OPTION("messages", messages),
    POLLUX_OPTION("driver-batch", driver_batch),
    POLLUX_OPTION("device-batch", device_batch),
    POLLUX_OPTION("driver-sleeps", driver_sleeps),
    POLLUX_OPTION("device-sleeps", device_sleeps),
    POLLUX_OPTION("switch-rate", switch_rate),
    POLLUX_OPTION("stale-rate", stale_rate),
    POLLUX_OPTION("bell-rate", bell_rate),
    POLLUX_OPTION("kill-rate", kill_rate),
    POLLUX_OPTION("pause-rate", pause_rate),
    POLLUX_OPTION("reset-rate", reset_rate),
    POLLUX_OPTION("liar", liar),
    POLLUX_OPTION("lie-rate", lie_rate),
    POLLUX_OPTION("kills", kills),
    POLLUX_OPTION("max-steps", max_steps),
};
#undef POLLUX_OPTION

uint32_t rate(Random& random) {
  constexpr std::array<uint32_t, 5> kRates{0x8000, 0x4000, 0x1800, 0x800, 0x200};
  return kRates[random.below(kRates.size())];
}

// Every so many seeds: such a run has a million accesses and more.
constexpr uint64_t kLongRun = 2500;

/// A split ring whose indices wrap around (2.7.6, 2.7.8): more chains than 16 bits count.
Config long_run(Config c, Random& random) {
  c.size = 1U << random.below(4);
  c.event_idx = random.below(2) != 0;
  c.in_order = random.below(2) != 0;
  c.to_driver = random.below(2) != 0;
  c.driver_batch = c.device_batch = c.size;
  c.switch_rate = 0x1800;
  c.messages = 0x10000 + 100;
  c.max_steps = 5'000'000;
  return c;
}

}  // namespace

Config random_config(uint64_t seed) {
  Random random(seed);
  Config c;
  c.seed = seed;
  if (seed % kLongRun == 0) return long_run(c, random);
  const bool small = random.below(4) != 0;
  c.size = 1U << random.below(small ? 4 : 8);
  if (random.below(2) == 0) {
    c.format = Format::kPacked;  // of any size
    c.size = 1 + random.below(small ? 9 : 100);
  }
  c.event_idx = random.below(2) != 0;
  c.to_driver = random.below(2) != 0;
  c.in_order = random.below(3) == 0;
  c.max_chain = 1 + random.below(c.size < 4 ? c.size : 4);
  if (random.below(3) == 0) {
    c.tables = 1 + random.below(c.size);
    c.max_chain = 1 + random.below(c.size < 8 ? c.size : 8);
  }
  c.driver_batch = 1 + random.below(c.size);
  c.device_batch = 1 + random.below(c.size < 32 ? c.size : 32);
  c.messages = 1 + random.below(20) + 4 * c.size;
  c.driver_sleeps = random.below(4) != 0;
  c.device_sleeps = random.below(4) != 0;
  c.switch_rate = rate(random);
  c.stale_rate = random.below(4) == 0 ? 0 : rate(random);
  c.bell_rate = random.below(2) == 0 ? 0 : 0x4000;
  switch (random.below(6)) {
    case 0:
      c.kill_rate = 0x400;
      break;
    case 1:
      c.pause_rate = 0x2000;
      break;
    case 2:
      c.reset_rate = 0x100;
      break;
    case 3:
      c.liar = random.below(2) == 0 ? Liar::kDriver : Liar::kDevice;
      c.lie_rate = random.below(2) == 0 ? 0x1000 : 0x100;
      c.max_steps = 5000;
      break;
    default:
      break;
  }
  return c;
}

std::string to_options(const Config& config) {
  const Config plain;
  std::string text;
  for (const Option& option : kOptions) {
    if (option.get(config) == option.get(plain)) continue;
    text += std::string(" --") + option.name + " " + std::to_string(option.get(config));
  }
  return text;
}

bool set_option(Config& config, const std::string& name, const std::string& value) {
  for (const Option& option : kOptions) {
    if (name != option.name) continue;
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size()) return false;
    option.set(config, number);
    return true;
  }
  return false;
}

}  // namespace pollux::sim
