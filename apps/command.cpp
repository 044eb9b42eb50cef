// SPDX-License-Identifier: Apache-2.0
#include "apps/command.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "pollux/ports/kinds.hpp"

namespace pollux::apps {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

void write(const Log& log, LogLevel level, std::string_view text) {
  switch (level) {
    case LogLevel::kDebug:
      return log.debug(text);
    case LogLevel::kInfo:
      return log.info(text);
    case LogLevel::kWarning:
      return log.warn(text);
    case LogLevel::kError:
      return log.error(text);
  }
}

}  // namespace

struct HeldLog::Shared {
  Log below;
  std::mutex mutex;
  bool holding = true;  // under mutex, as is `held`
  std::vector<std::pair<LogLevel, std::string>> held;
};

HeldLog::HeldLog(Log below) : shared_(std::make_shared<Shared>()) {
  shared_->below = std::move(below);
}

Log HeldLog::log() const {
  return Log([shared = shared_](LogLevel level, std::string_view text) {
    const std::lock_guard lock(shared->mutex);
    if (shared->holding) {
      shared->held.emplace_back(level, text);
    } else {
      write(shared->below, level, text);
    }
  });
}

void HeldLog::release() {
  const std::lock_guard lock(shared_->mutex);
  shared_->holding = false;
  for (const auto& [level, text] : shared_->held) write(shared_->below, level, text);
  shared_->held.clear();
}

int complain(std::string_view command, std::string_view sentence, int status) {
  std::string line(sentence);
  while (!line.empty() && line.back() == '\n') line.pop_back();
  std::ranges::replace(line, '\n', ' ');
  const std::string name = command.empty() ? "pollux" : fmt::format("pollux {}", command);
  fmt::print(stderr, "{}: {}\n", name, line);
  return status;
}

int complain(std::string_view command, const Error& error, int status) {
  return complain(command, error.what, status);
}

bool set_log_level(std::string_view word) {
  if (word == "warning") word = "warn";
  const auto level = spdlog::level::from_str(std::string(word));
  // from_str answers "off" for what it does not know.
  if (level == spdlog::level::off && word != "off") return false;
  spdlog::set_level(level);
  return true;
}

Log stderr_log() {
  auto logger = spdlog::get("pollux");
  if (!logger) {
    logger = spdlog::stderr_color_mt("pollux");
    logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
    logger->set_level(spdlog::get_level());
    logger->flush_on(spdlog::level::debug);
  }
  return Log([logger](LogLevel level, std::string_view text) {
    logger->log(to_spdlog(level), "{}", text);
  });
}

std::string port_spec_help() {
  std::string text =
      "A port SPEC is KIND[:TARGET][,key=value...]; a ',' in a value is written '\\,'. Kinds:\n";
  for (const PortKind& kind : port_kinds()) {
    const std::string spec = kind.target.empty() ? fmt::format("{}:", kind.name)
                                                 : fmt::format("{}:{}", kind.name, kind.target);
    text += fmt::format("  {:<22} {}\n", spec, kind.help);
    for (const PortKey& key : kind.keys) {
      text += fmt::format("    {:<20} {}\n", fmt::format("{}=", key.key), key.help);
    }
  }
  return text;
}

}  // namespace pollux::apps
