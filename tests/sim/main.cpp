// SPDX-License-Identifier: Apache-2.0
// pollux_sim: runs the simulation by seeds, or exhaustively; replays what failed.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/explore.hpp"
#include "tests/sim/mutated.hpp"
#include "tests/sim/run.hpp"

namespace pollux::sim {
namespace {

constexpr const char* kHelp =
    R"(usage: pollux_sim [--steps N] [--seed N]        runs seed after seed, N accesses in all
       pollux_sim --one SEED [OPTION..] [--trace]    one seed; options change what it chose
       pollux_sim --exhaustive [--steps N]           all interleavings of small rings
       pollux_sim --exhaustive [OPTION..]            ... of this one
       pollux_sim --replay CHOICES OPTION.. [--trace]  one of those
with --expect-failure: status 0 only if something is found; --mutation N: makes that mistake (only
pollux_sim_mutants can; mutations.json counts from 1)
options: the fields of tests/sim/config.hpp, as numbers: --size 4 --event-idx 1 ...
)";

struct Arguments {
  uint64_t steps = 0;  // 0: as many as usual
  uint64_t seed = 1;
  bool one = false;
  bool exhaustive = false;
  bool expect_failure = false;
  bool trace = false;
  std::string replay;
  std::vector<std::pair<std::string, std::string>> options;
};

[[noreturn]] void usage(const std::string& why) {
  (void)std::fprintf(stderr, "pollux_sim: %s\n%s", why.c_str(), kHelp);
  std::exit(2);
}

Arguments parse(int argc, char** argv) {
  Arguments args;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) usage(name + " needs a value");
      return argv[++i];
    };
    if (name == "--steps") {
      args.steps = std::stoull(value());
    } else if (name == "--seed") {
      args.seed = std::stoull(value());
    } else if (name == "--one") {
      args.one = true;
      args.seed = std::stoull(value());
    } else if (name == "--exhaustive") {
      args.exhaustive = true;
    } else if (name == "--expect-failure") {
      args.expect_failure = true;
    } else if (name == "--mutation") {
      g_mutation = std::stoi(value());
    } else if (name == "--trace") {
      args.trace = true;
    } else if (name == "--replay") {
      args.replay = value();
    } else if (name == "--help") {
      std::printf("%s", kHelp);
      std::exit(0);
    } else if (name.starts_with("--")) {
      args.options.emplace_back(name.substr(2), value());
    } else {
      usage("no option " + name);
    }
  }
  return args;
}

void apply(const Arguments& args, Config& config) {
  for (const auto& [name, value] : args.options) {
    if (!set_option(config, name, value)) usage("no option --" + name + " " + value);
  }
}

void report(const std::string& failure, const std::string& replay) {
  std::printf("FAILED: %s\nreplay: pollux_sim %s --trace\n", failure.c_str(), replay.c_str());
}

/// Seed after seed; true when nothing was found.
bool run_seeds(const Arguments& args) {
  const uint64_t wanted = args.steps != 0 ? args.steps : 15'000'000;
  uint64_t steps = 0;
  uint64_t runs = 0;
  for (uint64_t seed = args.seed; steps < wanted; ++seed) {
    Config config = random_config(seed);
    apply(args, config);
    const Outcome outcome = run_random(config, false);
    steps += outcome.steps;
    ++runs;
    if (outcome.failure.empty()) continue;
    std::string options;
    for (const auto& [name, value] : args.options) options += " --" + name + " " + value;
    report(outcome.failure, "--one " + std::to_string(seed) + options);
    return false;
  }
  std::printf("%llu runs, %llu accesses, seeds from %llu on: nothing found\n",
              static_cast<unsigned long long>(runs), static_cast<unsigned long long>(steps),
              static_cast<unsigned long long>(args.seed));
  return true;
}

bool run_one(const Arguments& args) {
  Config config = random_config(args.seed);
  apply(args, config);
  std::printf("run:%s\n", to_options(config).c_str());
  const Outcome outcome = run_random(config, args.trace);
  std::printf("%s\n", outcome.failure.empty() ? "nothing found" : outcome.failure.c_str());
  return outcome.failure.empty();
}

bool explore_one(const Config& config, uint64_t max_steps) {
  const Exploration result = explore(config, max_steps);
  std::printf("%s: %llu states, %llu runs, %llu accesses%s\n", to_options(config).c_str(),
              static_cast<unsigned long long>(result.states),
              static_cast<unsigned long long>(result.runs),
              static_cast<unsigned long long>(result.steps),
              result.complete          ? ", all"
              : result.failure.empty() ? ", not all"
                                       : "");
  if (result.failure.empty()) return true;
  report(result.failure, "--replay " + result.choices + to_options(config));
  return false;
}

/// The small rings that are run through.
std::vector<Config> small_rings() {
  std::vector<Config> all;
  for (const int which : {0, 1, 2, 3, 4, 5, 6, 7}) {
    Config c;
    c.format = (which & 4) != 0 ? Format::kPacked : Format::kSplit;
    c.to_driver = (which & 2) != 0;
    c.event_idx = (which & 1) != 0;
    c.size = 1;
    c.messages = 2;
    all.push_back(c);
    c.messages = 1;
    c.kills = 1;
    all.push_back(c);
    c.kills = 0;
    c.messages = 2;
    c.size = c.driver_batch = c.device_batch = 2;
    all.push_back(c);
    c.in_order = true;
    all.push_back(c);
    c.max_chain = 2;
    c.tables = 1;
    all.push_back(c);
    c.in_order = false;
    all.push_back(c);
  }
  return all;
}

bool run_exhaustive(const Arguments& args) {
  const uint64_t steps =
      args.steps != 0 ? args.steps : 40'000'000;  // of each, which is enough for all of them
  if (!args.options.empty()) {
    Config config;
    apply(args, config);
    return explore_one(config, steps);
  }
  bool good = true;
  for (const Config& config : small_rings()) good = explore_one(config, steps) && good;
  return good;
}

int run(const Arguments& args) {
  bool good = true;
  if (!args.replay.empty()) {
    Config config;
    apply(args, config);
    const Outcome outcome = replay(config, args.replay, args.trace);
    std::printf("%s\n", outcome.failure.empty() ? "nothing found" : outcome.failure.c_str());
    good = outcome.failure.empty();
  } else if (args.one) {
    good = run_one(args);
  } else if (args.exhaustive) {
    good = run_exhaustive(args);
  } else {
    good = run_seeds(args);
  }
  if (args.expect_failure) {
    std::printf("%s\n", good ? "NOT FOUND" : "found, as it should be");
    return good ? 1 : 0;
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace pollux::sim

int main(int argc, char** argv) { return pollux::sim::run(pollux::sim::parse(argc, argv)); }
