// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "pollux/mem/iotlb_table.hpp"

namespace pollux::vhost {

/// The IOTLB misses that a front end has still to answer: each page once, however often and by
/// however many queues it is reported, and a bounded number of them. Control's; plain values.
class MissLedger {
 public:
  /// Misses that are kept; more are forgotten, and reported again when some were answered.
  static constexpr size_t kMaxWaiting = 1024;
  /// Ticks (BackendChannel::kTick) until a question without an answer is asked again: 5 s.
  static constexpr uint32_t kAskAgain = 50;
  /// Ticks from a front end's "done" to the update that it speaks of: 1 s.
  static constexpr uint32_t kSettle = 10;

  /// A miss as it was asked. A later miss at the same place is another question, which the answer
  /// to this one says nothing of.
  struct Question {
    IotlbMiss miss;
    uint64_t serial = 0;
  };

  /// False when it is known already, or there is no room.
  bool add(const IotlbMiss& miss);

  /// The next miss to ask for, if any; it counts as asked from now on.
  [[nodiscard]] std::optional<Question> next();
  /// It could not be asked after all.
  void put_back(const Question& question);

  /// The front end says that it has dealt with it.
  void done(const Question& question);
  /// It is answered, one way or the other. False when it was not waited for any more.
  bool settle(const Question& question);
  /// Takes out and returns all misses at addresses in [first, last].
  [[nodiscard]] std::vector<IotlbMiss> take(uint64_t first, uint64_t last);

  /// One tick passed. Returns the misses that the front end claims to have dealt with, without
  /// having sent an update, and takes them out. Those without any answer are asked again.
  [[nodiscard]] std::vector<IotlbMiss> tick();

  void clear();
  [[nodiscard]] bool empty() const { return waiting_.empty(); }
  [[nodiscard]] size_t size() const { return waiting_.size(); }
  /// Questions that had to be repeated, so far.
  [[nodiscard]] uint64_t overdue() const { return overdue_; }

 private:
  enum class State : uint8_t { kNew, kAsked, kDone };
  struct Entry {
    IotlbMiss miss;
    uint64_t serial = 0;
    State state = State::kNew;
    uint32_t ticks = 0;
  };

  [[nodiscard]] Entry* find(const Question& question);

  std::map<uint64_t, Entry> waiting_;  // by key
  uint64_t serial_ = 0;                // of the last miss that was added
  std::deque<uint64_t> fresh_;         // keys to ask for, oldest first; may be settled already
  uint64_t overdue_ = 0;
};

}  // namespace pollux::vhost
