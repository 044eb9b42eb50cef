// SPDX-License-Identifier: Apache-2.0
// The `pollux` command: reads the command line and hands over to a sub-command.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <exception>
#include <string>

#include "apps/command.hpp"
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
    SubCommand{"switch", "carry packets between ports, learning where addresses are",
               setup_switch},
    SubCommand{"stats", "what a running switch has carried and dropped, and why", setup_stats},
    SubCommand{"ports", "the ports of a running switch, their peers and what was negotiated",
               setup_ports},
    SubCommand{"port", "add a port to a running switch, or take one away", setup_port},
    SubCommand{"fdb", "the addresses that a running switch has learned", setup_fdb},
    SubCommand{"doctor", "check whether this machine has what Pollux needs", setup_doctor},
    SubCommand{"version", "the version of this command", setup_version},
};

/// CLI11's complaint as one line that names the command and where to look further.
int complain_about_use(const CLI::App& app, const CLI::ParseError& error) {
  std::string command;
  for (const CLI::App* sub : app.get_subcommands()) {
    command = sub->get_name();
    for (const CLI::App* inner : sub->get_subcommands()) command += " " + inner->get_name();
  }
  const std::string help = command.empty() ? "pollux --help" : "pollux " + command + " --help";
  return complain(command, std::string(error.what()) + " (see " + help + ")");
}

int run(int argc, char** argv) {
  CLI::App app{
      "Pollux: a user-space virtio switch. VMs, containers and programs attach to it over\n"
      "vhost-user sockets, and it carries their packets from memory to memory.",
      "pollux"};
  app.set_version_flag("--version", "pollux " + std::string(version()));
  app.require_subcommand(1);
  app.fallthrough();
  app.get_formatter()->column_width(36);
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
  for (const SubCommand& row : kSubCommands) row.setup(*app.add_subcommand(row.name, row.help), status);
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
