// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "pollux/control/client.hpp"

namespace pollux::apps {

/// The options of every command that asks a running switch.
struct AskOptions {
  std::string control;  ///< path of the control socket
  bool json = false;
};

/// Adds --control and --json.
void add_ask_options(CLI::App& app, AskOptions& options);

/// Prints what the switch answers to GET `endpoint`, as it is. The exit status.
int print_json(const std::string& command, const AskOptions& options, const std::string& endpoint);

}  // namespace pollux::apps
