// SPDX-License-Identifier: Apache-2.0
// `pollux stats`: what a running switch has carried and dropped.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "apps/ask.hpp"
#include "apps/command.hpp"
#include "pollux/control/report.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "stats";
constexpr auto kClearScreen = "\x1b[H\x1b[2J";

struct Options : AskOptions {
  bool watch = false;
  double interval = 1;  ///< seconds
  unsigned count = 0;   ///< how many times; 0: until interrupted
  bool drops = false;
  bool queues = false;
};

/// Waits for `seconds`; false when SIGINT or SIGTERM came, which must be blocked.
bool sleep_unless_interrupted(double seconds) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  const auto whole = static_cast<time_t>(seconds);
  const timespec wait{whole, static_cast<long>((seconds - static_cast<double>(whole)) * 1e9)};
  return sigtimedwait(&signals, nullptr, &wait) < 0;
}

std::string tables(const Options& options, const SwitchSnapshot& now) {
  if (options.drops) return control::drops_table(now.ports);
  if (options.queues) {
    return control::queues_table(now.ports) + "\n" + control::workers_table(now.workers);
  }
  return control::full_report(now);
}

int watch(const Options& options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const control::Client client(options.control);
  auto before = client.stats();
  if (!before) return complain(kName, before.error());
  for (unsigned i = 0; options.count == 0 || i < options.count; ++i) {
    if (!sleep_unless_interrupted(options.interval)) return 0;
    auto now = client.stats();
    if (!now) return complain(kName, now.error(), kFailed);
    if (options.json) {
      fmt::print("{}\n", control::to_json(*now));
    } else {
      fmt::print("{}{}", isatty(STDOUT_FILENO) != 0 ? kClearScreen : "",
                 control::rates_table(*before, *now));
      if (options.drops) fmt::print("\n{}", control::drops_table(now->ports));
      fmt::print("\n");
    }
    std::fflush(stdout);
    before = std::move(now);
  }
  return 0;
}

int run_stats(const Options& options) {
  if (options.watch) return watch(options);
  if (options.json) return print_json(kName, options, "/v1/stats");
  const auto now = control::Client(options.control).stats();
  if (!now) return complain(kName, now.error());
  fmt::print("{}", tables(options, *now));
  return 0;
}

}  // namespace

void setup_stats(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description(
      "What a running switch has carried and dropped: packets, bytes and drops by port, what its\n"
      "workers do, and why packets were dropped. Bytes are Ethernet frames without FCS; rates on\n"
      "the wire count FCS, preamble and gap too. rx is into the switch, tx out of it.");
  add_ask_options(app, *o);
  app.add_flag("--drops", o->drops, "only what was dropped, by reason");
  app.add_flag("--queues", o->queues, "by queue, and by worker");
  app.add_flag("--watch", o->watch, "rates, again and again until interrupted");
  app.add_option("--interval", o->interval, "with --watch: time between two looks (1)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.05, 86400.0, "range"));
  app.add_option("--count", o->count, "with --watch: end after so many times")->type_name("N");
  app.callback([o, &status] { status = run_stats(*o); });
}

}  // namespace pollux::apps
