// SPDX-License-Identifier: Apache-2.0
// What a back end left of packed rings in a front end's in-flight region.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "pollux/mem/shared_access.hpp"
#include "pollux/ring/packed_journal.hpp"
#include "pollux/vhost/inflight.hpp"

namespace pollux::vhost {
namespace {

using ring::PackedCursor;
using ring::PackedLayout;
using Region = spec::QueueRegionPacked;

/// What the text makes of a region's head.
struct Head {
  uint16_t free_head;
  PackedCursor next;
};

/// Nothing: it contradicts itself.
std::optional<Head> read_head(const Region& region, const PackedLayout& layout, uint16_t entries) {
  const SharedAccess access;
  const uint16_t used = access.load(&region.used_idx);
  const uint16_t old_used = access.load(&region.old_used_idx);
  const uint8_t wrap = access.load(&region.used_wrap_counter);
  const uint8_t old_wrap = access.load(&region.old_used_wrap_counter);
  const uint16_t free_head = access.load(&region.free_head);
  const uint16_t old_free_head = access.load(&region.old_free_head);
  if (access.load(&region.desc_num) != entries || used >= layout.size || old_used >= layout.size ||
      (wrap | old_wrap) > 1 || free_head > entries || old_free_head > entries) {
    return std::nullopt;
  }
  const PackedCursor before{old_used, old_wrap != 0};
  const PackedCursor after{used, wrap != 0};
  // The batch that was being returned: its first descriptor says whether it was.
  const uint16_t flags = access.load_acquire(&layout.desc[old_used].flags);
  const bool shown =
      before != after && (flags & ring::kPackedOwnerFlags) != ring::packed_avail_flags(before.wrap);
  return shown ? Head{free_head, after} : Head{old_free_head, before};
}

/// A chain in flight, as it is noted.
struct Noted {
  uint64_t counter;
  uint16_t entry;
  uint16_t last;
  ring::PackedLeft chain;
};

/// Which entries are on the list of free ones.
std::vector<bool> free_entries(const Region& region, uint16_t free_head, uint16_t entries) {
  std::vector<bool> free(entries);
  for (uint16_t at = free_head; at < entries && !free[at];) {
    free[at] = true;
    at = SharedAccess{}.load(&region.desc[at].next);
  }
  return free;
}

/// What is noted of all other entries, in the order of taking; nothing: it contradicts itself.
std::optional<std::vector<Noted>> read_chains(const Region& region, const std::vector<bool>& free,
                                              const PackedLayout& layout) {
  const SharedAccess access;
  const auto entries = static_cast<uint16_t>(free.size());
  std::vector<Noted> chains;
  std::vector<bool> ids(layout.size);
  uint32_t covered = 0;
  for (uint16_t i = 0; i < entries; ++i) {
    const spec::DescStatePacked& desc = region.desc[i];
    const uint8_t inflight = access.load(&desc.inflight);
    if (inflight > 1) return std::nullopt;
    if (inflight == 0 || free[i]) continue;
    const uint16_t last = access.load(&desc.last);
    const uint16_t count = access.load(&desc.num);
    if (last >= entries || count == 0) return std::nullopt;
    // 2.8.6: the id of a chain is that of its last descriptor.
    const uint16_t id = access.load(&region.desc[last].id);
    covered += count;
    if (covered > layout.size || id >= layout.size || ids[id]) return std::nullopt;
    ids[id] = true;
    chains.push_back({access.load(&desc.counter), i, last, {id, count}});
  }
  std::ranges::sort(chains, {}, [](const Noted& n) { return std::pair(n.counter, n.entry); });
  return chains;
}

}  // namespace

ring::PackedInflight InflightRegion::packed(uint16_t index) const {
  return {reinterpret_cast<Region*>(queue(index)), told_.queue_size};
}

Result<std::optional<PackedRemains>> InflightRegion::recover_packed(
    uint16_t index, const PackedLayout& layout) const {
  if (!holds_packed(index, layout.size)) return no_place(index, layout.size);
  const SharedAccess access;
  auto& region = *reinterpret_cast<Region*>(queue(index));
  const uint16_t version = access.load_acquire(&region.version);
  if (version == 0) return std::nullopt;
  const auto head = read_head(region, layout, told_.queue_size);
  if (version != spec::kInflightVersion || !head) return contradicts(index);
  if (ring::packed_ring_left_behind(layout, head->next)) return std::nullopt;
  const std::vector<bool> free = free_entries(region, head->free_head, told_.queue_size);
  const auto chains = read_chains(region, free, layout);
  if (!chains) return contradicts(index);

  ring::PackedInflight notes = packed(index);
  notes.roll_back(access, head->next, head->free_head);
  for (uint32_t i = 0; i < free.size(); ++i) {
    if (free[i]) notes.give_back(access, i);
  }
  PackedRemains remains{head->next, {}};
  PackedCursor end = head->next;
  uint16_t free_head = head->free_head;
  for (const Noted& noted : *chains) {
    remains.chains.push_back(noted.chain);
    end = end.advanced(noted.chain.count, layout.size);
    notes.link(access, noted.last, free_head);
    free_head = noted.entry;
  }
  if (!chains->empty()) notes.returning(access, head->next, end, free_head);
  return remains;
}

bool InflightRegion::tells_packed(int fd, const spec::VhostUserInflight& told, uint16_t index,
                                  uint32_t size) {
  if (index >= told.num_queues || size > told.queue_size) return false;
  const uint64_t at =
      told.mmap_offset + index * queue_bytes(told.queue_size, InflightFormat::kPacked);
  struct {
    uint16_t version;
    uint16_t desc_num;
  } noted{};
  static_assert(offsetof(Region, desc_num) == offsetof(Region, version) + sizeof noted.version);
  const auto from = static_cast<off_t>(at + offsetof(Region, version));
  return ::pread(fd, &noted, sizeof noted, from) == sizeof noted &&
         noted.version == spec::kInflightVersion && noted.desc_num == told.queue_size;
}

}  // namespace pollux::vhost
