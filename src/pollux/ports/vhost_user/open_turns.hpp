// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace pollux::vhost_user {

/// A worker's turn as a receiveq sees it: from which used entry on it filled some.
struct OpenTurn {
  uint16_t from = 0;
  OpenTurn* next = nullptr;
};

/// The turns that have filled used entries of a receiveq and have not ended. Several workers may
/// fill one ring in turns that overlap; an entry may be shown only when its turn has ended, for
/// only then its sender's used entry is out, and a crash does not send the packet again. Entries
/// are shown in order, so what lies behind the first entry of an open turn waits for its end.
///
/// With one worker there is never more than one open turn. Not thread-safe: under the ring's lock.
class OpenTurns {
 public:
  /// `turn` begins to fill at entry `at`; it stays where it is until it ends.
  void begin(OpenTurn& turn, uint16_t at) noexcept {
    turn.from = at;
    turn.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &turn;
    last_ = &turn;
  }

  /// `turn` has ended, and entries up to `filled` are filled; up to where they may be shown.
  uint16_t end(OpenTurn& turn, uint16_t filled) noexcept {
    OpenTurn* before = nullptr;
    for (OpenTurn* at = first_; at != &turn; at = at->next) before = at;
    (before == nullptr ? first_ : before->next) = turn.next;
    if (last_ == &turn) last_ = before;
    return first_ == nullptr ? filled : first_->from;
  }

 private:
  OpenTurn* first_ = nullptr;  // began first, hence has the lowest `from`
  OpenTurn* last_ = nullptr;
};

}  // namespace pollux::vhost_user
