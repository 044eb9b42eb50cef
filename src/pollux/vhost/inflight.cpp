// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/inflight.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "pollux/mem/shared_access.hpp"
#include "pollux/spec/virtio_ring.hpp"

namespace pollux::vhost {
namespace {

size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

Status check_shape(const spec::VhostUserInflight& told, uint16_t most) {
  if (told.num_queues == 0 || told.num_queues > most) {
    return fail(ErrorCode::kProtocol, fmt::format("an in-flight region for {} queues: there are {}",
                                                  told.num_queues, most));
  }
  if (told.queue_size == 0 || told.queue_size > spec::kMaxSplitQueueSize) {
    return fail(ErrorCode::kProtocol,
                fmt::format("an in-flight region for queues of {} entries", told.queue_size));
  }
  return {};
}

}  // namespace

std::unexpected<Error> InflightRegion::contradicts(uint16_t queue) {
  return fail(ErrorCode::kProtocol,
              fmt::format("the in-flight region of ring {} contradicts itself", queue));
}

std::unexpected<Error> InflightRegion::no_place(uint16_t queue, uint32_t size) {
  return fail(
      ErrorCode::kProtocol,
      fmt::format("the in-flight region has no place for ring {} of {} entries", queue, size));
}

size_t InflightRegion::queue_bytes(uint16_t queue_size, InflightFormat format) {
  const size_t bytes =
      format == InflightFormat::kSplit
          ? sizeof(spec::QueueRegionSplit) + queue_size * sizeof(spec::DescStateSplit)
          : sizeof(spec::QueueRegionPacked) + queue_size * sizeof(spec::DescStatePacked);
  return round_up(bytes, spec::kInflightAlign);
}

Result<UniqueFd> InflightRegion::create(spec::VhostUserInflight& told, uint16_t most,
                                        InflightFormat format) {
  if (auto ok = check_shape(told, most); !ok) return forward(ok);
  told.mmap_size = told.num_queues * queue_bytes(told.queue_size, format);
  told.mmap_offset = 0;
  auto region = SharedRegion::create("pollux-inflight", told.mmap_size, HugePages::kNever);
  if (!region) return forward(region);
  UniqueFd fd(fcntl(region->fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "can not pass an in-flight region on");
  return fd;
}

Result<std::shared_ptr<const InflightRegion>> InflightRegion::map(
    UniqueFd fd, const spec::VhostUserInflight& told, uint16_t most, InflightFormat format) {
  if (auto ok = check_shape(told, most); !ok) return forward(ok);
  const size_t needed = told.num_queues * queue_bytes(told.queue_size, format);
  if (told.mmap_size < needed || told.mmap_offset % spec::kInflightAlign != 0 ||
      told.mmap_offset > static_cast<uint64_t>(INT64_MAX) - needed) {
    return fail(ErrorCode::kProtocol,
                fmt::format("an in-flight region of {} bytes at {:#x} does not hold {} queues of "
                            "{} entries",
                            told.mmap_size, told.mmap_offset, told.num_queues, told.queue_size));
  }
  auto mapping = PeerMapping::map(std::move(fd), told.mmap_offset, needed);
  if (!mapping) return forward(mapping);
  return std::shared_ptr<const InflightRegion>(
      new InflightRegion(std::move(*mapping), told, format));
}

std::byte* InflightRegion::queue(uint16_t index) const {
  return mapping_->data() + index * queue_bytes(told_.queue_size, format_);
}

Result<std::vector<uint16_t>> InflightRegion::recover_split(uint16_t index, uint32_t size,
                                                            uint16_t used_idx) const {
  if (format_ != InflightFormat::kSplit || index >= told_.num_queues || size > told_.queue_size) {
    return no_place(index, size);
  }
  const SharedAccess access;
  auto* region = reinterpret_cast<spec::QueueRegionSplit*>(queue(index));
  const uint16_t version = access.load(&region->version);
  if (version == 0) {
    access.store(&region->desc_num, told_.queue_size);
    access.store(&region->used_idx, used_idx);
    access.store_release(&region->version, spec::kInflightVersion);
    return std::vector<uint16_t>();
  }
  if (version != spec::kInflightVersion || access.load(&region->desc_num) != told_.queue_size) {
    return contradicts(index);
  }
  // The batch that was being returned when the back end before us ended: the used index says
  // whether it was.
  const auto returned = static_cast<uint16_t>(used_idx - access.load(&region->used_idx));
  uint16_t at = access.load(&region->last_batch_head);
  for (uint32_t i = 0; i < std::min<uint32_t>(returned, size); ++i) {
    if (at >= size) return contradicts(index);
    access.store(&region->desc[at].inflight, uint8_t{0});
    at = access.load(&region->desc[at].next);
  }
  access.store(&region->used_idx, used_idx);

  std::vector<std::pair<uint64_t, uint16_t>> taken;
  for (uint32_t i = 0; i < size; ++i) {
    const uint8_t inflight = access.load(&region->desc[i].inflight);
    if (inflight > 1) return contradicts(index);
    if (inflight == 1) {
      taken.emplace_back(access.load(&region->desc[i].counter), static_cast<uint16_t>(i));
    }
  }
  std::ranges::sort(taken);
  std::vector<uint16_t> heads;
  uint16_t batch = access.load(&region->last_batch_head);
  for (const auto& [counter, head] : taken) {
    heads.push_back(head);
    access.store(&region->desc[head].next, batch);
    batch = head;
  }
  access.store_release(&region->last_batch_head, batch);
  return heads;
}

void InflightRegion::commit_split(uint16_t index, uint16_t used_idx) const {
  const SharedAccess access;
  auto* region = reinterpret_cast<spec::QueueRegionSplit*>(queue(index));
  for (uint32_t i = 0; i < told_.queue_size; ++i) {
    access.store(&region->desc[i].inflight, uint8_t{0});
  }
  access.store_release(&region->used_idx, used_idx);
}

}  // namespace pollux::vhost
