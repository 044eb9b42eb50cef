// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/packed_past.hpp"

#include <utility>

namespace pollux::vhost_user {
namespace {

/// Whether both speak of the same ring at the same time. Either may have noted a batch that the
/// other had not yet, or not any more.
bool agree(const ring::PackedResume& noted, const ring::PackedJournal& journal,
           const vhost::PackedRemains& told) {
  if (noted.next != told.next) return false;
  if (noted.chains == 0 || told.chains.empty()) return true;
  if (noted.chains != told.chains.size()) return false;
  for (uint16_t i = 0; i < noted.chains; ++i) {
    const auto& chain = journal.chains[(noted.first + i) & (journal.chains.size() - 1)];
    if (chain.id != told.chains[i].id || chain.count != told.chains[i].count) return false;
  }
  return true;
}

}  // namespace

bool recall_past(const ring::PackedLayout& layout, std::optional<vhost::PackedRemains> told,
                 PackedPast& past) {
  auto noted = past.journal.batch != nullptr ? ring::recall(layout, past.journal) : std::nullopt;
  if (noted && told && !agree(*noted, past.journal, *told)) noted.reset();
  if (!noted && !told) return false;
  past.resume = noted ? *noted : ring::PackedResume{told->next};
  if (past.resume.chains == 0 && told) past.left = std::move(told->chains);
  return true;
}

}  // namespace pollux::vhost_user
