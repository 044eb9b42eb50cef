// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/miss_ledger.hpp"

namespace pollux::vhost {

bool MissLedger::add(const IotlbMiss& miss) {
  if (waiting_.size() >= kMaxWaiting) return false;
  if (!waiting_.emplace(miss.key(), Entry{miss, ++serial_}).second) return false;
  // Nobody takes from the list while there is no way to ask.
  if (fresh_.size() > 2 * kMaxWaiting) {
    std::erase_if(fresh_, [this](uint64_t key) { return !waiting_.contains(key); });
  }
  fresh_.push_back(miss.key());
  return true;
}

std::optional<MissLedger::Question> MissLedger::next() {
  while (!fresh_.empty()) {
    const auto found = waiting_.find(fresh_.front());
    fresh_.pop_front();
    if (found == waiting_.end() || found->second.state != State::kNew) continue;
    found->second.state = State::kAsked;
    found->second.ticks = 0;
    return Question{found->second.miss, found->second.serial};
  }
  return std::nullopt;
}

MissLedger::Entry* MissLedger::find(const Question& question) {
  const auto found = waiting_.find(question.miss.key());
  const bool same = found != waiting_.end() && found->second.serial == question.serial;
  return same ? &found->second : nullptr;
}

void MissLedger::put_back(const Question& question) {
  Entry* entry = find(question);
  if (entry == nullptr || entry->state == State::kNew) return;
  entry->state = State::kNew;
  fresh_.push_front(question.miss.key());
}

void MissLedger::done(const Question& question) {
  Entry* entry = find(question);
  if (entry == nullptr) return;
  entry->state = State::kDone;
  entry->ticks = 0;
}

bool MissLedger::settle(const Question& question) {
  return find(question) != nullptr && waiting_.erase(question.miss.key()) != 0;
}

std::vector<IotlbMiss> MissLedger::take(uint64_t first, uint64_t last) {
  std::vector<IotlbMiss> taken;
  for (auto at = waiting_.lower_bound(first & ~IotlbMiss::kPageMask); at != waiting_.end();) {
    const IotlbMiss miss = at->second.miss;
    if ((at->first & ~IotlbMiss::kPageMask) > last) break;
    if (miss.iova < first || miss.iova > last) {
      ++at;
      continue;
    }
    taken.push_back(miss);
    at = waiting_.erase(at);
  }
  return taken;
}

std::vector<IotlbMiss> MissLedger::tick() {
  std::vector<IotlbMiss> unfounded;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    Entry& entry = at->second;
    ++entry.ticks;
    if (entry.state == State::kDone && entry.ticks > kSettle) {
      unfounded.push_back(entry.miss);
      at = waiting_.erase(at);
      continue;
    }
    if (entry.state == State::kAsked && entry.ticks > kAskAgain) {
      ++overdue_;
      entry.state = State::kNew;
      fresh_.push_back(at->first);
    }
    ++at;
  }
  return unfounded;
}

void MissLedger::clear() {
  waiting_.clear();
  fresh_.clear();
}

}  // namespace pollux::vhost
