// SPDX-License-Identifier: Apache-2.0
#include "apps/ask.hpp"

#include <fmt/format.h>

#include "apps/command.hpp"
#include "pollux/control/default_socket.hpp"

namespace pollux::apps {

void add_ask_options(CLI::App& app, AskOptions& options) {
  options.control = control::default_control_socket();
  app.add_option("--control", options.control,
                 "the switch's control socket (" + options.control + ")")
      ->type_name("SOCKET");
  app.add_flag("--json", options.json, "the switch's answer, as JSON");
}

int print_json(const std::string& command, const AskOptions& options, const std::string& endpoint) {
  const auto answer = control::Client(options.control).get(endpoint);
  if (!answer) return complain(command, answer.error());
  fmt::print("{}", *answer);
  return 0;
}

}  // namespace pollux::apps
