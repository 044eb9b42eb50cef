// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/mem/shared_region.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/ring/driver_ring.hpp"
#include "pollux/ring/packed_layout.hpp"
#include "pollux/ring/split_layout.hpp"
#include "pollux/vhost/frontend.hpp"
#include "pollux/virtio/net_driver_control.hpp"
#include "pollux/virtio/shared_window.hpp"

namespace pollux::virtio_user {

/// What one connection shares with its back end: the pool's buffers, which it has with all others,
/// and rings and indirect tables of its own. Nothing else: all that we must trust is private.
///
///     device's address:  kPoolAddr                         rings_addr
///                        | the pool's region, in N pieces |  gap  | ring, ring, tables, ring ...
///                                                                 | control ring, its command |
///
/// The back end is told addresses that are ours to choose and the same as "guest" and as "user"
/// ones; they say nothing about where things lie here.
class SharedMemory {
 public:
  static constexpr uint64_t kPoolAddr = 0x1'0000'0000;
  /// Tables that a transmitq has at most.
  static constexpr uint32_t kMaxTables = 256;

  /// Bytes for a command of the control queue and its answer.
  static constexpr uint32_t kControlRoom = 64;

  struct Shape {
    uint32_t rings = 0;          ///< receiveqs and transmitqs, in turn
    bool control = false;        ///< and behind them a control queue
    uint32_t size = 0;           ///< entries of each
    bool packed = false;         ///< their format
    uint32_t table_entries = 0;  ///< of each indirect table of a transmitq; 0: no tables
    uint32_t pool_regions =
        1;  ///< into how many regions the pool is cut (or as many as it has pages)
  };

  /// The pool outlives it. Errors: kResource.
  [[nodiscard]] static Result<SharedMemory> create(const Pool& pool, const Shape& shape);

  /// The pool's region as the device sees it.
  [[nodiscard]] virtio::SharedWindow pool_window() const { return pool_; }
  [[nodiscard]] std::span<const vhost::SharedMemoryRegion> regions() const { return regions_; }

  /// Where a ring lies, when it has that format.
  [[nodiscard]] ring::SplitLayout split_layout(uint32_t index) const;
  [[nodiscard]] ring::PackedLayout packed_layout(uint32_t index) const;
  [[nodiscard]] vhost::VringAddresses addresses(uint32_t index) const;
  /// Tables of a transmitq (odd index); none for others.
  [[nodiscard]] ring::IndirectTables tables(uint32_t index) const;
  /// Index of the control queue here, behind all others.
  [[nodiscard]] uint32_t control_index() const { return shape_.rings; }
  [[nodiscard]] virtio::ControlRoom control_room() const;

  /// For people: "2 regions, 38 MiB".
  [[nodiscard]] std::string describe() const;

 private:
  SharedMemory(SharedRegion rings, const Shape& shape) : rings_(std::move(rings)), shape_(shape) {}
  static size_t ring_bytes(const Shape& shape);
  static size_t tables_bytes(const Shape& shape);
  static size_t pair_bytes(const Shape& shape);
  [[nodiscard]] std::byte* place(uint32_t index) const;
  [[nodiscard]] uint64_t device_addr(const void* at) const;

  SharedRegion rings_;
  Shape shape_;
  uint64_t rings_addr_ = 0;
  virtio::SharedWindow pool_;
  std::vector<vhost::SharedMemoryRegion> regions_;
};

}  // namespace pollux::virtio_user
