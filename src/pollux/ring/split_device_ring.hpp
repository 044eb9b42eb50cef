// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "pollux/mem/peer_memory.hpp"
#include "pollux/mem/shared_access.hpp"
#include "pollux/ring/device_chain.hpp"
#include "pollux/ring/ring_error.hpp"
#include "pollux/ring/split_layout.hpp"

namespace pollux::ring {

/// How a device ring starts; all plain values, so that a queue can be saved and resumed.
struct SplitDeviceConfig {
  SplitLayout layout;
  uint16_t next_avail = 0;  ///< first available entry not yet taken; also the used index
  bool indirect = false;    ///< VIRTIO_F_INDIRECT_DESC negotiated
  bool event_idx = false;   ///< VIRTIO_F_EVENT_IDX negotiated
};

/// The device side of a split virtqueue (VIRTIO 1.3, section 2.7): takes chains that the driver
/// made available, and returns them as used.
///
/// The driver may write any part of the ring at any time. Hence each index, head and descriptor is
/// loaded once, into private memory, and what is used is the checked copy. A walk along a chain is
/// bounded by the queue's size.
///
/// Three cursors move along the ring: `available()` looks how far the driver is; `take()` moves
/// past chains that were read or written; `put_used()` fills used entries that `publish()` then
/// shows. Chains are returned in the order in which they were taken. One thread at a time.
template <typename Access = SharedAccess, UsedEntries kUsed = UsedEntries::kEach>
class SplitDeviceRing {
 public:
  using Config = SplitDeviceConfig;

  explicit SplitDeviceRing(const SplitDeviceConfig& config, PeerView view, Access access = {})
      : access_(access),
        layout_(config.layout),
        mask_(static_cast<uint16_t>(config.layout.size - 1)),
        indirect_(config.indirect),
        event_idx_(config.event_idx),
        next_avail_(config.next_avail),
        avail_idx_(config.next_avail),
        next_used_(config.next_avail),
        published_used_(config.next_avail),
        asked_used_(config.next_avail),
        view_(view) {}

  [[nodiscard]] RingError error() const noexcept { return error_; }
  [[nodiscard]] Access& access() noexcept { return access_; }
  [[nodiscard]] PeerView& view() noexcept { return view_; }
  [[nodiscard]] uint32_t size() const noexcept { return layout_.size; }

  /// First available entry that was not taken: what GET_VRING_BASE reports.
  [[nodiscard]] uint16_t next_avail() const noexcept { return next_avail_; }

  /// How many chains can be taken. Looks at the driver's index only when fewer than `wanted` are
  /// known already. 0 on a broken ring. Breaks the ring when the index went back, or when more
  /// chains are out, returned ones not counted, than the queue has entries.
  [[nodiscard]] uint32_t available(uint32_t wanted) noexcept {
    if (error_ != RingError::none) return 0;
    const auto before = static_cast<uint16_t>(avail_idx_ - next_avail_);
    if (before >= wanted) return before;
    // Pairs with the driver's release store of the index (2.7.13.3): entries and descriptors that
    // it covers are visible after this.
    const uint16_t idx = access_.load_acquire(&layout_.avail->idx);
    const auto known = static_cast<uint16_t>(idx - next_avail_);
    const auto out = static_cast<uint16_t>(idx - published_used_);
    // Chains that were known may have been looked at already: none is taken back.
    if (known < before || known > layout_.size || out > layout_.size) {
      fail(RingError::avail_jump);
      return 0;
    }
    avail_idx_ = idx;
    return known;
  }

  /// The head of the chain `ahead` entries after the next one to take (ahead < available()).
  /// False, and the ring broken, when the driver wrote a head beyond the queue.
  [[nodiscard]] bool head(uint32_t ahead, uint16_t& out) noexcept {
    return heads(ahead, 1, &out) == 1;
  }

  /// The heads of `count` chains at once, and their descriptors on their way. Returns how many are
  /// good: all before one beyond the queue, which breaks the ring.
  [[nodiscard]] uint32_t heads(uint32_t ahead, uint32_t count, uint16_t* out) noexcept {
    const uint32_t first = (next_avail_ + ahead) & mask_;
    const uint32_t run = std::min(count, layout_.size - first);
    access_.copy_in(out, &layout_.avail->ring[first], run * sizeof *out);
    if (run != count) access_.copy_in(out + run, layout_.avail->ring, (count - run) * sizeof *out);
    const spec::virtq_desc* const desc = layout_.desc;
    uint16_t largest = 0;
    for (uint32_t i = 0; i < count; ++i) largest = std::max(largest, out[i]);
    if (largest >= layout_.size) [[unlikely]]
      return heads_before_fault(out, count);
    for (uint32_t i = 0; i < count; ++i) access_.prefetch_read(&desc[out[i]]);
    return count;
  }

  /// The common chain, if it is one.
  [[nodiscard]] SingleRun single(uint16_t head, MemoryAccess want) noexcept {
    const spec::virtq_desc desc = read(&layout_.desc[head]);
    return single_run(view_, desc.addr, desc.len, desc.flags, want);
  }

  /// The same of `count` chains, and their first bytes on their way. True when all are common ones.
  bool singles(const uint16_t* heads, uint32_t count, MemoryAccess want, SingleRun* out) noexcept {
    const spec::virtq_desc* const desc = layout_.desc;
    return find_singles(view_, access_, count, want, out,
                        [&](uint32_t i) { return read(&desc[heads[i]]); });
  }

  /// Walks the chain at `head`, all of whose descriptors must be for `want`, and calls
  /// `visit(std::byte* data, uint32_t len) -> bool` for each contiguous piece, in order, at least
  /// one byte long; false ends the walk. A descriptor that crosses from one region into an adjacent
  /// one gives several pieces.
  template <typename Visit>
  ChainStatus walk(uint16_t head, MemoryAccess want, Visit&& visit) noexcept {
    OneWay way{want};
    return walk_as(head, way, visit);
  }

  /// The same for a chain with bytes to read and then room to write (2.7.4.2): `visit` is also
  /// told which a piece is for.
  template <typename Visit>
  ChainStatus walk_both(uint16_t head, Visit&& visit) noexcept {
    BothWays way;
    const auto with_way = [&](std::byte* data, uint32_t len) { return visit(data, len, way.want); };
    return walk_as(head, way, with_way);
  }

  /// Descriptors that walks have read so far (wraps): what they cost.
  [[nodiscard]] uint32_t walked() const noexcept { return walked_; }

  /// Moves past `count` chains, which the caller will return with put_used.
  void take(uint32_t count) noexcept { next_avail_ = static_cast<uint16_t>(next_avail_ + count); }

  /// Fills the next used entry (2.7.8): the chain at `head` was used, `written` bytes were written
  /// to it. Not visible before publish().
  void put_used(uint16_t head, uint32_t written) noexcept { put_used(&head, &written, 1); }

  /// The same for `count` chains at once.
  void put_used(const uint16_t* heads, const uint32_t* written, uint32_t count) noexcept {
    if (count == 0) return;
    if constexpr (kUsed == UsedEntries::kOneForMany) {
      last_head_ = heads[count - 1];
    } else {
      const uint32_t first = next_used_ & mask_;
      const uint32_t run = std::min(count, layout_.size - first);
      write_used(&layout_.used->ring[first], heads, written, run);
      if (run != count) write_used(layout_.used->ring, heads + run, written + run, count - run);
    }
    next_used_ = static_cast<uint16_t>(next_used_ + count);
  }

  /// True when something was put and not published.
  [[nodiscard]] bool unpublished() const noexcept { return next_used_ != published_used_; }

  /// Where the next used entry goes (wraps).
  [[nodiscard]] uint16_t filled() const noexcept { return next_used_; }

  /// Shows the used entries before `until` to the driver; `until` lies between what was shown and
  /// filled(), and with kOneForMany is filled(). False when there are none. Behind the next full
  /// fence notification_wanted() tells whether to notify the driver.
  [[nodiscard]] bool show(uint16_t until) noexcept {
    const uint16_t old = published_used_;
    if (until == old) return false;
    if constexpr (kUsed == UsedEntries::kOneForMany) {
      put_one_for_many();
    } else {
      note_used(old, static_cast<uint16_t>(until - old));
    }
    published_used_ = until;
    // Release: whoever acquires this index sees the entries and the bytes written to the chains.
    access_.store_release(&layout_.used->idx, until);
    view_.note_ring_write(&layout_.used->idx, sizeof(uint16_t));
    return true;
  }

  /// Whether the driver wants to be notified of what was shown since this was asked last. 2.7.7.2,
  /// 2.7.10: the index must be out before the driver's wish is read, else both sides could wait for
  /// each other; hence the full fence between show() and this.
  [[nodiscard]] bool notification_wanted() noexcept {
    const uint16_t old = std::exchange(asked_used_, published_used_);
    if (event_idx_) {
      const uint16_t event = access_.load(layout_.used_event());
      return spec::vring_need_event(event, published_used_, old);
    }
    const uint16_t flags = access_.load(&layout_.avail->flags);
    return (flags & spec::VIRTQ_AVAIL_F_NO_INTERRUPT) == 0;
  }

  /// show(), and true when the driver wants to be notified of it.
  [[nodiscard]] bool publish(uint16_t until) noexcept {
    if (!show(until)) return false;
    access_.full_fence();
    return notification_wanted();
  }
  [[nodiscard]] bool publish() noexcept { return publish(next_used_); }

  /// Asks for the cache lines that available() and then heads() will read.
  void prefetch_available() const noexcept {
    access_.prefetch_read(&layout_.avail->idx);
    access_.prefetch_read(&layout_.avail->ring[next_avail_ & mask_]);
  }

  /// Asks the driver to notify us when it makes the next chain available (2.7.10). True when chains
  /// are there already, of which it will not tell.
  [[nodiscard]] bool request_notifications() noexcept {
    access_.store(&layout_.used->flags, uint16_t{0});
    view_.note_ring_write(&layout_.used->flags, sizeof(uint16_t));
    if (event_idx_) {
      access_.store(layout_.avail_event(), avail_idx_);
      view_.note_ring_write(layout_.avail_event(), sizeof(uint16_t));
    }
    // 2.7.10: the wish must be out before the driver's index is read, else both sides could wait
    // for each other.
    access_.full_fence();
    return available(1) != 0;
  }

  /// Asks the driver not to notify us of new chains, since we poll (2.7.10). With EVENT_IDX there
  /// is no off switch, and flags must be 0: an event index half of all numbers away is as good.
  void suppress_notifications() noexcept {
    access_.store(&layout_.used->flags, event_idx_ ? uint16_t{0} : spec::VIRTQ_USED_F_NO_NOTIFY);
    view_.note_ring_write(&layout_.used->flags, sizeof(uint16_t));
    if (!event_idx_) return;
    access_.store(layout_.avail_event(), static_cast<uint16_t>(next_avail_ + 0x8000));
    view_.note_ring_write(layout_.avail_event(), sizeof(uint16_t));
  }

  /// Marks the ring broken; it gives no more chains.
  void fail(RingError error) noexcept { error_ = error; }

 private:
  [[gnu::cold, gnu::noinline]] uint32_t heads_before_fault(const uint16_t* heads,
                                                           uint32_t count) noexcept {
    fail(RingError::head_range);
    const auto* bad =
        std::find_if(heads, heads + count, [&](uint16_t head) { return head >= layout_.size; });
    return static_cast<uint32_t>(bad - heads);
  }

  void write_used(spec::virtq_used_elem* to, const uint16_t* heads, const uint32_t* written,
                  uint32_t count) noexcept {
    for (uint32_t i = 0; i < count; ++i) {
      const spec::virtq_used_elem elem{heads[i], written[i]};
      access_.copy_out(to + i, &elem, sizeof elem);
    }
  }

  template <typename Way, typename Visit>
  ChainStatus walk_as(uint16_t head, Way& way, Visit& visit) noexcept {
    return follow(head, [&](const spec::virtq_desc& desc) {
      if (!way.takes(desc.flags)) return ChainStatus::kBadDescriptor;
      return visit_pieces(view_, desc.addr, desc.len, way.want, visit);
    });
  }

  /// Calls `visit` for each descriptor of a chain, indirect ones included.
  template <typename Visit>
  ChainStatus follow(uint16_t head, Visit&& visit) noexcept {
    const spec::virtq_desc* table = layout_.desc;
    uint32_t entries = layout_.size;
    uint32_t budget = std::min(entries, kMaxChain);  // 2.7.5.3.1: none is longer than the queue
    uint32_t index = head;
    bool in_indirect = false;
    while (budget-- != 0) {
      ++walked_;
      const spec::virtq_desc desc = read(&table[index]);
      if ((desc.flags & spec::VIRTQ_DESC_F_INDIRECT) != 0) {
        // 2.7.5.3: no table within a table, none that goes on.
        if (!indirect_ || in_indirect || (desc.flags & spec::VIRTQ_DESC_F_NEXT) != 0) {
          return ChainStatus::kBadDescriptor;
        }
        const IndirectTable found = find_indirect_table(view_, desc.addr, desc.len);
        if (found.status != ChainStatus::kOk) return found.status;
        table = reinterpret_cast<const spec::virtq_desc*>(found.data);
        entries = found.entries;
        budget = std::min(entries, kMaxChain);  // drivers of tiny queues have longer tables
        index = 0;
        in_indirect = true;
        continue;
      }
      const ChainStatus status = visit(desc);
      if (status != ChainStatus::kOk) return status;
      if ((desc.flags & spec::VIRTQ_DESC_F_NEXT) == 0) return ChainStatus::kOk;
      index = desc.next;
      if (index >= entries) return ChainStatus::kBadDescriptor;
    }
    return ChainStatus::kBadDescriptor;  // a loop, or too long
  }

  spec::virtq_desc read(const spec::virtq_desc* from) noexcept {
    return access_.template snapshot<spec::virtq_desc>(from);
  }

  /// 2.7.9: at the place of the first chain, with the head of the last.
  void put_one_for_many() noexcept {
    const spec::virtq_used_elem elem{last_head_, 0};
    access_.copy_out(&layout_.used->ring[published_used_ & mask_], &elem, sizeof elem);
    note_used(published_used_, 1);
  }

  void note_used(uint16_t from, uint16_t count) noexcept {
    if (count == 0) return;
    const uint16_t first = from & mask_;
    const auto run = static_cast<uint16_t>(std::min<uint32_t>(count, layout_.size - first));
    view_.note_ring_write(&layout_.used->ring[first], run * sizeof(spec::virtq_used_elem));
    view_.note_ring_write(&layout_.used->ring[0], (count - run) * sizeof(spec::virtq_used_elem));
  }

  [[no_unique_address]] Access access_;
  SplitLayout layout_;
  uint16_t mask_;
  bool indirect_;
  bool event_idx_;
  RingError error_ = RingError::none;
  uint16_t next_avail_;      // first entry not taken
  uint16_t avail_idx_;       // the driver's index as last seen
  uint16_t next_used_;       // where the next used entry goes
  uint16_t published_used_;  // what the driver has been shown
  uint16_t asked_used_;      // and of what it was asked whether it wants to know
  uint16_t last_head_ = 0;   // of the chain put last; for kOneForMany only
  uint32_t walked_ = 0;
  PeerView view_;
};

}  // namespace pollux::ring
