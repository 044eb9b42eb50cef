// SPDX-License-Identifier: Apache-2.0
// `pollux port add|del`: changes the ports of a running switch.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/ask.hpp"
#include "apps/command.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::apps {
namespace {

struct Options : AskOptions {
  std::string port;
};

void add_control(CLI::App& app, Options& options) {
  add_ask_options(app, options);
  app.remove_option(app.get_option("--json"));  // there is nothing to tell
}

int add(const Options& options) {
  constexpr auto kName = "port add";
  const auto port = NamedPortSpec::parse(options.port);
  if (!port) return complain(kName, port.error());
  if (port->name.empty()) return complain(kName, "the port needs a name: write NAME=SPEC");
  const Status added =
      control::Client(options.control).add_port(port->name, port->spec.to_string());
  return added ? 0 : complain(kName, added.error());
}

int remove(const Options& options) {
  const Status removed = control::Client(options.control).remove_port(options.port);
  return removed ? 0 : complain("port del", removed.error());
}

}  // namespace

void setup_port(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description("Adds a port to a running switch, or takes one away.");
  app.require_subcommand(1);
  CLI::App* adding = app.add_subcommand("add", "add a port; it listens when this command ends");
  adding->add_option("port", o->port, "its name and SPEC")->type_name("NAME=SPEC")->required();
  add_control(*adding, *o);
  adding->footer(port_spec_help());
  adding->callback([o, &status] { status = add(*o); });
  CLI::App* removing = app.add_subcommand(
      "del", "take a port away; its peer is disconnected, its counters are gone");
  removing->add_option("port", o->port, "its name")->type_name("NAME")->required();
  add_control(*removing, *o);
  removing->callback([o, &status] { status = remove(*o); });
}

}  // namespace pollux::apps
