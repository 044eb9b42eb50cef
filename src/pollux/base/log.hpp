// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace pollux {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Where control-path messages go; never used per packet. A copyable handle around a sink that
/// the application supplies (the `pollux` command plugs spdlog in). A default-constructed Log
/// discards everything. The sink must be callable from any thread.
class Log {
 public:
  using Sink = std::function<void(LogLevel, std::string_view)>;

  Log() = default;
  explicit Log(Sink sink, std::string prefix = {})
      : sink_(std::move(sink)), prefix_(std::move(prefix)) {}

  /// A handle that puts `name` before each message, e.g. a port's name.
  [[nodiscard]] Log named(std::string_view name) const {
    return Log(sink_, prefix_ + std::string(name) + ": ");
  }

  void debug(std::string_view text) const { write(LogLevel::kDebug, text); }
  void info(std::string_view text) const { write(LogLevel::kInfo, text); }
  void warn(std::string_view text) const { write(LogLevel::kWarning, text); }
  void error(std::string_view text) const { write(LogLevel::kError, text); }

 private:
  void write(LogLevel level, std::string_view text) const {
    if (sink_) sink_(level, prefix_.empty() ? std::string(text) : prefix_ + std::string(text));
  }

  Sink sink_;
  std::string prefix_;
};

}  // namespace pollux
