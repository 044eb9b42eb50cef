// SPDX-License-Identifier: Apache-2.0
// `pollux ports`: the ports of a running switch and what they have agreed on with their peers.
#include <fmt/format.h>

#include <memory>

#include "apps/ask.hpp"
#include "apps/command.hpp"
#include "pollux/control/report.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "ports";

int run_ports(const AskOptions& options) {
  if (options.json) return print_json(kName, options, "/v1/ports");
  const auto now = control::Client(options.control).stats();
  if (!now) return complain(kName, now.error());
  fmt::print("{}", control::port_details(now->ports));
  return 0;
}

}  // namespace

void setup_ports(CLI::App& app, int& status) {
  const auto o = std::make_shared<AskOptions>();
  app.description(
      "The ports of a running switch: state, peer, negotiated features, ring sizes and the memory\n"
      "that the peer shares. `pollux stats` has their counters.");
  add_ask_options(app, *o);
  app.callback([o, &status] { status = run_ports(*o); });
}

}  // namespace pollux::apps
