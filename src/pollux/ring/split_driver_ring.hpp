// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "pollux/mem/shared_access.hpp"
#include "pollux/ring/driver_ring.hpp"
#include "pollux/ring/ring_error.hpp"
#include "pollux/ring/split_layout.hpp"
#include "pollux/spec/virtio_ring.hpp"

namespace pollux::ring {

/// The driver side of a split virtqueue; VIRTIO 1.3, section 2.7. Knows buffers, not packets.
///
///     add, add, ... -> publish -> kick?        avail:  driver writes, device reads
///     poll_used                                used:   device writes, driver reads
///
/// All bookkeeping (free descriptors, lengths of chains, indices) is private: nothing that was
/// written to shared memory is ever read back, so whatever a hostile device writes there, the
/// worst is a ring that is `broken` with a reason; it then takes and returns nothing more.
///
/// Free descriptors are handed out first in, first out. A device that returns chains in order then
/// meets each descriptor at its own place in the available ring, whose entries need not be
/// written again: those cache lines stay shared between both CPUs. With VIRTIO_F_IN_ORDER it makes
/// descriptors follow each other in the order of the table, as 2.7.5.2 demands.
///
/// Not thread-safe; one thread at a time. No allocation after construction.
template <typename Access = SharedAccess>
class SplitDriverRing {
 public:
  /// Takes a laid-out queue of a valid size that no device uses yet, and writes its initial state
  /// (indices 0, notifications wanted, interrupts suppressed).
  explicit SplitDriverRing(const SplitLayout& layout, const DriverRingOptions& options = {},
                           Access access = {});

  [[nodiscard]] uint32_t size() const noexcept { return mask_ + 1; }
  [[nodiscard]] const Access& access() const noexcept { return access_; }
  /// Descriptors that are in no chain.
  [[nodiscard]] uint32_t free_descriptors() const noexcept { return free_tail_ - free_head_; }
  /// Chains that were published and not yet returned by poll_used.
  [[nodiscard]] uint16_t outstanding() const noexcept {
    return static_cast<uint16_t>(published_ - last_used_);
  }
  /// True when `add` takes a chain of `buffers` elements now.
  [[nodiscard]] bool has_room(uint32_t buffers) const noexcept {
    return !broken() &&
           (buffers <= free_descriptors() || (tables_.fits(buffers) && free_descriptors() != 0));
  }
  /// Longest chain that this ring can ever carry (2.7.5.3.1: never above the queue size).
  [[nodiscard]] uint32_t max_chain() const noexcept { return size(); }

  /// Why the ring takes and returns nothing more, or none.
  [[nodiscard]] RingError error() const noexcept { return error_; }
  [[nodiscard]] bool broken() const noexcept { return error_ != RingError::none; }
  /// Breaks the ring for a reason that its user found out.
  void fail(RingError error) noexcept { error_ = error; }

  /// Adds one chain: device-readable elements first, then device-writable ones (2.7.4.2). More
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

  /// Shows everything added to the device (2.7.13). True when the device is to be notified.
  [[nodiscard]] bool publish() noexcept;

  /// Takes up to `max` returned chains (2.7.14), in the device's order; their descriptors are free
  /// again. What is read is checked in a private copy; the first lie breaks the ring.
  size_t poll_used(UsedChain* out, size_t max) noexcept;

  /// Brings what `poll_used` will read into the cache.
  void prefetch_used() const noexcept { access_.prefetch_read(&used_->ring[last_used_ & mask_]); }

  /// What SET_VRING_BASE tells a device that takes the ring over from one that has gone: the first
  /// chain that was not returned. Devices that return chains in order go on there. An index that
  /// returns more than is out is a lie, and counts for nothing.
  [[nodiscard]] uint32_t base() const noexcept {
    const uint16_t used = access_.load_acquire(&used_->idx);
    return static_cast<uint16_t>(used - last_used_) <= outstanding() ? used : last_used_;
  }

  /// Asks the device not to interrupt (2.7.7); the state after construction. With event index this
  /// holds for the next 65535 chains only: then one interrupt may come, which is harmless.
  void suppress_interrupts() noexcept;

  /// Asks for an interrupt at the next used chain. True when one is there already: the caller
  /// polls instead of sleeping.
  [[nodiscard]] bool arm_interrupts() noexcept;

  /// Ends the ring: calls `release(id)` for each chain that was added and never returned, and
  /// leaves the ring empty. The device must be gone or reset.
  template <typename Release>
  void drain(Release&& release) noexcept;

 private:
  /// What is known of a descriptor. One word, so that the common chain costs one load.
  struct Slot {
    uint32_t capacity = 0;  // device-writable bytes of the chain that starts here
    uint16_t length = 0;    // descriptors of that chain; 0: none starts here
    uint16_t next = 0;      // next descriptor of the chain; if it has but one: its table, or kNone
  };

  template <uint16_t kFlags, typename Fill>
  size_t add_singles(size_t count, Fill& fill) noexcept;
  void write_desc(spec::virtq_desc* to, const DriverBuffer& buffer, uint16_t flags,
                  uint16_t next) noexcept;
  void put_avail(uint16_t index, uint16_t id) noexcept;
  uint16_t add_direct(std::span<const DriverBuffer> out, std::span<const DriverBuffer> in,
                      uint32_t capacity) noexcept;
  uint16_t add_indirect(std::span<const DriverBuffer> out, std::span<const DriverBuffer> in,
                        uint32_t capacity) noexcept;
  [[nodiscard]] bool device_wants_kick(uint16_t old_idx) noexcept;
  size_t poll_any_order(UsedChain* out, size_t max) noexcept;
  size_t poll_in_order(UsedChain* out, size_t max) noexcept;
  [[nodiscard]] uint16_t pending_used() noexcept;
  [[nodiscard]] uint64_t read_used(uint16_t index) noexcept;
  [[nodiscard]] bool start_batch(uint16_t pending) noexcept;
  [[nodiscard]] RingError check_used(uint32_t id, uint32_t len) const noexcept;
  void free_chain(uint16_t id) noexcept;
  void free_rest(const Slot& first) noexcept;

  // Hot: what every call touches, in few lines.
  spec::virtq_desc* desc_;
  spec::virtq_avail* avail_;
  spec::virtq_used* used_;
  uint32_t mask_;
  uint32_t free_head_ = 0;  // free-running; free_tail_ - free_head_ descriptors are free
  uint32_t free_tail_ = 0;
  uint16_t next_avail_ = 0;  // index of the next chain to be added ...
  uint16_t published_ = 0;   // ... and what of it the device was shown
  uint16_t last_used_ = 0;
  bool event_idx_;
  bool in_order_;
  uint16_t batch_left_ = 0;  // in order: chains of the current batch that were not taken yet
  uint32_t batch_len_ = 0;   // ... and what was written to its last
  RingError error_ = RingError::none;
  std::unique_ptr<Slot[]> slots_;
  std::unique_ptr<uint16_t[]> free_;        // ring of free descriptors
  std::unique_ptr<uint16_t[]> avail_copy_;  // what the available ring's entries hold
  uint16_t* used_event_;
  uint16_t* avail_event_;
  [[no_unique_address]] Access access_;

  TableStack tables_;
};

template <typename Access>
SplitDriverRing<Access>::SplitDriverRing(const SplitLayout& layout,
                                         const DriverRingOptions& options, Access access)
    : desc_(layout.desc),
      avail_(layout.avail),
      used_(layout.used),
      mask_(layout.size - 1),
      free_tail_(layout.size),
      event_idx_(options.event_idx),
      in_order_(options.in_order),
      slots_(std::make_unique<Slot[]>(layout.size)),
      free_(std::make_unique<uint16_t[]>(layout.size)),
      avail_copy_(std::make_unique<uint16_t[]>(layout.size)),
      used_event_(layout.used_event()),
      avail_event_(layout.avail_event()),
      access_(access),
      tables_(options.indirect) {
  for (uint32_t i = 0; i < layout.size; ++i) {
    free_[i] = static_cast<uint16_t>(i);
    avail_copy_[i] = kNoChain;
  }
  access_.store(&avail_->idx, uint16_t{0});
  access_.store(&used_->idx, uint16_t{0});
  // 2.7.10.1: the driver clears the device's flags when it makes the ring.
  access_.store(&used_->flags, uint16_t{0});
  access_.store(avail_event_, uint16_t{0});
  suppress_interrupts();
}

template <typename Access>
void SplitDriverRing<Access>::write_desc(spec::virtq_desc* to, const DriverBuffer& buffer,
                                         uint16_t flags, uint16_t next) noexcept {
  // Two whole words: built from the fields it would be a load that the stores can not forward to.
  const std::array<uint64_t, 2> words{
      buffer.addr, buffer.len | (uint64_t{flags} << 32) | (uint64_t{next} << 48)};
  static_assert(sizeof words == sizeof *to);
  access_.copy_out(to, words.data(), sizeof words);
}

template <typename Access>
void SplitDriverRing<Access>::put_avail(uint16_t index, uint16_t id) noexcept {
  const uint32_t slot = index & mask_;
  if (avail_copy_[slot] == id) return;
  avail_copy_[slot] = id;
  access_.store(&avail_->ring[slot], id);
}

template <typename Access>
template <uint16_t kFlags, typename Fill>
size_t SplitDriverRing<Access>::add_singles(size_t count, Fill& fill) noexcept {
  if (broken()) return 0;
  const auto n = static_cast<uint32_t>(std::min<size_t>(count, free_descriptors()));
  // Locals: a store to shared memory might change any member, as far as the compiler knows.
  const uint32_t mask = mask_;
  const uint32_t head = free_head_;
  const uint16_t first = next_avail_;
  const uint16_t* const free = free_.get();
  Slot* const slots = slots_.get();
  spec::virtq_desc* const desc = desc_;
  for (uint32_t i = 0; i < n; ++i) {
    const uint16_t id = free[(head + i) & mask];
    const DriverBuffer buffer = fill(size_t{i}, id);
    write_desc(&desc[id], buffer, kFlags, 0);
    slots[id] = {kFlags == spec::VIRTQ_DESC_F_WRITE ? buffer.len : 0, 1, TableStack::kNone};
    put_avail(static_cast<uint16_t>(first + i), id);
  }
  free_head_ = head + n;
  next_avail_ = static_cast<uint16_t>(first + n);
  return n;
}

template <typename Access>
uint16_t SplitDriverRing<Access>::add(std::span<const DriverBuffer> out,
                                      std::span<const DriverBuffer> in) noexcept {
  const size_t count = out.size() + in.size();
  if (count == 0 || count > size() || !has_room(static_cast<uint32_t>(count))) return kNoChain;
  const std::optional<uint32_t> capacity = chain_capacity(out, in);
  if (!capacity) return kNoChain;
  const uint16_t id =
      tables_.fits(count) ? add_indirect(out, in, *capacity) : add_direct(out, in, *capacity);
  put_avail(next_avail_++, id);
  return id;
}

template <typename Access>
uint16_t SplitDriverRing<Access>::add_direct(std::span<const DriverBuffer> out,
                                             std::span<const DriverBuffer> in,
                                             uint32_t capacity) noexcept {
  const size_t count = out.size() + in.size();
  const uint16_t head = free_[free_head_ & mask_];
  for (size_t i = 0; i < count; ++i) {
    const uint16_t id = free_[free_head_ & mask_];
    ++free_head_;
    const bool last = i + 1 == count;
    const uint16_t next = last ? uint16_t{0} : free_[free_head_ & mask_];
    const bool write = i >= out.size();
    const uint16_t flags =
        (write ? spec::VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : spec::VIRTQ_DESC_F_NEXT);
    write_desc(&desc_[id], write ? in[i - out.size()] : out[i], flags, next);
    slots_[id] = {0, 0, next};
  }
  slots_[head].capacity = capacity;
  slots_[head].length = static_cast<uint16_t>(count);
  if (count == 1) slots_[head].next = TableStack::kNone;
  return head;
}

template <typename Access>
uint16_t SplitDriverRing<Access>::add_indirect(std::span<const DriverBuffer> out,
                                               std::span<const DriverBuffer> in,
                                               uint32_t capacity) noexcept {
  const size_t count = out.size() + in.size();
  const uint16_t table = tables_.take();
  auto* entries = tables_.template descriptors<spec::virtq_desc>(table);
  for (size_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    const bool write = i >= out.size();
    const uint16_t flags =
        (write ? spec::VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : spec::VIRTQ_DESC_F_NEXT);
    write_desc(&entries[i], write ? in[i - out.size()] : out[i], flags,
               last ? uint16_t{0} : static_cast<uint16_t>(i + 1));
  }
  const uint16_t head = free_[free_head_++ & mask_];
  write_desc(&desc_[head], {tables_.addr(table), static_cast<uint32_t>(count * sizeof(*entries))},
             spec::VIRTQ_DESC_F_INDIRECT, 0);
  slots_[head] = {capacity, 1, table};
  return head;
}

template <typename Access>
bool SplitDriverRing<Access>::publish() noexcept {
  if (next_avail_ == published_ || broken()) return false;
  const uint16_t old_idx = published_;
  published_ = next_avail_;
  // Pairs with the device's acquire load of avail.idx: it sees descriptors, tables and entries.
  access_.store_release(&avail_->idx, published_);
  // Pairs with the device's fence between asking for notifications and looking at avail.idx again:
  // either it sees the new index, or we see that it asks (2.7.13.4.1).
  access_.full_fence();
  return device_wants_kick(old_idx);
}

template <typename Access>
bool SplitDriverRing<Access>::device_wants_kick(uint16_t old_idx) noexcept {
  if (event_idx_) {
    return spec::vring_need_event(access_.load(avail_event_), published_, old_idx);
  }
  return (access_.load(&used_->flags) & spec::VIRTQ_USED_F_NO_NOTIFY) == 0;
}

template <typename Access>
RingError SplitDriverRing<Access>::check_used(uint32_t id, uint32_t len) const noexcept {
  if (id > mask_) return RingError::used_range;
  if (slots_[id].length == 0) return RingError::used_not_outstanding;
  // 2.7.8.1: devices have long put anything there for chains that they only read.
  if (len > slots_[id].capacity && slots_[id].capacity != 0) return RingError::used_length;
  return RingError::none;
}

template <typename Access>
size_t SplitDriverRing<Access>::poll_used(UsedChain* out, size_t max) noexcept {
  if (broken()) return 0;
  return in_order_ ? poll_in_order(out, max) : poll_any_order(out, max);
}

template <typename Access>
uint16_t SplitDriverRing<Access>::pending_used() noexcept {
  // Pairs with the device's release store of used.idx: entries and buffers are written.
  const uint16_t idx = access_.load_acquire(&used_->idx);
  const auto pending = static_cast<uint16_t>(idx - last_used_);
  if (pending <= outstanding()) return pending;
  error_ = RingError::used_jump;
  return 0;
}

/// A whole virtq_used_elem: id in the lower half, len in the upper.
template <typename Access>
uint64_t SplitDriverRing<Access>::read_used(uint16_t index) noexcept {
  static_assert(sizeof(uint64_t) == sizeof(spec::virtq_used_elem));
  return access_.template snapshot<uint64_t>(&used_->ring[index & mask_]);
}

template <typename Access>
size_t SplitDriverRing<Access>::poll_any_order(UsedChain* out, size_t max) noexcept {
  const size_t n = std::min<size_t>(pending_used(), max);
  size_t done = 0;
  for (; done < n; ++done) {
    const uint64_t element = read_used(static_cast<uint16_t>(last_used_ + done));
    const auto id = static_cast<uint32_t>(element);
    const auto len = static_cast<uint32_t>(element >> 32);
    error_ = check_used(id, len);
    if (broken()) break;
    out[done] = {static_cast<uint16_t>(id), std::min(len, slots_[id].capacity)};
    free_chain(static_cast<uint16_t>(id));
  }
  last_used_ = static_cast<uint16_t>(last_used_ + done);
  return done;
}

/// The same when chains come back in the order of the available ring, of which avail_copy_ has our
/// own record: an entry stands for all chains up to the one that it names.
template <typename Access>
size_t SplitDriverRing<Access>::poll_in_order(UsedChain* out, size_t max) noexcept {
  const uint16_t pending = pending_used();
  const size_t n = std::min<size_t>(pending, max);
  size_t done = 0;
  for (; done < n; ++done) {
    if (batch_left_ == 0 && !start_batch(static_cast<uint16_t>(pending - done))) break;
    const uint16_t id = avail_copy_[last_used_ & mask_];
    out[done] = {id, --batch_left_ == 0 ? batch_len_ : slots_[id].capacity};
    free_chain(id);
    ++last_used_;
  }
  return done;
}

/// Reads the entry of the next batch, and finds how many of the `pending` chains it stands for.
template <typename Access>
bool SplitDriverRing<Access>::start_batch(uint16_t pending) noexcept {
  const uint64_t element = read_used(last_used_);
  const auto id = static_cast<uint32_t>(element);
  const auto len = static_cast<uint32_t>(element >> 32);
  error_ = check_used(id, len);
  if (broken()) return false;
  uint16_t before = 0;
  while (before < pending && avail_copy_[(last_used_ + before) & mask_] != id) ++before;
  if (before == pending) {
    error_ = RingError::used_not_outstanding;
    return false;
  }
  batch_left_ = static_cast<uint16_t>(before + 1);
  batch_len_ = std::min(len, slots_[id].capacity);
  return true;
}

template <typename Access>
void SplitDriverRing<Access>::free_chain(uint16_t id) noexcept {
  const Slot slot = slots_[id];
  slots_[id].length = 0;
  free_[free_tail_++ & mask_] = id;
  if (slot.length == 1 && slot.next == TableStack::kNone) [[likely]]
    return;
  free_rest(slot);
}

template <typename Access>
void SplitDriverRing<Access>::free_rest(const Slot& first) noexcept {
  if (first.length == 1) {
    tables_.give_back(first.next);
    return;
  }
  uint16_t id = first.next;
  for (uint16_t i = 1; i < first.length; ++i) {
    free_[free_tail_++ & mask_] = id;
    id = slots_[id].next;
  }
}

template <typename Access>
void SplitDriverRing<Access>::suppress_interrupts() noexcept {
  // 2.7.7.1: with event index the flags stay 0, and an event that has just passed is the furthest.
  access_.store(&avail_->flags, event_idx_ ? uint16_t{0} : spec::VIRTQ_AVAIL_F_NO_INTERRUPT);
  access_.store(used_event_, static_cast<uint16_t>(last_used_ - 1));
}

template <typename Access>
bool SplitDriverRing<Access>::arm_interrupts() noexcept {
  access_.store(&avail_->flags, uint16_t{0});
  access_.store(used_event_, last_used_);
  // Pairs with the device's fence between publishing used.idx and reading the event (2.7.14).
  access_.full_fence();
  return access_.load_acquire(&used_->idx) != last_used_;
}

template <typename Access>
template <typename Release>
void SplitDriverRing<Access>::drain(Release&& release) noexcept {
  for (uint32_t id = 0; id <= mask_; ++id) {
    if (slots_[id].length == 0) continue;
    release(static_cast<uint16_t>(id));
    free_chain(static_cast<uint16_t>(id));
  }
  last_used_ = published_ = next_avail_;
  batch_left_ = 0;
}

}  // namespace pollux::ring
