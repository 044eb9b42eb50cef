// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "pollux/ring/packed_layout.hpp"
#include "pollux/spec/inflight.hpp"

namespace pollux::ring {

/// A chain that a device took and did not return.
struct PackedLeft {
  uint16_t id = 0;
  uint16_t count = 0;  ///< descriptors
  friend constexpr bool operator==(PackedLeft, PackedLeft) = default;
};

/// One packed queue's part of a front end's in-flight region, as the device that runs the queue
/// writes it; the vhost-user text, "Inflight I/O tracking". For whichever device comes next, this
/// program's or another's: nothing is ever read from it here, since the memory is the peer's.
///
/// Devices of ours return chains in the order in which they take them, and nothing is in flight
/// between their batches. So the entries of a batch are always 0, 1, 2, ..., and the list of free
/// entries is the same after each batch: its links are written once, by `rest`.
///
/// A process may end between any two of these stores. What belongs together lies in one word.
class PackedInflight {
 public:
  PackedInflight() = default;
  /// `region` is aligned to 8 bytes, has `entries` entries, and outlives this.
  PackedInflight(spec::QueueRegionPacked* region, uint16_t entries) noexcept
      : region_(region), entries_(entries) {}

  /// Whether there is a region at all.
  explicit operator bool() const noexcept { return region_ != nullptr; }

  /// Nothing is in flight, and the next used descriptor goes to `at`: whatever was there before.
  template <typename Access>
  void rest(const Access& access, PackedCursor at) noexcept;

  /// Entry `entry` is a descriptor of the batch.
  template <typename Access>
  void note(const Access& access, uint32_t entry, const spec::pvirtq_desc& desc) noexcept;
  /// `count` entries from `head` on are a chain of the batch.
  template <typename Access>
  void take(const Access& access, uint32_t head, uint32_t count) noexcept;
  /// The chains of the first `entries` entries are in flight.
  template <typename Access>
  void taken(const Access& access, uint32_t entries) noexcept;

  /// The batch is about to be shown at `from`; behind it the ring is at `to`, and the list of free
  /// entries begins with `free_head`: with the batch's.
  template <typename Access>
  void returning(const Access& access, PackedCursor from, PackedCursor to,
                 uint16_t free_head = 0) noexcept;
  /// The chain at `head` was shown.
  template <typename Access>
  void give_back(const Access& access, uint32_t head) noexcept {
    access.store(&region_->desc[head].inflight, uint8_t{0});
  }
  /// All chains were given back.
  template <typename Access>
  void returned(const Access& access, PackedCursor at) noexcept;

  // After another device, of whose own making the list of free entries is.
  /// It was at `at`, and began a batch that is taken back.
  template <typename Access>
  void roll_back(const Access& access, PackedCursor at, uint16_t free_head) noexcept {
    store_heads(access, {free_head, free_head});
    store_places(access, at, at);
  }
  /// Behind entry `entry` the list of free ones goes on with `next`.
  template <typename Access>
  void link(const Access& access, uint16_t entry, uint16_t next) noexcept {
    access.store(&region_->desc[entry].next, next);
  }

 private:
  // Fields of the region that are stored as one.
  struct Heads {
    uint16_t free_head;
    uint16_t old_free_head;
  };
  struct Places {
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap_counter;
    uint8_t old_used_wrap_counter;
    uint8_t padding[2];
  };
  struct Link {
    uint8_t inflight;
    uint8_t padding;
    uint16_t next;
    uint16_t last;
    uint16_t num;
  };
  struct Buffer {
    uint16_t id;
    uint16_t flags;
    uint32_t len;
  };

  template <typename Access>
  void store_heads(const Access& access, Heads heads) noexcept {
    access.store(reinterpret_cast<uint32_t*>(&region_->free_head), std::bit_cast<uint32_t>(heads));
    in_this_order();
  }
  template <typename Access>
  void store_places(const Access& access, PackedCursor used, PackedCursor old) noexcept {
    const Places places{used.index, old.index, used.wrap, old.wrap, {}};
    access.store(reinterpret_cast<uint64_t*>(&region_->used_idx), std::bit_cast<uint64_t>(places));
    in_this_order();
  }
  template <typename Access>
  void store_link(const Access& access, uint32_t entry, const Link& link) noexcept {
    access.store(reinterpret_cast<uint64_t*>(&region_->desc[entry]), std::bit_cast<uint64_t>(link));
  }
  /// The entry after the last one is none.
  [[nodiscard]] static uint16_t next_of(uint32_t entry) { return static_cast<uint16_t>(entry + 1); }
  /// A signal may end us at any instruction.
  static void in_this_order() noexcept { std::atomic_signal_fence(std::memory_order_seq_cst); }

  spec::QueueRegionPacked* region_ = nullptr;
  uint64_t counter_ = 0;
  uint16_t entries_ = 0;
};

template <typename Access>
void PackedInflight::rest(const Access& access, PackedCursor at) noexcept {
  for (uint32_t i = 0; i < entries_; ++i) give_back(access, i);
  in_this_order();
  store_places(access, at, at);
  // No entry is free while the list of them is made.
  store_heads(access, {entries_, entries_});
  for (uint32_t i = 0; i < entries_; ++i) store_link(access, i, {0, 0, next_of(i), 0, 0});
  in_this_order();
  store_heads(access, {0, 0});
  access.store(&region_->desc_num, entries_);
  access.store_release(&region_->version, spec::kInflightVersion);
  in_this_order();
}

template <typename Access>
void PackedInflight::note(const Access& access, uint32_t entry,
                          const spec::pvirtq_desc& desc) noexcept {
  spec::DescStatePacked& to = region_->desc[entry];
  const Buffer buffer{desc.id, desc.flags, desc.len};
  access.store(reinterpret_cast<uint64_t*>(&to.id), std::bit_cast<uint64_t>(buffer));
  access.store(&to.addr, desc.addr);
}

template <typename Access>
void PackedInflight::take(const Access& access, uint32_t head, uint32_t count) noexcept {
  access.store(&region_->desc[head].counter, counter_++);
  in_this_order();
  const auto last = static_cast<uint16_t>(head + count - 1);
  store_link(access, head, {1, 0, next_of(head), last, static_cast<uint16_t>(count)});
}

template <typename Access>
void PackedInflight::taken(const Access& access, uint32_t entries) noexcept {
  in_this_order();
  const auto head = static_cast<uint16_t>(entries);
  store_heads(access, {head, head});
}

template <typename Access>
void PackedInflight::returning(const Access& access, PackedCursor from, PackedCursor to,
                               uint16_t free_head) noexcept {
  // Given back from the last chain to the first, entries from 0 on are linked as they were.
  in_this_order();
  access.store(&region_->free_head, free_head);
  in_this_order();
  store_places(access, to, from);
}

template <typename Access>
void PackedInflight::returned(const Access& access, PackedCursor at) noexcept {
  in_this_order();
  store_heads(access, {0, 0});
  store_places(access, at, at);
}

}  // namespace pollux::ring
