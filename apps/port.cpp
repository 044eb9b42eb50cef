// SPDX-License-Identifier: Apache-2.0
// `pollux port add|del|mode`: changes the ports of a running switch.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "apps/ask.hpp"
#include "apps/command.hpp"
#include "pollux/control/config.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::apps {
namespace {

struct Options : AskOptions {
  std::string port;
  std::string mode;
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

/// NAME or NAME/rxN.
int set_mode(const Options& options) {
  constexpr auto kName = "port mode";
  const auto mode = control::parse_queue_mode(options.mode);
  if (!mode) return complain(kName, mode.error());
  std::string name = options.port;
  std::optional<unsigned> queue;
  if (const size_t slash = name.find('/'); slash != std::string::npos) {
    const std::string_view text = std::string_view(name).substr(slash + 1);
    unsigned number = 0;
    const auto digits = text.substr(std::min<size_t>(2, text.size()));
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (!text.starts_with("rx") || error != std::errc{} || end != digits.data() + digits.size()) {
      return complain(kName, fmt::format("'{}' is no queue: write NAME/rx0", options.port));
    }
    queue = number;
    name.resize(slash);
  }
  const Status done = control::Client(options.control).set_queue_mode(name, queue, *mode);
  return done ? 0 : complain(kName, done.error());
}

}  // namespace

void setup_port(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description("Adds a port to a running switch, takes one away, or says how it is watched.");
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
  CLI::App* watching = app.add_subcommand(
      "mode", "how queues of a port are watched, from now on (pollux ports NAME tells)");
  watching->add_option("port", o->port, "a port, or one of its queues")
      ->type_name("NAME[/rxN]")
      ->required();
  watching
      ->add_option("mode", o->mode,
                   "poll: always, lowest latency, a whole CPU; adaptive: polled while there is "
                   "traffic, then the worker may sleep until the queue is kicked")
      ->type_name("poll|adaptive")
      ->required();
  add_control(*watching, *o);
  watching->callback([o, &status] { status = set_mode(*o); });
}

}  // namespace pollux::apps
