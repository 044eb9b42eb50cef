// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/iotlb.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace pollux {
namespace {

constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();
// Mappings that a table has beside its settled ones before all are sorted into one list again.
constexpr size_t kMaxRecent = 64;

bool by_first(const IotlbRun& a, const IotlbRun& b) { return a.first < b.first; }

}  // namespace

Iotlb::Iotlb(std::shared_ptr<const PeerMemory> memory)
    : memory_(std::move(memory)),
      latest_(std::make_unique<const IotlbTable>(1, std::make_shared<const IotlbTable::Runs>(),
                                                 IotlbTable::Runs())),
      published_(latest_.get()) {}

Iotlb::~Iotlb() = default;

/// Where a mapping lies, or why it can not be.
Result<Iotlb::Run> Iotlb::locate(const Mapping& mapping) const {
  if (mapping.size == 0 || mapping.size - 1 > kEnd - mapping.iova) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the mapping of {:#x} bytes at {:#x} is empty or wraps around",
                            mapping.size, mapping.iova));
  }
  Run run{{mapping.iova, mapping.iova + (mapping.size - 1), nullptr, 0, mapping.access, 0},
          mapping.user,
          updates_};
  if (mapping.access == 0) {
    run.run.denied =
        static_cast<uint8_t>(MemoryAccess::kRead) | static_cast<uint8_t>(MemoryAccess::kWrite);
    return run;
  }
  const auto regions = memory_ ? memory_->regions() : std::span<const PeerRegion>();
  for (size_t i = 0; i < regions.size(); ++i) {
    const PeerRegion& region = regions[i];
    const uint64_t offset = mapping.user.value - region.user.value;
    if (mapping.user < region.user || offset >= region.size ||
        mapping.size > region.size - offset) {
      continue;
    }
    run.run.host = region.host + offset;
    run.run.region = static_cast<uint32_t>(i);
    return run;
  }
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("the mapping of {:#x} bytes at user address {:#x} is not inside one "
                          "shared region",
                          mapping.size, mapping.user.value));
}

/// The first run that ends at or behind `iova`.
Iotlb::Map::iterator Iotlb::first_behind(uint64_t iova) {
  auto at = runs_.upper_bound(iova);
  if (at != runs_.begin() && std::prev(at)->second.run.last >= iova) --at;
  return at;
}

/// True when one run says all this already.
bool Iotlb::known(const Run& wanted) const {
  const auto after = runs_.upper_bound(wanted.run.first);
  if (after == runs_.begin()) return false;
  const IotlbRun& run = std::prev(after)->second.run;
  return run.last >= wanted.run.last && run.granted == wanted.run.granted &&
         run.denied == wanted.run.denied &&
         (run.granted == 0 || run.at(wanted.run.first) == wanted.run.host);
}

Status Iotlb::update(const Mapping& mapping) {
  auto run = locate(mapping);
  if (!run) return forward(run);
  if (known(*run)) return {};
  ++updates_;
  // What workers may be using keeps its meaning if the new mapping says the same and more.
  bool takes_away = false;
  for (auto at = first_behind(run->run.first);
       at != runs_.end() && at->second.run.first <= run->run.last; ++at) {
    const IotlbRun& old = at->second.run;
    const uint64_t common = std::max(old.first, run->run.first);
    if (old.granted == 0) continue;
    takes_away |= (old.granted & ~run->run.granted) != 0 || old.at(common) != run->run.at(common);
  }
  if (carve(run->run.first, run->run.last)) rebuild_ = true;
  if (takes_away) must_wait_ = true;
  make_room();
  changed_ = true;
  if (!rebuild_) added_.push_back(run->run);
  insert(*run);
  return {};
}

void Iotlb::invalidate(uint64_t first, uint64_t last) {
  for (auto at = first_behind(first); at != runs_.end() && at->second.run.first <= last; ++at) {
    if (at->second.run.granted != 0) must_wait_ = true;
  }
  make_room();  // cutting a hole makes two runs of one
  if (carve(first, last)) rebuild_ = changed_ = true;
}

void Iotlb::deny(uint64_t first, uint64_t last, uint8_t access) {
  const auto refused = [access](uint64_t from, uint64_t to) {
    return Run{{from, to, nullptr, 0, 0, access}, UserAddr{}, 0};
  };
  std::vector<Run> added;
  uint64_t next = first;  // what comes from here on is not dealt with yet
  bool done = false;
  for (auto at = first_behind(first); !done && at != runs_.end() && at->second.run.first <= last;
       ++at) {
    Run part = at->second;
    if (part.run.first > next) added.push_back(refused(next, part.run.first - 1));
    const uint64_t from = std::max(part.run.first, first);
    if (part.run.granted != 0) {
      part.run.host = part.run.at(from);
      part.user.value += from - part.run.first;
    }
    part.run.first = from;
    part.run.last = std::min(part.run.last, last);
    part.run.denied |= static_cast<uint8_t>(access & ~part.run.granted);
    added.push_back(part);
    done = part.run.last == kEnd;
    next = part.run.last + 1;
  }
  if (!done && next <= last) added.push_back(refused(next, last));
  (void)carve(first, last);
  for (Run& run : added) {
    run.age = updates_;
    make_room();
    insert(run);
  }
  rebuild_ = changed_ = true;
}

void Iotlb::rebase(std::shared_ptr<const PeerMemory> memory) {
  memory_ = std::move(memory);
  const Map before = std::exchange(runs_, {});
  for (const auto& [first, old] : before) {
    if (old.run.granted == 0) continue;
    auto run = locate({first, old.run.last - first + 1, old.user, old.run.granted});
    if (!run) continue;
    run->run.denied = old.run.denied;
    run->age = old.age;
    insert(*run);
  }
  rebuild_ = changed_ = must_wait_ = true;
}

std::vector<Iotlb::Mapping> Iotlb::mappings() const {
  std::vector<Mapping> all;
  for (const auto& [first, run] : runs_) {
    if (run.run.granted == 0) continue;
    all.push_back({first, run.run.last - first + 1, run.user, run.run.granted});
  }
  return all;
}

/// Takes all in [first, last] out; true if there was anything.
bool Iotlb::carve(uint64_t first, uint64_t last) {
  bool any = false;
  for (auto at = first_behind(first); at != runs_.end() && at->second.run.first <= last;) {
    any = true;
    const Run old = at->second;
    at = runs_.erase(at);
    if (old.run.first < first) {
      Run before = old;
      before.run.last = first - 1;
      runs_.emplace(before.run.first, before);
    }
    if (old.run.last > last) {
      Run behind = old;
      behind.run.first = last + 1;
      if (old.run.granted != 0) behind.run.host = old.run.at(last + 1);
      behind.user.value += last + 1 - old.run.first;
      at = runs_.emplace(behind.run.first, behind).first;
      break;
    }
  }
  return any;
}

/// Puts a run where nothing is, and joins it with its neighbours where they continue each other.
void Iotlb::insert(Run run) {
  const auto continues = [](const Run& a, const Run& b) {
    return a.run.last != kEnd && a.run.last + 1 == b.run.first && a.run.granted == b.run.granted &&
           a.run.denied == b.run.denied &&
           (a.run.granted == 0 ||
            (a.run.region == b.run.region && a.run.at(b.run.first) == b.run.host));
  };
  auto behind = runs_.upper_bound(run.run.first);
  if (behind != runs_.end() && continues(run, behind->second)) {
    run.run.last = behind->second.run.last;
    behind = runs_.erase(behind);
  }
  if (behind != runs_.begin() && continues(std::prev(behind)->second, run)) {
    Run& before = std::prev(behind)->second;
    before.run.last = run.run.last;
    before.age = run.age;
    return;
  }
  runs_.emplace_hint(behind, run.run.first, run);
}

/// Forgets the older half when the bound is reached. Whoever uses it now may go on to: the
/// mappings still hold.
void Iotlb::make_room() {
  if (runs_.size() < kMaxRuns) return;
  std::vector<uint64_t> ages;
  ages.reserve(runs_.size());
  for (const auto& [first, run] : runs_) ages.push_back(run.age);
  const auto middle = ages.begin() + static_cast<std::ptrdiff_t>(ages.size() / 2);
  std::nth_element(ages.begin(), middle, ages.end());
  const uint64_t oldest_kept = *middle;
  evicted_ += std::erase_if(runs_, [&](const auto& item) { return item.second.age < oldest_kept; });
  // All of one age, as when one mapping was cut into many.
  if (runs_.size() >= kMaxRuns) {
    evicted_ += runs_.size();
    runs_.clear();
  }
  rebuild_ = true;
}

void Iotlb::publish() {
  if (!changed_) return;
  std::shared_ptr<const IotlbTable::Runs> settled = latest_->settled();
  IotlbTable::Runs recent;
  if (rebuild_ || latest_->recent().size() + added_.size() > kMaxRecent) {
    IotlbTable::Runs all;
    all.reserve(runs_.size());
    for (const auto& [first, run] : runs_) all.push_back(run.run);
    settled = std::make_shared<const IotlbTable::Runs>(std::move(all));
  } else {
    recent = latest_->recent();
    recent.insert(recent.end(), added_.begin(), added_.end());
    std::sort(recent.begin(), recent.end(), by_first);
  }
  auto next = std::make_unique<const IotlbTable>(latest_->number() + 1, std::move(settled),
                                                 std::move(recent));
  published_.store(next.get());
  retired_.push_back(std::exchange(latest_, std::move(next)));
  added_.clear();
  rebuild_ = changed_ = false;
}

void Iotlb::reclaim() {
  retired_.clear();
  must_wait_ = false;
}

}  // namespace pollux
