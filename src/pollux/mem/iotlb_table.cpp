// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/iotlb_table.hpp"

#include <algorithm>

namespace pollux {
namespace {

// Runs that one translation joins at most. Longer ranges come in several pieces.
constexpr int kMaxJoined = 32;

const IotlbRun* find_in(const IotlbTable::Runs& runs, uint64_t iova) noexcept {
  const auto after =
      std::upper_bound(runs.begin(), runs.end(), iova,
                       [](uint64_t at, const IotlbRun& run) { return at < run.first; });
  if (after == runs.begin()) return nullptr;
  const IotlbRun& run = *std::prev(after);
  return iova <= run.last ? &run : nullptr;
}

/// How much of `len` bytes from `iova` on the run holds; it holds `iova`.
uint64_t held(const IotlbRun& run, uint64_t iova, uint64_t len) noexcept {
  const uint64_t after = run.last - iova;  // bytes behind the first
  return after < len ? after + 1 : len;
}

}  // namespace

const IotlbRun* IotlbTable::find(uint64_t iova) const noexcept {
  const IotlbRun* run = find_in(recent_, iova);
  return run != nullptr ? run : find_in(*settled_, iova);
}

Translation IotlbTable::translate(uint64_t iova, uint64_t len, MemoryAccess access) const noexcept {
  const auto wanted = static_cast<uint8_t>(access);
  const IotlbRun* run = find(iova);
  if (run == nullptr) return {nullptr, 0, TranslationStatus::kMiss};
  if ((run->granted & wanted) != wanted) {
    return {nullptr, 0,
            (run->denied & wanted) != 0 ? TranslationStatus::kFault : TranslationStatus::kMiss};
  }
  std::byte* const data = run->at(iova);
  uint64_t size = held(*run, iova, len);
  for (int i = 0; size < len && i < kMaxJoined; ++i) {
    const uint64_t next = iova + size;
    if (next == 0) break;  // where 64 bits end
    const IotlbRun* const more = find(next);
    if (more == nullptr || (more->granted & wanted) != wanted || more->region != run->region ||
        more->at(next) != data + size) {
      break;
    }
    size += held(*more, next, len - size);
  }
  return {data, size, TranslationStatus::kOk};
}

}  // namespace pollux
