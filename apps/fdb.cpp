// SPDX-License-Identifier: Apache-2.0
// `pollux fdb show`: the addresses that a running switch has learned.
#include <fmt/format.h>

#include <memory>

#include "apps/ask.hpp"
#include "apps/command.hpp"
#include "pollux/control/report.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "fdb show";

int show(const AskOptions& options) {
  if (options.json) return print_json(kName, options, "/v1/fdb");
  const auto rows = control::Client(options.control).fdb();
  if (!rows) return complain(kName, rows.error());
  fmt::print("{}", control::fdb_table(*rows));
  return 0;
}

}  // namespace

void setup_fdb(CLI::App& app, int& status) {
  const auto o = std::make_shared<AskOptions>();
  app.description("The forwarding data base: which address was last heard on which port.");
  app.require_subcommand(1);
  CLI::App* showing = app.add_subcommand("show", "list the addresses, ordered by address");
  add_ask_options(*showing, *o);
  showing->callback([o, &status] { status = show(*o); });
}

}  // namespace pollux::apps
