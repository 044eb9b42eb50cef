// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "pollux/mem/peer_memory.hpp"
#include "pollux/mem/shared_access.hpp"
#include "pollux/ring/device_chain.hpp"
#include "pollux/ring/packed_inflight.hpp"
#include "pollux/ring/packed_journal.hpp"
#include "pollux/ring/packed_layout.hpp"
#include "pollux/ring/ring_error.hpp"

namespace pollux::ring {

/// How a device ring starts; all plain values, so that a queue can be saved and resumed.
struct PackedDeviceConfig {
  PackedLayout layout;
  PackedCursor next;        ///< first descriptor not yet taken; also where the next used one goes
  bool indirect = false;    ///< VIRTIO_F_INDIRECT_DESC negotiated
  bool event_idx = false;   ///< VIRTIO_F_EVENT_IDX negotiated
  PackedJournal journal{};  ///< to be kept as long as the ring; empty: memory of the ring's own
};

/// The device side of a packed virtqueue (VIRTIO 1.3, section 2.8): takes chains that the driver
/// made available, and returns them as used. The interface is that of SplitDeviceRing; a "head"
/// names a chain until it is returned, and means nothing to the driver.
///
/// The driver may write any part of the ring at any time. Each descriptor is loaded once, into
/// private memory, by `available()`: where a chain ends is known only from its descriptors. What
/// is used later is that copy. Indirect tables alone are read by `walk`.
///
/// Used descriptors are collected in private memory too: `publish()` writes them all, the flags of
/// the first one last, so that the driver sees all or none (2.8.9), and its polling of that one
/// place does not fight with us over the others. One thread at a time.
template <typename Access = SharedAccess, UsedEntries kUsed = UsedEntries::kEach>
class PackedDeviceRing {
 public:
  using Config = PackedDeviceConfig;

  explicit PackedDeviceRing(const PackedDeviceConfig& config, PeerView view, Access access = {})
      : access_(access),
        layout_(config.layout),
        mask_(std::bit_ceil(config.layout.size) - 1),
        indirect_(config.indirect),
        event_idx_(config.event_idx),
        own_(config.journal.batch == nullptr ? std::make_unique<Own>(mask_ + size_t{1}) : nullptr),
        batch_(own_ ? &own_->batch : config.journal.batch),
        chains_(own_ ? own_->chains.get() : config.journal.chains.data()),
        rest_(std::make_unique_for_overwrite<spec::pvirtq_desc[]>(mask_ + size_t{1})),
        ahead_(config.next),
        used_(config.next),
        asked_(config.next),
        view_(view) {}

  [[nodiscard]] RingError error() const noexcept { return error_; }
  [[nodiscard]] Access& access() noexcept { return access_; }
  [[nodiscard]] PeerView& view() noexcept { return view_; }
  [[nodiscard]] uint32_t size() const noexcept { return layout_.size; }

  /// First descriptor that was not taken, and where the next used one goes: what GET_VRING_BASE
  /// reports. They are the same once everything taken was published.
  [[nodiscard]] PackedCursor next_avail() const noexcept {
    return used_.advanced(descriptors_until(taken_), size());
  }
  [[nodiscard]] PackedCursor next_used() const noexcept { return used_; }

  /// How many chains can be taken. Looks at the ring only when fewer than `wanted` are known
  /// already. 0 on a broken ring; chains found before what broke it are still given once.
  [[nodiscard]] uint32_t available(uint32_t wanted) noexcept {
    if (error_ != RingError::none) return 0;
    const uint32_t known = found_ - taken_;
    return known >= wanted ? known : look(known, wanted);
  }

  /// The chain `ahead` places after the next one to take (ahead < available()).
  [[nodiscard]] bool head(uint32_t ahead, uint16_t& out) noexcept {
    return heads(ahead, 1, &out) == 1;
  }

  /// The same of `count` chains. All are good.
  [[nodiscard]] uint32_t heads(uint32_t ahead, uint32_t count, uint16_t* out) noexcept {
    const uint32_t first = taken_ + ahead - base_;
    for (uint32_t i = 0; i < count; ++i) out[i] = static_cast<uint16_t>((first + i) & mask_);
    return count;
  }

  /// The common chain, if it is one.
  [[nodiscard]] SingleRun single(uint16_t head, MemoryAccess want) noexcept {
    const First first = first_of(head);
    return single_run(view_, first.addr, first.len, first.flags, want);
  }

  /// The same of `count` chains, and their first bytes on their way. True when all are common ones.
  bool singles(const uint16_t* heads, uint32_t count, MemoryAccess want, SingleRun* out) noexcept {
    return find_singles(view_, access_, count, want, out,
                        [&](uint32_t i) { return first_of(heads[i]); });
  }

  /// Walks a chain, all of whose descriptors must be for `want`, and calls
  /// `visit(std::byte* data, uint32_t len) -> bool` for each contiguous piece, in order, at least
  /// one byte long; false ends the walk. A descriptor that crosses from one region into an adjacent
  /// one gives several pieces.
  template <typename Visit>
  ChainStatus walk(uint16_t head, MemoryAccess want, Visit&& visit) noexcept {
    OneWay way{want};
    return walk_as(head, way, visit);
  }

  /// The same for a chain with bytes to read and then room to write (2.8.21): `visit` is also
  /// told which a piece is for.
  template <typename Visit>
  ChainStatus walk_both(uint16_t head, Visit&& visit) noexcept {
    BothWays way;
    const auto with_way = [&](std::byte* data, uint32_t len) { return visit(data, len, way.want); };
    return walk_as(head, way, with_way);
  }

  /// Descriptors that walks have visited so far (wraps): what they cost.
  [[nodiscard]] uint32_t walked() const noexcept { return walked_; }

  /// Moves past `count` chains, which the caller will return with put_used.
  void take(uint32_t count) noexcept { taken_ += count; }

  /// The next chain in order of taking was used, `written` bytes were written to it (2.8.4); it is
  /// not looked at any more. Not visible before publish().
  void put_used(uint16_t head, uint32_t written) noexcept { put_used(&head, &written, 1); }

  /// The same for `count` chains at once.
  void put_used([[maybe_unused]] const uint16_t* heads, [[maybe_unused]] const uint32_t* written,
                uint32_t count) noexcept {
    if constexpr (kUsed == UsedEntries::kEach) {
      for (uint32_t i = 0; i < count; ++i) chain(put_ + i).len = written[i];
    }
    put_ += count;
  }

  /// True when something was put and not published.
  [[nodiscard]] bool unpublished() const noexcept { return put_ != shown_; }

  /// A position for publish(): after all that was put (wraps).
  [[nodiscard]] uint16_t filled() const noexcept { return static_cast<uint16_t>(put_); }

  /// Shows what was put before filled() was `until` to the driver. False when that was shown
  /// already. Behind the next full fence notification_wanted() tells whether to notify the driver.
  [[nodiscard]] bool show(uint16_t until) noexcept {
    const auto count = static_cast<uint16_t>(until - shown_);
    if (count == 0) return false;
    unasked_ += write_used(shown_ + count);
    return true;
  }

  /// Whether the driver wants to be notified of what was shown since this was asked last. 2.8.10:
  /// the flags must be out before the driver's wish is read, else both sides could wait for each
  /// other; hence the full fence between show() and this.
  [[nodiscard]] bool notification_wanted() noexcept {
    const PackedCursor before = std::exchange(asked_, used_);
    return driver_wants_event(before, std::exchange(unasked_, 0));
  }

  /// show(), and true when the driver wants to be notified of it.
  [[nodiscard]] bool publish(uint16_t until) noexcept {
    if (!show(until)) return false;
    access_.full_fence();
    return notification_wanted();
  }
  [[nodiscard]] bool publish() noexcept { return publish(filled()); }

  /// Asks for the cache lines that available() will read.
  void prefetch_available() const noexcept { access_.prefetch_read(&layout_.desc[ahead_.index]); }

  /// Asks the driver to notify us when it makes the next chain available (2.8.10). True when chains
  /// are there already, of which it will not tell.
  [[nodiscard]] bool request_notifications() noexcept {
    if (event_idx_) access_.store(&layout_.device->desc, ahead_.to_wire());
    // Release: whoever acquires these flags sees the place.
    access_.store_release(&layout_.device->flags,
                          event_idx_ ? spec::RING_EVENT_FLAGS_DESC : spec::RING_EVENT_FLAGS_ENABLE);
    view_.note_ring_write(layout_.device, sizeof *layout_.device);
    // 2.8.10: the wish must be out before the driver's flags are read, else both sides could wait
    // for each other.
    access_.full_fence();
    return available(1) != 0;
  }

  /// Asks the driver not to notify us of new chains, since we poll (2.8.10).
  void suppress_notifications() noexcept {
    access_.store(&layout_.device->flags, spec::RING_EVENT_FLAGS_DISABLE);
    view_.note_ring_write(&layout_.device->flags, sizeof(uint16_t));
  }

  /// Puts the chains again that another device was about to show (`PackedResume`): they are
  /// unpublished now. Before anything else, on a ring that has that device's journal.
  void put_again(const PackedResume& from) noexcept {
    base_ = uint32_t{0} - from.first;
    found_ = taken_ = put_ = from.chains;
    for (uint32_t n = 0; n != put_; ++n) held_ += chain(n).count;
    ahead_ = used_.advanced(held_, size());
  }

  /// Puts chains that another device had taken and not returned, as used and with nothing written
  /// to them: they are unpublished now. Before anything else; they are the ring's next ones.
  void put_left(std::span<const PackedLeft> left) noexcept {
    for (const PackedLeft& chain_left : left) {
      chain(put_++) = {0, 0, 0, chain_left.id, chain_left.count, 0};
      held_ += chain_left.count;
    }
    found_ = taken_ = put_;
    ahead_ = used_.advanced(held_, size());
  }

  /// From here on a front end's region says where this ring stands, too. Nothing is unpublished.
  void note_in(const PackedInflight& region) noexcept {
    inflight_ = region;
    inflight_.rest(access_, used_);
  }

  /// From here on the journal speaks of this ring.
  void begin_journal() noexcept { journal(PackedBatch{.at = used_}); }

  /// Marks the ring broken; it gives no more chains.
  void fail(RingError error) noexcept { error_ = error; }

 private:
  static constexpr uint16_t kShapeFlags =
      spec::VIRTQ_DESC_F_NEXT | spec::VIRTQ_DESC_F_WRITE | spec::VIRTQ_DESC_F_INDIRECT;
  static constexpr uint32_t kDescPerLine = 64 / sizeof(spec::pvirtq_desc);

  using Chain = PackedChain;

  /// Where nobody else is to go on.
  struct Own {
    explicit Own(size_t places) : chains(std::make_unique_for_overwrite<Chain[]>(places)) {}
    uint64_t batch = 0;
    std::unique_ptr<Chain[]> chains;
  };

  /// What of a chain's first descriptor tells whether it is all.
  struct First {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
  };
  [[nodiscard]] First first_of(uint16_t head) const noexcept {
    const Chain& chain = chains_[head];
    return {chain.addr, chain.len, static_cast<uint16_t>(chain.flags & kShapeFlags)};
  }

  [[nodiscard]] Chain& chain(uint32_t number) const noexcept {
    return chains_[(number - base_) & mask_];
  }

  /// Finds chains until `wanted` are known; returns how many are.
  uint32_t look(uint32_t known, uint32_t wanted) noexcept {
    // Start at the front again where possible: fewer cache lines.
    if (found_ == shown_) {
      base_ = found_;
      rest_end_ = 0;
    }
    if (!find_chain()) return known;
    prefetch(wanted - ++known);
    while (known < wanted) {
      const Direct found = find_direct(wanted - known);
      known += found.count;
      if (known == wanted || !found.more || !find_chain()) break;
      ++known;
    }
    return known;
  }

  /// Chains of one descriptor that were found, and whether there may be another chain behind them.
  struct Direct {
    uint32_t count;
    bool more;
  };

  /// Copies the next chains, at most `wanted`, as long as each is of one descriptor and they follow
  /// each other, here and in the ring: the common case, on local variables.
  Direct find_direct(uint32_t wanted) noexcept {
    const uint32_t size = layout_.size;
    const uint32_t place = (found_ - base_) & mask_;
    const uint32_t most = std::min({wanted, size - held_, size - ahead_.index, mask_ + 1 - place});
    const spec::pvirtq_desc* const from = &layout_.desc[ahead_.index];
    Chain* const to = &chains_[place];
    const uint16_t available = packed_avail_flags(ahead_.wrap);
    const uint32_t rest = rest_end_;
    uint32_t count = 0;
    bool more = true;
    for (; count < most; ++count) {
      const uint16_t flags = load_flags(&from[count]);
      if ((flags & (kPackedOwnerFlags | spec::VIRTQ_DESC_F_NEXT)) != available) {
        more = (flags & kPackedOwnerFlags) == available;
        break;
      }
      const auto desc = access_.template snapshot<spec::pvirtq_desc>(&from[count]);
      if (desc.id >= size) [[unlikely]] {
        fail(RingError::id_range);
        more = false;
        break;
      }
      to[count] = {desc.addr, desc.len, flags, desc.id, 1, rest};
    }
    held_ += count;
    found_ += count;
    ahead_ = ahead_.advanced(count, size);
    return {count, more};
  }

  /// The next descriptors, now that there are some: not those of an idle driver, who is about to
  /// write there.
  void prefetch(uint32_t count) noexcept {
    const uint32_t end = std::min<uint32_t>(ahead_.index + count, layout_.size);
    for (uint32_t i = ahead_.index; i < end; i += kDescPerLine) {
      access_.prefetch_read(&layout_.desc[i]);
    }
  }

  /// Copies the next chain, if there is one that we do not hold already.
  bool find_chain() noexcept {
    if (held_ == layout_.size) return false;
    spec::pvirtq_desc desc;
    if (!read_available(desc)) return false;
    Chain& found = chain(found_);
    found = {desc.addr, desc.len, desc.flags, desc.id, 1, rest_end_};
    if ((desc.flags & spec::VIRTQ_DESC_F_NEXT) != 0 && !find_rest(found)) return false;
    if (found.id >= layout_.size) [[unlikely]] {
      fail(RingError::id_range);
      return false;
    }
    held_ += found.count;
    ++found_;
    return true;
  }

  /// The descriptors after a chain's first one. False, and the ring broken, when they do not end:
  /// nobody knows then where the next chain begins.
  bool find_rest(Chain& chain) noexcept {
    const uint32_t limit = std::min(layout_.size - held_, kMaxChain);
    spec::pvirtq_desc desc;
    do {
      if (chain.count == limit) {
        fail(RingError::chain_length);
        return false;
      }
      // 2.8.17: the first descriptor is made available after all others.
      if (!read_available(desc)) {
        fail(RingError::chain_torn);
        return false;
      }
      rest_[rest_end_++ & mask_] = desc;
      ++chain.count;
    } while ((desc.flags & spec::VIRTQ_DESC_F_NEXT) != 0);
    chain.id = desc.id;  // 2.8.6: it is in the last one
    return true;
  }

  /// Pairs with the driver's release store of these flags (2.8.21.1): the descriptor, the rest of
  /// its chain and the bytes that it points to are visible after this.
  [[nodiscard]] uint16_t load_flags(const spec::pvirtq_desc* at) const noexcept {
    return access_.load_acquire(&at->flags);
  }

  /// Copies the descriptor at `ahead_` and moves on, if the driver made it available.
  bool read_available(spec::pvirtq_desc& out) noexcept {
    const spec::pvirtq_desc* at = &layout_.desc[ahead_.index];
    const uint16_t flags = load_flags(at);
    if ((flags & kPackedOwnerFlags) != packed_avail_flags(ahead_.wrap)) return false;
    out = access_.template snapshot<spec::pvirtq_desc>(at);
    out.flags = flags;  // a driver that changes its mind is not listened to
    ahead_ = ahead_.advanced(1, layout_.size);
    return true;
  }

  template <typename Way, typename Visit>
  ChainStatus walk_as(uint16_t head, Way& way, Visit& visit) noexcept {
    const Chain& chain = chains_[head];
    ++walked_;
    if ((chain.flags & spec::VIRTQ_DESC_F_INDIRECT) != 0) return walk_table(chain, way, visit);
    ChainStatus status = element(chain.addr, chain.len, chain.flags, way, visit);
    for (uint32_t i = 1; i < chain.count && status == ChainStatus::kOk; ++i) {
      ++walked_;
      const spec::pvirtq_desc& desc = rest_[(chain.rest + i - 1) & mask_];
      status = element(desc.addr, desc.len, desc.flags, way, visit);
    }
    return status;
  }

  /// 2.8.7: one descriptor, no chain, whose table is used whole; but for WRITE, its flags and ids
  /// mean nothing. And WRITE is not held against a driver whose bytes are only read: DPDK's leaves
  /// it set on the net headers that it sends.
  template <typename Way, typename Visit>
  ChainStatus walk_table(const Chain& chain, Way& way, Visit& visit) noexcept {
    if (!indirect_ || chain.count != 1) return ChainStatus::kBadDescriptor;
    const IndirectTable table = find_indirect_table(view_, chain.addr, chain.len);
    if (table.status != ChainStatus::kOk) return table.status;
    if (table.entries > kMaxChain) return ChainStatus::kBadDescriptor;
    for (uint32_t i = 0; i < table.entries; ++i) {
      ++walked_;
      const auto desc =
          access_.template snapshot<spec::pvirtq_desc>(table.data + i * sizeof(spec::pvirtq_desc));
      const uint16_t flags = way.in_packed_table(desc.flags);
      const ChainStatus status = element(desc.addr, desc.len, flags, way, visit);
      if (status != ChainStatus::kOk) return status;
    }
    return ChainStatus::kOk;
  }

  template <typename Way, typename Visit>
  ChainStatus element(uint64_t addr, uint32_t len, uint16_t flags, Way& way,
                      Visit& visit) noexcept {
    if ((flags & spec::VIRTQ_DESC_F_INDIRECT) != 0 || !way.takes(flags)) {
      return ChainStatus::kBadDescriptor;
    }
    return visit_pieces(view_, addr, len, way.want, visit);
  }

  /// Noted before anything of the batch is in the ring: a signal may end us at any instruction.
  void journal(const PackedBatch& batch) noexcept {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    SharedAccess{}.store(batch_, batch.to_wire());
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  [[nodiscard]] PackedBatch batch_until(uint32_t end, uint32_t moved) const noexcept {
    return {used_, static_cast<uint16_t>(moved), static_cast<uint16_t>((shown_ - base_) & mask_),
            static_cast<uint16_t>(end - shown_)};
  }

  /// Descriptors of the chains that are not published and before number `end`: mostly all.
  [[nodiscard]] uint32_t descriptors_until(uint32_t end) const noexcept {
    if (end == found_) return held_;
    uint32_t count = 0;
    for (uint32_t n = shown_; n != end; ++n) count += chain(n).count;
    return count;
  }

  /// Shows the chains before number `end`; returns how far that moved.
  uint32_t write_used(uint32_t end) noexcept {
    const uint32_t moved = descriptors_until(end);
    journal(batch_until(end, moved));
    if (inflight_) [[unlikely]] {
      show_noted(end, moved);
    } else {
      show(end, moved);
    }
    shown_ = end;
    held_ -= moved;
    used_ = used_.advanced(moved, layout_.size);
    return moved;
  }

  /// Writes the used descriptors of the chains before number `end`, which cover `moved`.
  void show(uint32_t end, uint32_t moved) noexcept {
    const PackedCursor first = used_;
    const Chain& last = chain(end - 1);
    if constexpr (kUsed == UsedEntries::kOneForMany) {
      show_first(first, last.id, 0);
    } else {
      PackedCursor at = first.advanced(chain(shown_).count, layout_.size);
      for (uint32_t n = shown_ + 1; n != end; ++n) {
        const Chain& used = chain(n);
        access_.store(half(at), used_half(used.id, used.len, at.wrap));
        at = at.advanced(used.count, layout_.size);
      }
      note_used(first, moved - last.count + 1);
      show_first(first, chain(shown_).id, chain(shown_).len);
    }
  }

  /// The same, noted in the front end's region. Until a batch is shown its chains are in flight for
  /// whoever comes next only if used descriptors lie over them: else the ring still has them.
  [[gnu::noinline]] void show_noted(uint32_t end, uint32_t moved) noexcept {
    const uint32_t first = shown_;
    const bool in_flight = kUsed == UsedEntries::kEach && end - first > 1;
    const PackedCursor next = used_.advanced(moved, layout_.size);
    if (in_flight) note_chains(end);
    inflight_.returning(access_, used_, next);
    show(end, moved);
    uint32_t entry = 0;
    for (uint32_t n = first; in_flight && n != end; ++n) {
      inflight_.give_back(access_, entry);
      entry += chain(n).count;
    }
    inflight_.returned(access_, next);
  }

  void note_chains(uint32_t end) noexcept {
    uint32_t entry = 0;
    PackedCursor at = used_;
    for (uint32_t n = shown_; n != end; ++n) {
      const Chain& taken = chain(n);
      const uint32_t head = entry;
      for (const uint32_t after = entry + taken.count; entry != after; ++entry) {
        auto desc = access_.template snapshot<spec::pvirtq_desc>(&layout_.desc[at.index]);
        if (entry + 1 == after) desc.id = taken.id;
        inflight_.note(access_, entry, desc);
        at = at.advanced(1, layout_.size);
      }
      inflight_.take(access_, head, taken.count);
    }
    inflight_.taken(access_, entry);
  }

  /// Release: whoever acquires these flags sees the other used descriptors and the bytes written
  /// to the chains.
  void show_first(PackedCursor at, uint16_t id, uint32_t written) noexcept {
    access_.store_release(half(at), used_half(id, written, at.wrap));
    view_.note_ring_write(&layout_.desc[at.index], sizeof(spec::pvirtq_desc));
  }

  /// len, id and flags: the half of a descriptor that a device writes, stored as one.
  [[nodiscard]] uint64_t* half(PackedCursor at) const noexcept {
    return reinterpret_cast<uint64_t*>(&layout_.desc[at.index].len);
  }
  [[nodiscard]] static constexpr uint64_t used_half(uint16_t id, uint32_t written, bool wrap) {
    const auto flags = static_cast<uint16_t>(packed_used_flags(wrap) |
                                             (written != 0 ? spec::VIRTQ_DESC_F_WRITE : 0));
    return written | (uint64_t{id} << 32) | (uint64_t{flags} << 48);
  }

  void note_used(PackedCursor from, uint32_t count) noexcept {
    const uint32_t run = std::min(count, layout_.size - from.index);
    view_.note_ring_write(&layout_.desc[from.index], run * sizeof(spec::pvirtq_desc));
    view_.note_ring_write(&layout_.desc[0], (count - run) * sizeof(spec::pvirtq_desc));
  }

  /// 2.8.10: whether the driver wants to know that we went on by `moved` descriptors from `before`.
  bool driver_wants_event(PackedCursor before, uint32_t moved) noexcept {
    // Pairs with the driver's release store of the flags: the place was written before.
    const uint16_t flags = access_.load_acquire(&layout_.driver->flags) & 3;
    if (flags != spec::RING_EVENT_FLAGS_DESC || !event_idx_) {
      return flags != spec::RING_EVENT_FLAGS_DISABLE;
    }
    const auto event = PackedCursor::from_wire(access_.load(&layout_.driver->desc));
    const uint32_t lap = event.wrap == before.wrap ? 0 : layout_.size;
    return event.index + lap - before.index < moved;  // places behind us are huge numbers
  }

  [[no_unique_address]] Access access_;
  PackedLayout layout_;
  uint32_t mask_;
  bool indirect_;
  bool event_idx_;
  RingError error_ = RingError::none;
  // Chains are numbered as they are found; see chain(). They lie there from shown_ to found_.
  std::unique_ptr<Own> own_;
  uint64_t* batch_;  // a PackedBatch
  Chain* chains_;
  std::unique_ptr<spec::pvirtq_desc[]> rest_;  // descriptors but for the first ones of chains
  uint32_t base_ = 0;                          // number of the chain at the front of chains_
  uint32_t found_ = 0;
  uint32_t taken_ = 0;
  uint32_t put_ = 0;
  uint32_t shown_ = 0;
  uint32_t rest_end_ = 0;
  uint32_t held_ = 0;     // descriptors copied and not published as used
  PackedCursor ahead_;    // first descriptor not copied yet
  PackedCursor used_;     // where the next used descriptor goes
  PackedCursor asked_;    // where that was when the driver was asked whether it wants to know
  uint32_t unasked_ = 0;  // descriptors from there to used_
  uint32_t walked_ = 0;
  PackedInflight inflight_;
  PeerView view_;
};

}  // namespace pollux::ring
