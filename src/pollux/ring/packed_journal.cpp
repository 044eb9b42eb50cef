// SPDX-License-Identifier: Apache-2.0
#include "pollux/ring/packed_journal.hpp"

namespace pollux::ring {
namespace {

/// What a descriptor's flags say, as seen from a lap (2.8.1).
struct Owner {
  bool avail;  ///< AVAIL is the lap's wrap counter
  bool used;   ///< USED is
};

Owner owner_of(const PackedLayout& layout, PackedCursor at) {
  const uint16_t flags = SharedAccess{}.load_acquire(&layout.desc[at.index].flags);
  return {((flags & spec::VIRTQ_DESC_F_AVAIL) != 0) == at.wrap,
          ((flags & spec::VIRTQ_DESC_F_USED) != 0) == at.wrap};
}

/// The chains of a batch that was not shown, and the ring's first descriptor among them still as
/// the device found it.
bool chains_hold(const PackedLayout& layout, const PackedJournal& journal,
                 const PackedBatch& batch) {
  const auto place = [&](uint32_t i) -> const PackedChain& {
    return journal.chains[(batch.first + i) & (journal.chains.size() - 1)];
  };
  uint64_t moved = 0;
  for (uint32_t i = 0; i < batch.chains; ++i) {
    const PackedChain& chain = place(i);
    if (chain.count == 0 || chain.id >= layout.size) return false;
    moved += chain.count;
  }
  const auto first = SharedAccess{}.snapshot<spec::pvirtq_desc>(&layout.desc[batch.at.index]);
  return moved == batch.moved && first.addr == place(0).addr;
}

/// What a ring shows of its past.
struct Traces {
  bool used = false;    ///< a device has been done with something that is there
  bool offered = true;  ///< all of it is there for the device, or was and is not overwritten
};

/// A ring that was just set up has no traces: its descriptors are zeros but for those that wait.
Traces traces_of(const PackedLayout& layout) {
  const SharedAccess access;
  Traces traces;
  for (uint32_t i = 0; i < layout.size; ++i) {
    const auto desc = access.snapshot<spec::pvirtq_desc>(&layout.desc[i]);
    const bool avail = (desc.flags & spec::VIRTQ_DESC_F_AVAIL) != 0;
    traces.used |= (desc.flags & spec::VIRTQ_DESC_F_USED) != 0 || (!avail && desc.addr != 0);
    traces.offered &= avail;
  }
  return traces;
}

/// A ring without traces whose descriptors are all offered: set up anew, or offered again whole
/// while the device was at the beginning of an odd lap. Its driver's first descriptors may belong
/// then to a batch that went over the ring's end, which leaves no trace there; not so where each of
/// them is a buffer for the device to write to.
PackedResume all_offered(const PackedLayout& layout, const PackedJournal& journal,
                         const PackedBatch& batch, PackedCursor end) {
  if (batch.moved != 0 && batch.at.wrap && batch.at.index != 0 &&
      chains_hold(layout, journal, batch)) {
    return {batch.at, batch.first, batch.chains};
  }
  const bool over_the_end = end.wrap && (!batch.at.wrap || batch.moved == 0);
  const uint16_t flags = SharedAccess{}.load(&layout.desc[0].flags);
  return {over_the_end && (flags & spec::VIRTQ_DESC_F_WRITE) == 0 ? end : PackedCursor{}};
}

bool plausible(const PackedLayout& layout, const PackedJournal& journal, const PackedBatch& batch) {
  const size_t places = journal.chains.size();
  return batch.at.index < layout.size && batch.moved <= layout.size && batch.first < places &&
         batch.chains <= places && (batch.chains == 0) == (batch.moved == 0);
}

}  // namespace

bool packed_ring_left_behind(const PackedLayout& layout, PackedCursor at) {
  if (const Traces traces = traces_of(layout); !traces.used && at != PackedCursor{}) {
    // As in all_offered: only a batch of a transmitq that went over the ring's end leaves no trace.
    const uint16_t flags = SharedAccess{}.load(&layout.desc[0].flags);
    return !traces.offered || !at.wrap || (flags & spec::VIRTQ_DESC_F_WRITE) != 0;
  }
  const Owner next = owner_of(layout, at);
  return next.used && next.avail;
}

std::optional<PackedResume> recall(const PackedLayout& layout, const PackedJournal& journal) {
  const auto batch = PackedBatch::from_wire(*journal.batch);
  if (!plausible(layout, journal, batch)) return std::nullopt;
  const PackedCursor end = batch.at.advanced(batch.moved, layout.size);
  if (const Traces traces = traces_of(layout); !traces.used) {
    return traces.offered ? all_offered(layout, journal, batch, end) : PackedResume{};
  }
  if (batch.moved != 0) {
    // Used in the batch's lap and perhaps offered again in the next, or not used yet.
    const Owner first = owner_of(layout, batch.at);
    if (!first.used && !first.avail) return std::nullopt;
    if (!first.used) {
      if (!chains_hold(layout, journal, batch)) return std::nullopt;
      return PackedResume{batch.at, batch.first, batch.chains};
    }
  }
  const Owner next = owner_of(layout, end);
  if (next.used && next.avail) return std::nullopt;  // somebody else has gone on from there
  return PackedResume{end, 0, 0};
}

}  // namespace pollux::ring
