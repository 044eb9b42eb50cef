// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/explore.hpp"

#include <algorithm>
#include <unordered_set>

namespace pollux::sim {
namespace {

/// A choice that was made, and how many there were.
struct Choice {
  uint8_t taken = 0;
  uint8_t options = 0;
};

/// Follows the choices given to it, then takes the first of each, and writes all of them down.
class PathChooser final : public Chooser {
 public:
  PathChooser(std::vector<Choice>& path, const Config& config,
              std::unordered_set<uint64_t>* visited)
      : path_(path), given_(path.size()), kills_(config.kills), visited_(visited) {}

  bool arrive(uint64_t state) override {
    if (visited_ == nullptr || next_ < given_) return true;
    return visited_->insert(state * 31 + kills_).second;
  }
  // A store that nobody has to see yet needs no stop before it: the other side sees the old value
  // after it as well as before. A death, though, may come between two stores.
  [[nodiscard]] bool stops_at_stores() const override { return kills_ != 0; }

  bool pass_on() override { return choose(2) != 0; }
  size_t pick_value(size_t options) override { return choose(options); }
  bool dies(Side side, uint32_t /*rate*/) override {
    if (side == Side::kDriver || kills_ == 0 || choose(2) == 0) return false;
    --kills_;
    return true;
  }
  bool happens(uint32_t /*rate*/) override { return false; }
  uint32_t below(uint32_t bound) override { return bound - 1; }

 private:
  size_t choose(size_t options) {
    if (next_ == path_.size()) path_.push_back({0, static_cast<uint8_t>(options)});
    return path_[next_++].taken;
  }

  std::vector<Choice>& path_;
  size_t given_;
  size_t next_ = 0;
  uint32_t kills_;
  std::unordered_set<uint64_t>* visited_;
};

std::string to_text(std::vector<Choice> path) {
  while (!path.empty() && path.back().taken == 0) path.pop_back();
  std::string text;
  for (const Choice& choice : path) text += static_cast<char>('a' + choice.taken);
  return text.empty() ? "a" : text;
}

}  // namespace

Exploration explore(const Config& config, uint64_t max_steps) {
  Exploration result;
  std::vector<Choice> path;
  std::unordered_set<uint64_t> visited;
  while (result.steps < max_steps) {
    PathChooser chooser(path, config, &visited);
    const Outcome outcome = run_queue(config, chooser, false);
    ++result.runs;
    result.steps += outcome.steps;
    if (!outcome.failure.empty()) {
      result.failure = outcome.failure;
      result.choices = to_text(path);
      break;
    }
    while (!path.empty() && path.back().taken + 1 == path.back().options) path.pop_back();
    result.complete = path.empty();
    if (result.complete) break;
    ++path.back().taken;
  }
  result.states = visited.size();
  return result;
}

Outcome replay(const Config& config, std::string_view choices, bool trace) {
  std::vector<Choice> path;
  for (const char c : choices) path.push_back({static_cast<uint8_t>(c - 'a'), 0});
  PathChooser chooser(path, config, nullptr);
  return run_queue(config, chooser, trace);
}

}  // namespace pollux::sim
