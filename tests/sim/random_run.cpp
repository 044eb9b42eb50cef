// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/random.hpp"
#include "tests/sim/run.hpp"

namespace pollux::sim {
namespace {

/// Decides by the seed.
class RandomChooser final : public Chooser {
 public:
  explicit RandomChooser(const Config& config) : config_(config), random_(config.seed ^ 0x5eed) {}

  bool pass_on() override { return happens(config_.switch_rate); }
  size_t pick_value(size_t options) override {
    return happens(config_.stale_rate) ? 1 + random_.below(options - 1) : 0;
  }
  bool dies(Side /*side*/, uint32_t rate) override { return happens(rate); }
  bool happens(uint32_t rate) override { return rate != 0 && (random_.next() & 0xffff) < rate; }
  uint32_t below(uint32_t bound) override { return random_.below(bound); }

 private:
  const Config& config_;
  Random random_;
};

}  // namespace

Outcome run_random(const Config& config, bool trace) {
  RandomChooser chooser(config);
  return run_queue(config, chooser, trace);
}

}  // namespace pollux::sim
