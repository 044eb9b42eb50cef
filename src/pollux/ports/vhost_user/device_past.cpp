// SPDX-License-Identifier: Apache-2.0
// Where the packed rings of a NetDevice go on, and the file in which that is noted.
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "pollux/ports/vhost_user/device.hpp"
#include "pollux/ports/vhost_user/packed_past.hpp"

namespace pollux::vhost_user {

/// A packed ring goes on where it stopped; else where its last device was when it died, if that was
/// noted and the ring bears it out; else where the front end says. Of a ring that has run, one that
/// says "at the beginning" does not know.
Result<PackedPast> NetDevice::find_past(const vhost::RingStart& start) {
  PackedPast past;
  const auto* layout = std::get_if<ring::PackedLayout>(&start.layout);
  if (layout == nullptr) return past;
  past.resume.next = ring::PackedPosition::from_wire(start.base).used;
  past.journal = journal_of(start, *layout);
  if (start.inflight && start.inflight->holds_packed(start.index, layout->size)) {
    past.inflight = start.inflight->packed(start.index);
  }
  if (start.base_ours) return past;
  std::optional<vhost::PackedRemains> told;
  if (start.inflight) {
    auto found = start.inflight->recover_packed(start.index, *layout);
    if (!found) return forward(found);
    told = std::move(*found);
  }
  const bool known = recall_past(*layout, std::move(told), past);
  if (!known && past.resume.next == ring::PackedCursor{} && ring::packed_ring_has_run(*layout)) {
    return fail(ErrorCode::kUnsupported,
                "this packed ring has run before and nobody knows how far: the guest's driver has "
                "to reset the device");
  }
  return past;
}

/// Without a file, or the room in it, rings run all the same.
ring::PackedJournal NetDevice::journal_of(const vhost::RingStart& start,
                                          const ring::PackedLayout& layout) {
  const auto place = start.memory->file_place(reinterpret_cast<const std::byte*>(layout.desc));
  if (config_.ring_file.empty() || ring_file_failed_ || !place) return {};
  const auto not_kept = [&](const Error& error) -> ring::PackedJournal {
    log_.warn(fmt::format("packed rings can not go on after a crash: {}", error.what));
    ring_file_failed_ = true;
    return {};
  };
  if (!ring_file_) {
    auto file = RingFile::open(config_.ring_file, rings());
    if (!file) return not_kept(file.error());
    ring_file_ = std::move(*file);
  }
  auto journal = ring_file_->journal(start.index, *place, layout.size);
  return journal ? *journal : not_kept(journal.error());
}

Status NetDevice::adopt_ring_file(UniqueFd fd) {
  auto file = RingFile::adopt(std::move(fd), rings());
  if (!file) return forward(file);
  ring_file_ = std::move(*file);
  return {};
}

void NetDevice::forget_ring(uint16_t index) {
  if (ring_file_) ring_file_->forget(index);
}

}  // namespace pollux::vhost_user
