// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "pollux/ring/packed_inflight.hpp"
#include "pollux/ring/packed_journal.hpp"
#include "pollux/vhost/inflight.hpp"

namespace pollux::vhost_user {

/// What a packed ring does not say itself: where it goes on, and where that is noted from now on.
struct PackedPast {
  ring::PackedResume resume;
  std::vector<ring::PackedLeft> left;  ///< chains to be returned first; none if resume has some
  ring::PackedJournal journal;         ///< outlives the ring; empty: nowhere
  ring::PackedInflight inflight;       ///< in RingStart::inflight; empty: nowhere
};

/// Finds out where the ring's last device was: from the front end's region, which has `told` that
/// or nothing, and from our own file, the journal in `past`. False, with nothing changed, when
/// neither knows.
///
/// The region goes first, since whoever had the ring last, this program or another, wrote there.
/// Our file knows more of a batch that was not shown: how much was written to each chain. It is
/// asked for that if it agrees with the region, and for everything where the region is silent.
[[nodiscard]] bool recall_past(const ring::PackedLayout& layout,
                               std::optional<vhost::PackedRemains> told, PackedPast& past);

}  // namespace pollux::vhost_user
