// SPDX-License-Identifier: Apache-2.0
// The `pollux` command: reads the command line and hands over to a sub-command.
#include <array>
#include <cstdio>
#include <exception>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/command.hpp"
#include "pollux/port/spec.hpp"
#include "pollux/version.hpp"

namespace pollux::apps {
namespace {

struct SubCommand {
  const char* name;
  const char* help;
  void (*setup)(CLI::App& app, int& status);
};

// All sub-commands, in the order in which help lists them.
constexpr std::array kSubCommands{
    SubCommand{"switch", "carry packets between ports, learning where addresses are", setup_switch},
    SubCommand{"stats", "what a running switch has carried and dropped, and why", setup_stats},
    SubCommand{"ports", "the ports of a running switch, their peers and what was negotiated",
               setup_ports},
    SubCommand{"port", "add a port to a running switch, or take one away", setup_port},
    SubCommand{"fdb", "the addresses that a running switch has learned", setup_fdb},
    SubCommand{"l2fwd", "forward between pairs of ports, as DPDK's l2fwd does", setup_l2fwd},
    SubCommand{"gen", "send made-up frames or a capture file to a port, and check them", setup_gen},
    SubCommand{"sink", "receive what gen sends, and check every byte", setup_sink},
    SubCommand{"doctor", "check whether this machine has what Pollux needs", setup_doctor},
    SubCommand{"version", "the version of this command", setup_version},
};

/// Lists sub-commands by one line each; their own help says more.
class OneLineFormatter final : public CLI::Formatter {
 public:
  std::string make_subcommand(const CLI::App* sub) const override {
    std::string text = sub->get_description();
    for (const SubCommand& row : kSubCommands) {
      if (sub->get_name() == row.name) text = row.help;
    }
    std::stringstream out;
    CLI::detail::format_help(out, sub->get_name(), text, get_column_width());
    return out.str();
  }
};

/// What CLI11 found wrong with the use of `command`.
std::string sentence_of(const CLI::App& command, const CLI::ParseError& error) {
  // CLI11 says that a command is missing when one is misspelt.
  const auto unknown = command.remaining();
  const auto known = command.get_subcommands([](const CLI::App*) { return true; });
  if (known.empty() || unknown.empty() || unknown.front().starts_with('-')) return error.what();
  std::vector<std::string_view> names;
  for (const CLI::App* sub : known) names.push_back(sub->get_name());
  const std::string_view nearest = nearest_word(unknown.front(), names);
  return "there is no command '" + unknown.front() + "'" +
         (nearest.empty() ? "" : ", did you mean '" + std::string(nearest) + "'?");
}

/// CLI11's complaint as one line that names the command and where to look further.
int complain_about_use(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string name;
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    name += (name.empty() ? "" : " ") + command->get_name();
  }
  const std::string help = name.empty() ? "pollux --help" : "pollux " + name + " --help";
  return complain(name, sentence_of(*command, error) + " (see " + help + ")");
}

int run(int argc, char** argv) {
  CLI::App app{
      "Pollux: a user-space virtio switch. VMs, containers and programs attach to it over\n"
      "vhost-user sockets, and it carries their packets from memory to memory.",
      "pollux"};
  app.set_version_flag("--version", "pollux " + std::string(version()));
  app.require_subcommand(1);
  app.fallthrough();
  const auto formatter = std::make_shared<OneLineFormatter>();
  formatter->column_width(32);
  app.formatter(formatter);
  app.footer(
      "`pollux COMMAND --help` says more about each.\n"
      "Exit status: 0 when all went well, 1 when the work failed, 2 after wrong use.");
  app.add_option_function<std::string>(
         "--log-level",
         [](const std::string& word) {
           if (!set_log_level(word))
             throw CLI::ValidationError("--log-level", "one of debug, info, warning, error, off");
         },
         "least weight of messages on standard error: debug, info, warning, error, off (info)")
      ->type_name("LEVEL");
  int status = 0;
  for (const SubCommand& row : kSubCommands)
    row.setup(*app.add_subcommand(row.name, row.help), status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // help, version
    return app.exit(wish);
  } catch (const CLI::ParseError& error) {
    return complain_about_use(app, error);
  }
  return status;
}

}  // namespace
}  // namespace pollux::apps

int main(int argc, char** argv) {
  try {
    return pollux::apps::run(argc, argv);
  } catch (const std::exception& error) {  // a library that we use: out of memory, most likely
    return pollux::apps::complain("", error.what(), pollux::apps::kFailed);
  }
}
