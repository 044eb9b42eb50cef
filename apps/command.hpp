// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"

/// What the files of the `pollux` command share. A sub-command is one file `<name>.cpp` with one
/// `setup_<name>`, declared here and listed in the table in main.cpp: nothing registers itself.
namespace pollux::apps {

/// Exit status of a command that was used wrongly or could not begin its work.
inline constexpr int kWrongUse = 2;
/// Exit status of a command whose work failed.
inline constexpr int kFailed = 1;

// Each adds its options to `app`, the CLI::App of its own sub-command, and a callback that does the
// work and leaves the exit status in `status` (0 until then). `status` outlives the parse. The
// options' storage is the set-up function's to keep alive: a std::shared_ptr in the callback.
void setup_switch(CLI::App& app, int& status);
void setup_l2fwd(CLI::App& app, int& status);
void setup_gen(CLI::App& app, int& status);
void setup_sink(CLI::App& app, int& status);
void setup_stats(CLI::App& app, int& status);
void setup_ports(CLI::App& app, int& status);
void setup_port(CLI::App& app, int& status);
void setup_fdb(CLI::App& app, int& status);
void setup_doctor(CLI::App& app, int& status);
void setup_version(CLI::App& app, int& status);

/// Writes "pollux COMMAND: SENTENCE" as exactly one line to standard error and returns `status`.
int complain(std::string_view command, std::string_view sentence, int status = kWrongUse);
int complain(std::string_view command, const Error& error, int status = kWrongUse);

/// Messages on standard error, by spdlog, from the level that --log-level names (info) up.
[[nodiscard]] Log stderr_log();

/// Holds messages back while a command sets itself up, so that one that can not begin says only
/// why. What was held is written by release(), or never. Any thread.
class HeldLog {
 public:
  explicit HeldLog(Log below);
  [[nodiscard]] Log log() const;
  /// Writes what was held, and everything from now on at once.
  void release();

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

/// Takes what --log-level was given; false for an unknown word. Only main.cpp calls it.
bool set_log_level(std::string_view word);

/// All port kinds with their options, for the end of help texts.
[[nodiscard]] std::string port_spec_help();

}  // namespace pollux::apps
