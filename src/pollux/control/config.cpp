// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace pollux::control {
namespace {

constexpr int kMaxCpu = 4095;

std::optional<int> parse_cpu(std::string_view text) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end || value < 0 || value > kMaxCpu) return std::nullopt;
  return value;
}

template <typename T, size_t N>
Result<T> parse_word(std::string_view text,
                     const std::array<std::pair<std::string_view, T>, N>& words) {
  std::string all;
  for (const auto& [word, value] : words) {
    if (word == text) return value;
    all += fmt::format("{}{}", all.empty() ? "" : ", ", word);
  }
  return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is not one of {}", text, all));
}

template <typename T, size_t N>
std::string_view word_for(T wanted, const std::array<std::pair<std::string_view, T>, N>& words) {
  const auto found = std::ranges::find(words, wanted, &std::pair<std::string_view, T>::second);
  return found == words.end() ? "?" : found->first;
}

constexpr std::array<std::pair<std::string_view, QueueMode>, 2> kQueueModeWords{
    {{"adaptive", QueueMode::kAdaptive}, {"poll", QueueMode::kPoll}}};

constexpr std::array<std::pair<std::string_view, IdlePolicy>, 3> kIdleWords{
    {{"poll", IdlePolicy::kPoll},
     {"yield", IdlePolicy::kYield},
     {"adaptive", IdlePolicy::kAdaptive}}};

constexpr std::array<std::pair<std::string_view, HugePages>, 3> kHugePageWords{
    {{"try", HugePages::kTry}, {"never", HugePages::kNever}, {"require", HugePages::kRequire}}};

}  // namespace

void set_port(SwitchConfig& config, NamedPortSpec port) {
  const auto same = std::ranges::find(config.ports, port.name, &NamedPortSpec::name);
  if (same != config.ports.end()) {
    same->spec = std::move(port.spec);
  } else {
    config.ports.push_back(std::move(port));
  }
}

Result<std::vector<int>> parse_cpus(std::string_view text) {
  std::vector<int> cpus;
  while (true) {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const size_t dash = item.find('-');
    const auto first = parse_cpu(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_cpu(item.substr(dash + 1));
    if (!first || !last || *first > *last) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("'{}' is no list of CPUs: write numbers and ranges of numbers, "
                              "like 0,2-3",
                              item));
    }
    for (int cpu = *first; cpu <= *last; ++cpu) {
      if (std::ranges::find(cpus, cpu) != cpus.end()) {
        return fail(ErrorCode::kInvalidArgument,
                    fmt::format("CPU {} is named twice: each worker needs one of its own", cpu));
      }
      cpus.push_back(cpu);
    }
    if (comma == std::string_view::npos) return cpus;
    text.remove_prefix(comma + 1);
  }
}

std::string format_cpus(const std::vector<int>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += last == i ? fmt::format("{}", cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[last]);
    i = last + 1;
  }
  return text;
}

Result<IdlePolicy> parse_idle(std::string_view text) { return parse_word(text, kIdleWords); }

std::string_view idle_name(IdlePolicy idle) { return word_for(idle, kIdleWords); }

Result<QueueMode> parse_queue_mode(std::string_view text) {
  return parse_word(text, kQueueModeWords);
}

std::string_view queue_mode_name(QueueMode mode) { return word_for(mode, kQueueModeWords); }

Result<HugePages> parse_huge_pages(std::string_view text) {
  return parse_word(text, kHugePageWords);
}

Result<mode_t> parse_mode(std::string_view text) {
  mode_t mode = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, mode, 8);
  if (error != std::errc{} || stop != end || mode > 0777 || (mode & 0600) != 0600) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is no mode for a socket: write it in octal with the owner's "
                            "bits set, like 0600 or 0660",
                            text));
  }
  return mode;
}

}  // namespace pollux::control
