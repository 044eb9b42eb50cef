// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "pollux/mem/shared_access.hpp"
#include "pollux/ring/driver_ring.hpp"
#include "pollux/ring/packed_layout.hpp"
#include "pollux/ring/ring_error.hpp"
#include "pollux/spec/virtio_ring.hpp"

namespace pollux::ring {

/// The driver side of a packed virtqueue; VIRTIO 1.3, section 2.8. Knows buffers, not packets. The
/// same interface as SplitDriverRing, so that queue code takes either.
///
///     one ring of descriptors:   used, not seen yet | with the device | shown later | free ...
///                                ^ used_                                ^ publish     ^ next_
///
/// A chain lies in descriptors that follow each other, and is known by a buffer id, not by where
/// it lies: a device that returns chains out of order writes used descriptors in the order of its
/// own, one where the oldest chain began that the driver has not seen returned. Of each id the
/// number of descriptors and the capacity are kept in private memory; nothing that was written to
/// shared memory is ever read back, so whatever a hostile device writes there, the worst is a ring
/// that is `broken` with a reason; it then takes and returns nothing more.
///
/// What was added stays hidden behind its first descriptor, which alone is not marked available
/// until `publish`: a device looks at no descriptor before those in front of it (2.8.2).
///
/// Ids are handed out last in, first out, to touch as little memory as possible. With
/// VIRTIO_F_IN_ORDER an id is the index of the chain's first descriptor: so the chains between two
/// ids are known without a list of them.
///
/// Not thread-safe; one thread at a time. No allocation after construction.
template <typename Access = SharedAccess>
class PackedDriverRing {
 public:
  /// Takes a laid-out queue of a valid size that no device uses yet, and writes its initial state
  /// (no descriptor available or used, notifications wanted, interrupts suppressed). Both sides
  /// begin at index 0 with wrap counters of 1.
  explicit PackedDriverRing(const PackedLayout& layout, const DriverRingOptions& options = {},
                            Access access = {});

  [[nodiscard]] uint32_t size() const noexcept { return size_; }
  [[nodiscard]] const Access& access() const noexcept { return access_; }
  /// Descriptors that are in no chain.
  [[nodiscard]] uint32_t free_descriptors() const noexcept { return free_; }
  /// Chains that were published and not yet returned by poll_used.
  [[nodiscard]] uint16_t outstanding() const noexcept { return shown_chains_; }
  /// True when `add` takes a chain of `buffers` elements now.
  [[nodiscard]] bool has_room(uint32_t buffers) const noexcept {
    return !broken() && (buffers <= free_ || (tables_.fits(buffers) && free_ != 0));
  }
  /// Longest chain that this ring can ever carry (2.8.17: never above the queue size).
  [[nodiscard]] uint32_t max_chain() const noexcept { return size_; }

  /// Why the ring takes and returns nothing more, or none.
  [[nodiscard]] RingError error() const noexcept { return error_; }
  [[nodiscard]] bool broken() const noexcept { return error_ != RingError::none; }
  /// Breaks the ring for a reason that its user found out.
  void fail(RingError error) noexcept { error_ = error; }

  /// Adds one chain: device-readable elements first, then device-writable ones (2.8.17). More
  /// than one element goes to an indirect table when there is a free one. Returns the chain's id,
  /// or kNoChain, with nothing changed, when there is no room, no element, more elements than the
  /// queue has entries, or 4 GiB and more. The device sees nothing before `publish`.
  [[nodiscard]] uint16_t add(std::span<const DriverBuffer> out,
                             std::span<const DriverBuffer> in) noexcept;

  /// Adds up to `count` chains of one element each; returns how many. `fill(i, id)` is called for
  /// each in order and returns its DriverBuffer.
  template <typename Fill>
  size_t add_readable(size_t count, Fill&& fill) noexcept {
    return add_singles<0>(count, fill);
  }
  template <typename Fill>
  size_t add_writable(size_t count, Fill&& fill) noexcept {
    return add_singles<spec::VIRTQ_DESC_F_WRITE>(count, fill);
  }

  /// Shows everything added to the device (2.8.21). True when the device is to be notified.
  [[nodiscard]] bool publish() noexcept;

  /// Takes up to `max` returned chains (2.8.22), in the device's order; their descriptors are free
  /// again. What is read is checked in a private copy; the first lie breaks the ring.
  size_t poll_used(UsedChain* out, size_t max) noexcept;

  /// Brings what `poll_used` will read into the cache.
  void prefetch_used() const noexcept { access_.prefetch_read(&desc_[used_.index]); }

  /// What SET_VRING_BASE tells a device that takes the ring over from one that has gone: the place
  /// of the first chain that was not returned, available in the lower half and used in the upper.
  /// Nothing when there is none: returning chains in any order writes over those that are out, and
  /// so does a device that dies in the middle of a burst.
  [[nodiscard]] std::optional<uint32_t> base() const noexcept;

  /// Asks the device not to interrupt (2.8.10); the state after construction.
  void suppress_interrupts() noexcept;

  /// Asks for an interrupt at the next used chain. True when one is there already: the caller
  /// polls instead of sleeping.
  [[nodiscard]] bool arm_interrupts() noexcept;

  /// Ends the ring: calls `release(id)` for each chain that was added and never returned, and
  /// leaves the ring empty. The device must be gone or reset.
  template <typename Release>
  void drain(Release&& release) noexcept;

 private:
  /// What is known of a buffer id. One word, so that the common chain costs one load.
  struct Slot {
    uint32_t capacity = 0;  // device-writable bytes of its chain
    uint16_t length = 0;    // descriptors of that chain; 0: the id is free
    uint16_t table = 0;     // its indirect table, or TableStack::kNone
  };
  static constexpr uint16_t kEventFlags = 3;  // the other bits are reserved, 2.8.14

  /// A private copy of a used descriptor.
  struct Used {
    uint32_t len;
    uint16_t id;
  };

  template <uint16_t kFlags, typename Fill>
  size_t add_singles(size_t count, Fill& fill) noexcept;
  static void write_desc(const Access& access, spec::pvirtq_desc* to, const DriverBuffer& buffer,
                         uint16_t id, uint16_t flags) noexcept;
  void put_desc(const DriverBuffer& buffer, uint16_t id, uint16_t flags) noexcept;
  void write_table(spec::pvirtq_desc* to, std::span<const DriverBuffer> buffers,
                   uint16_t flags) noexcept;
  [[nodiscard]] uint16_t take_id() noexcept;
  [[nodiscard]] bool device_wants_kick(uint32_t count) noexcept;
  [[nodiscard]] bool is_used(PackedCursor at) const noexcept;
  [[nodiscard]] Used read_used(PackedCursor at) const noexcept;
  [[nodiscard]] RingError check_used(const Used& used) const noexcept;
  size_t poll_any_order(UsedChain* out, size_t max) noexcept;
  size_t poll_in_order(UsedChain* out, size_t max) noexcept;
  [[nodiscard]] bool start_batch() noexcept;
  /// Descriptors from `at` up to the one with that index.
  [[nodiscard]] uint32_t ahead(PackedCursor at, uint16_t index) const noexcept {
    return index >= at.index ? index - at.index : index + size_ - at.index;
  }
  void free_chain(uint16_t id) noexcept;

  spec::pvirtq_desc* desc_;
  spec::pvirtq_event_suppress* driver_;
  spec::pvirtq_event_suppress* device_;
  uint32_t size_;
  uint32_t free_;            // descriptors in no chain
  PackedCursor next_;        // the descriptor to be filled next, in the lap of our wrap counter
  PackedCursor used_;        // where the device writes what we see next
  uint32_t hidden_ = 0;      // descriptors in front of next_ that the device was not shown
  uint16_t hide_flags_ = 0;  // what the first of them has to get
  uint16_t hidden_chains_ = 0;
  uint16_t shown_chains_ = 0;
  uint16_t batch_end_ = kNoChain;  // in order: last chain of a batch that was not taken whole ...
  uint32_t batch_len_ = 0;         // ... and what was written to it
  bool event_idx_;
  bool in_order_;
  bool returned_ = false;  // any order: the device has written over descriptors
  RingError error_ = RingError::none;
  std::unique_ptr<Slot[]> slots_;    // by id
  std::unique_ptr<uint16_t[]> ids_;  // stack of free ids; not in order
  uint32_t free_ids_ = 0;
  [[no_unique_address]] Access access_;
  TableStack tables_;
};

template <typename Access>
PackedDriverRing<Access>::PackedDriverRing(const PackedLayout& layout,
                                           const DriverRingOptions& options, Access access)
    : desc_(layout.desc),
      driver_(layout.driver),
      device_(layout.device),
      size_(layout.size),
      free_(layout.size),
      event_idx_(options.event_idx),
      in_order_(options.in_order),
      slots_(std::make_unique<Slot[]>(layout.size)),
      access_(access),
      tables_(options.indirect) {
  if (!in_order_) {
    ids_ = std::make_unique<uint16_t[]>(size_);
    free_ids_ = size_;
    for (uint32_t i = 0; i < size_; ++i) ids_[i] = static_cast<uint16_t>(size_ - 1 - i);
  }
  // 2.8.13: zeros are neither available nor used in the first lap, whose wrap counters are 1.
  for (uint32_t i = 0; i < size_; ++i) write_desc(access_, &desc_[i], {}, 0, 0);
  access_.store(&device_->desc, uint16_t{0});
  access_.store(&device_->flags, spec::RING_EVENT_FLAGS_ENABLE);
  access_.store(&driver_->desc, uint16_t{0});
  suppress_interrupts();
}

template <typename Access>
void PackedDriverRing<Access>::write_desc(const Access& access, spec::pvirtq_desc* to,
                                          const DriverBuffer& buffer, uint16_t id,
                                          uint16_t flags) noexcept {
  // Two whole words, as a device may be looking at the flags of the next descriptor meanwhile.
  static_assert(sizeof *to == 2 * sizeof(uint64_t) && offsetof(spec::pvirtq_desc, len) == 8);
  access.store(&to->addr, buffer.addr);
  access.store(reinterpret_cast<uint64_t*>(&to->len),
               buffer.len | (uint64_t{id} << 32) | (uint64_t{flags} << 48));
}

/// Fills the next descriptor; the first since `publish` so that it is not available yet.
template <typename Access>
void PackedDriverRing<Access>::put_desc(const DriverBuffer& buffer, uint16_t id,
                                        uint16_t flags) noexcept {
  flags |= packed_avail_flags(next_.wrap);
  if (hidden_ == 0) {
    hide_flags_ = flags;
    flags = packed_used_flags(!next_.wrap);
  }
  write_desc(access_, &desc_[next_.index], buffer, id, flags);
  next_ = next_.advanced(1, size_);
  ++hidden_;
  --free_;
}

template <typename Access>
uint16_t PackedDriverRing<Access>::take_id() noexcept {
  return in_order_ ? next_.index : ids_[--free_ids_];
}

template <typename Access>
template <uint16_t kFlags, typename Fill>
size_t PackedDriverRing<Access>::add_singles(size_t count, Fill& fill) noexcept {
  const auto n = broken() ? 0 : static_cast<uint32_t>(std::min<size_t>(count, free_));
  if (n == 0) return 0;
  // Locals: a store to shared memory might change any member, as far as the compiler knows.
  const Access access = access_;
  const uint32_t size = size_;
  const bool in_order = in_order_;
  Slot* const slots = slots_.get();
  const uint16_t* ids = in_order ? nullptr : ids_.get() + free_ids_;
  spec::pvirtq_desc* const desc = desc_;
  PackedCursor at = next_;
  uint16_t avail = kFlags | packed_avail_flags(at.wrap);
  uint16_t flags = avail;
  if (hidden_ == 0) {
    hide_flags_ = avail;
    flags = packed_used_flags(!at.wrap);
  }
  for (uint32_t i = 0; i < n; ++i) {
    const uint16_t id = in_order ? at.index : *--ids;
    const DriverBuffer buffer = fill(size_t{i}, id);
    write_desc(access, &desc[at.index], buffer, id, flags);
    slots[id] = {kFlags == spec::VIRTQ_DESC_F_WRITE ? buffer.len : 0, 1, TableStack::kNone};
    at = at.advanced(1, size);
    if (at.index == 0) avail = kFlags | packed_avail_flags(at.wrap);
    flags = avail;
  }
  if (!in_order) free_ids_ -= n;
  next_ = at;
  hidden_ += n;
  hidden_chains_ = static_cast<uint16_t>(hidden_chains_ + n);
  free_ -= n;
  return n;
}

template <typename Access>
uint16_t PackedDriverRing<Access>::add(std::span<const DriverBuffer> out,
                                       std::span<const DriverBuffer> in) noexcept {
  const size_t count = out.size() + in.size();
  if (count == 0 || count > size() || !has_room(static_cast<uint32_t>(count))) return kNoChain;
  const std::optional<uint32_t> capacity = chain_capacity(out, in);
  if (!capacity) return kNoChain;
  const uint16_t id = take_id();
  ++hidden_chains_;
  if (tables_.fits(count)) {
    const uint16_t table = tables_.take();
    auto* const entries = tables_.template descriptors<spec::pvirtq_desc>(table);
    write_table(entries, out, 0);
    write_table(entries + out.size(), in, spec::VIRTQ_DESC_F_WRITE);
    put_desc({tables_.addr(table), static_cast<uint32_t>(count * sizeof(*entries))}, id,
             spec::VIRTQ_DESC_F_INDIRECT);
    slots_[id] = {*capacity, 1, table};
    return id;
  }
  slots_[id] = {*capacity, static_cast<uint16_t>(count), TableStack::kNone};
  for (size_t i = 0; i < count; ++i) {
    const bool write = i >= out.size();
    const uint16_t flags =
        (write ? spec::VIRTQ_DESC_F_WRITE : 0) | (i + 1 == count ? 0 : spec::VIRTQ_DESC_F_NEXT);
    put_desc(write ? in[i - out.size()] : out[i], id, flags);
  }
  return id;
}

/// 2.8.7: in a table descriptors follow each other, and have no flag but WRITE.
template <typename Access>
void PackedDriverRing<Access>::write_table(spec::pvirtq_desc* to,
                                           std::span<const DriverBuffer> buffers,
                                           uint16_t flags) noexcept {
  for (const DriverBuffer& buffer : buffers) write_desc(access_, to++, buffer, 0, flags);
}

template <typename Access>
bool PackedDriverRing<Access>::publish() noexcept {
  if (hidden_ == 0 || broken()) return false;
  const uint32_t count = hidden_;
  const uint32_t first = next_.index >= count ? next_.index - count : next_.index + size_ - count;
  hidden_ = 0;
  shown_chains_ = static_cast<uint16_t>(shown_chains_ + hidden_chains_);
  hidden_chains_ = 0;
  // Pairs with the device's acquire load of these flags: it sees the descriptor, all that follow
  // it, tables and buffers.
  access_.store_release(&desc_[first].flags, hide_flags_);
  // Pairs with the device's fence between asking for notifications and looking at the flags again:
  // either it sees them, or we see that it asks (2.8.21).
  access_.full_fence();
  return device_wants_kick(count);
}

/// 2.8.10: after the `count` descriptors in front of next_ were made available.
template <typename Access>
bool PackedDriverRing<Access>::device_wants_kick(uint32_t count) noexcept {
  // The device writes the place first, and then the flags that make it valid.
  const uint16_t flags = access_.load_acquire(&device_->flags) & kEventFlags;
  if (flags == spec::RING_EVENT_FLAGS_DISABLE) return false;
  if (flags != spec::RING_EVENT_FLAGS_DESC || !event_idx_) return true;
  const PackedCursor event = PackedCursor::from_wire(access_.load(&device_->desc));
  // As numbers that do not wrap with the ring; a place of the other lap lies behind us.
  const uint32_t place = event.index - (event.wrap == next_.wrap ? 0 : size_);
  return spec::vring_need_event(static_cast<uint16_t>(place), next_.index,
                                static_cast<uint16_t>(next_.index - count));
}

template <typename Access>
bool PackedDriverRing<Access>::is_used(PackedCursor at) const noexcept {
  // Pairs with the device's release store of these flags: id, length and buffers are written.
  const uint16_t flags = access_.load_acquire(&desc_[at.index].flags);
  return (flags & kPackedOwnerFlags) == packed_used_flags(at.wrap);
}

template <typename Access>
auto PackedDriverRing<Access>::read_used(PackedCursor at) const noexcept -> Used {
  // The descriptor's second word: len, id, flags.
  const auto word = access_.template snapshot<uint64_t>(&desc_[at.index].len);
  return {static_cast<uint32_t>(word), static_cast<uint16_t>(word >> 32)};
}

template <typename Access>
RingError PackedDriverRing<Access>::check_used(const Used& used) const noexcept {
  if (used.id >= size_) return RingError::used_range;
  if (slots_[used.id].length == 0) return RingError::used_not_outstanding;
  // 2.8.4 makes the length depend on WRITE in the used descriptor's flags, which not every device
  // sets (QEMU does not). So it always counts, unless nothing could be written at all.
  const uint32_t capacity = slots_[used.id].capacity;
  if (used.len > capacity && capacity != 0) return RingError::used_length;
  return RingError::none;
}

template <typename Access>
size_t PackedDriverRing<Access>::poll_used(UsedChain* out, size_t max) noexcept {
  if (broken()) return 0;
  return in_order_ ? poll_in_order(out, max) : poll_any_order(out, max);
}

template <typename Access>
size_t PackedDriverRing<Access>::poll_any_order(UsedChain* out, size_t max) noexcept {
  const size_t n = std::min<size_t>(shown_chains_, max);
  size_t done = 0;
  for (; done < n && is_used(used_); ++done) {
    const Used used = read_used(used_);
    error_ = check_used(used);
    if (broken()) break;
    const Slot& slot = slots_[used.id];
    out[done] = {used.id, std::min(used.len, slot.capacity)};
    used_ = used_.advanced(slot.length, size_);
    free_chain(used.id);
  }
  shown_chains_ = static_cast<uint16_t>(shown_chains_ - done);
  returned_ |= done != 0;
  return done;
}

/// The same when chains come back in the order in which they lie: a used descriptor stands for all
/// chains up to the one that it names.
template <typename Access>
size_t PackedDriverRing<Access>::poll_in_order(UsedChain* out, size_t max) noexcept {
  const size_t n = std::min<size_t>(shown_chains_, max);
  size_t done = 0;
  for (; done < n; ++done) {
    if (batch_end_ == kNoChain && !start_batch()) break;
    const uint16_t id = used_.index;
    const Slot& slot = slots_[id];
    const bool last = id == batch_end_;
    out[done] = {id, last ? batch_len_ : slot.capacity};
    if (last) batch_end_ = kNoChain;
    used_ = used_.advanced(slot.length, size_);
    free_chain(id);
  }
  shown_chains_ = static_cast<uint16_t>(shown_chains_ - done);
  return done;
}

/// Reads the used descriptor of the next batch, if there is one.
template <typename Access>
bool PackedDriverRing<Access>::start_batch() noexcept {
  if (!is_used(used_)) return false;
  const Used used = read_used(used_);
  error_ = check_used(used);
  if (broken()) return false;
  // Those that were shown begin at used_, too.
  if (ahead(used_, used.id) >= size_ - free_ - hidden_) {
    error_ = RingError::used_not_outstanding;
    return false;
  }
  batch_end_ = used.id;
  batch_len_ = std::min(used.len, slots_[used.id].capacity);
  return true;
}

template <typename Access>
std::optional<uint32_t> PackedDriverRing<Access>::base() const noexcept {
  PackedCursor at = used_;
  uint32_t left = size_ - free_ - hidden_;  // what was shown, from there on
  const auto skip = [&](uint16_t id) {
    const uint32_t count = ahead(at, id) + slots_[id].length;
    at = at.advanced(count, size_);
    left -= count;
  };
  if (batch_end_ != kNoChain) skip(batch_end_);
  if (returned_ || broken()) return std::nullopt;
  while (left != 0 && is_used(at)) {
    const Used used = read_used(at);
    if (!in_order_ || check_used(used) != RingError::none || ahead(at, used.id) >= left) {
      return std::nullopt;
    }
    skip(used.id);
  }
  // A device shows the first chain of a burst last: one that died before has written over others.
  for (PackedCursor rest = at; left != 0; --left, rest = rest.advanced(1, size_)) {
    const uint16_t flags = access_.load(&desc_[rest.index].flags) & kPackedOwnerFlags;
    if (flags != packed_avail_flags(rest.wrap)) return std::nullopt;
  }
  const uint32_t place = at.to_wire();
  return place | place << 16;
}

template <typename Access>
void PackedDriverRing<Access>::free_chain(uint16_t id) noexcept {
  Slot& slot = slots_[id];
  free_ += slot.length;
  slot.length = 0;
  if (!in_order_) ids_[free_ids_++] = id;
  if (slot.table != TableStack::kNone) [[unlikely]]
    tables_.give_back(slot.table);
}

template <typename Access>
void PackedDriverRing<Access>::suppress_interrupts() noexcept {
  access_.store(&driver_->flags, spec::RING_EVENT_FLAGS_DISABLE);
}

template <typename Access>
bool PackedDriverRing<Access>::arm_interrupts() noexcept {
  if (event_idx_) {
    access_.store(&driver_->desc, used_.to_wire());
    // The device reads the flags first: they must not be newer than the place that they mean.
    access_.store_release(&driver_->flags, spec::RING_EVENT_FLAGS_DESC);
  } else {
    access_.store(&driver_->flags, spec::RING_EVENT_FLAGS_ENABLE);
  }
  // Pairs with the device's fence between marking descriptors used and reading the event (2.8.22).
  access_.full_fence();
  return batch_end_ != kNoChain || (shown_chains_ != 0 && is_used(used_));
}

template <typename Access>
template <typename Release>
void PackedDriverRing<Access>::drain(Release&& release) noexcept {
  for (uint32_t id = 0; id < size_; ++id) {
    if (slots_[id].length == 0) continue;
    release(static_cast<uint16_t>(id));
    free_chain(static_cast<uint16_t>(id));
  }
  used_ = next_;
  hidden_ = 0;
  hidden_chains_ = shown_chains_ = 0;
  batch_end_ = kNoChain;
}

}  // namespace pollux::ring
