// SPDX-License-Identifier: Apache-2.0
#include "pollux/version.hpp"

#include <fmt/format.h>

#include "apps/command.hpp"

namespace pollux::apps {

void setup_version(CLI::App& app, int& /*status*/) {
  app.callback([] { fmt::print("pollux {}\n", version()); });
}

}  // namespace pollux::apps
