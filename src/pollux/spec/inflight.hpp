// SPDX-License-Identifier: Apache-2.0
// The region in which a back end notes what it has taken from its rings, so that the next one can
// go on after a crash: the vhost-user text, "Inflight I/O tracking". Native byte order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pollux::spec {

inline constexpr uint16_t kInflightVersion = 1;  // 0: not initialized yet
/// Queue regions follow each other at multiples of this; the text leaves it open, QEMU's and
/// DPDK's back ends agree on it.
inline constexpr size_t kInflightAlign = 64;

struct DescStateSplit {
  uint8_t inflight;
  uint8_t padding[5];
  uint16_t next;  // of the last batch of used descriptors
  uint64_t counter;
};
static_assert(sizeof(DescStateSplit) == 16 && offsetof(DescStateSplit, next) == 6);

struct QueueRegionSplit {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t last_batch_head;
  uint16_t used_idx;
  DescStateSplit desc[];
};
static_assert(sizeof(QueueRegionSplit) == 16 && offsetof(QueueRegionSplit, used_idx) == 14);

struct DescStatePacked {
  uint8_t inflight;
  uint8_t padding;
  uint16_t next;  // free entry
  uint16_t last;
  uint16_t num;
  uint64_t counter;
  uint16_t id;
  uint16_t flags;
  uint32_t len;
  uint64_t addr;
};
static_assert(sizeof(DescStatePacked) == 32 && offsetof(DescStatePacked, addr) == 24);

struct QueueRegionPacked {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t free_head;
  uint16_t old_free_head;
  uint16_t used_idx;
  uint16_t old_used_idx;
  uint8_t used_wrap_counter;
  uint8_t old_used_wrap_counter;
  uint8_t padding[7];
  DescStatePacked desc[];
};
static_assert(sizeof(QueueRegionPacked) == 32 && offsetof(QueueRegionPacked, desc) == 32);

}  // namespace pollux::spec
