// SPDX-License-Identifier: Apache-2.0
// A session's memory: what the front end shares is mapped and checked whole, then put in the place
// of what was there, with all rings at rest in between.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/memory_slot.hpp"

namespace pollux::vhost {
namespace {

std::vector<PeerRegion> regions_of(const std::shared_ptr<const PeerMemory>& memory) {
  if (!memory) return {};
  const auto regions = memory->regions();
  return {regions.begin(), regions.end()};
}

}  // namespace

Result<std::shared_ptr<const PeerMemory>> BackendSession::map_all(
    const std::vector<MemorySlot>& slots) {
  std::vector<PeerRegion> regions;
  for (const MemorySlot& slot : slots) {
    auto region = map_region(slot);
    if (!region) return forward(region);
    regions.push_back(std::move(*region));
  }
  return PeerMemory::create(std::move(regions));
}

Result<BackendSession::Reply> BackendSession::set_mem_table(Message& message) {
  if (in_postcopy() && is_postcopy_go(message)) return postcopy_go();
  constexpr size_t kHead = offsetof(spec::VhostUserMemory, regions);
  const uint32_t count = *message.get<uint32_t>();
  if (count > spec::VHOST_USER_MAX_RAM_REGIONS || count > offer_.mem_slots) {
    return fail(ErrorCode::kProtocol, fmt::format("{} regions are more than it can hold", count));
  }
  const size_t exact = kHead + count * sizeof(spec::VhostUserMemoryRegion);
  if (message.payload.size() != exact && message.payload.size() != sizeof(spec::VhostUserMemory)) {
    return fail(ErrorCode::kProtocol, fmt::format("{} bytes of payload do not hold {} regions",
                                                  message.payload.size(), count));
  }
  if (message.fds.size() != count) {
    return fail(ErrorCode::kProtocol,
                fmt::format("{} descriptors came for {} regions", message.fds.size(), count));
  }
  std::vector<MemorySlot> slots;
  std::vector<PeerRegion> regions;
  for (uint32_t i = 0; i < count; ++i) {
    const size_t at = kHead + i * sizeof(spec::VhostUserMemoryRegion);
    auto slot = make_slot(*message.get<spec::VhostUserMemoryRegion>(at), std::move(message.fds[i]));
    if (!slot) return forward(slot);
    auto region = map_region(*slot);
    if (!region) return forward(region);
    slots.push_back(std::move(*slot));
    regions.push_back(std::move(*region));
  }
  if (in_postcopy()) return postcopy_table(message, std::move(slots), std::move(regions));
  auto memory = PeerMemory::create(std::move(regions));
  if (!memory) return forward(memory);
  if (auto ok = replace_memory(std::move(*memory), std::move(slots)); !ok) return forward(ok);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::add_mem_reg(Message& message) {
  if (in_postcopy() && is_postcopy_go(message)) return postcopy_go();
  if (message.payload.size() != sizeof(spec::VhostUserMemRegMsg) || message.fds.size() != 1) {
    return fail(ErrorCode::kProtocol, "it takes one region and its descriptor");
  }
  if (in_postcopy()) return postcopy_add(message);
  const auto added = message.get<spec::VhostUserMemRegMsg>()->region;
  if (MemorySlot* known = find_slot(state_.slots, added)) {
    ++known->references;
    return Reply();
  }
  if (state_.slots.size() >= offer_.mem_slots) {
    return fail(ErrorCode::kResource,
                fmt::format("all {} memory slots are in use", offer_.mem_slots));
  }
  auto slot = make_slot(added, std::move(message.fds.front()));
  if (!slot) return forward(slot);
  auto region = map_region(*slot);
  if (!region) return forward(region);
  std::vector<PeerRegion> regions = regions_of(memory_);
  regions.push_back(std::move(*region));
  auto memory = PeerMemory::create(std::move(regions));
  if (!memory) return forward(memory);
  std::vector<MemorySlot> slots = state_.slots;
  slots.push_back(std::move(*slot));
  if (auto ok = replace_memory(std::move(*memory), std::move(slots)); !ok) return forward(ok);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::rem_mem_reg(Message& message) {
  const auto wanted = message.get<spec::VhostUserMemRegMsg>()->region;
  MemorySlot* known = find_slot(state_.slots, wanted);
  if (known == nullptr) {
    return fail(ErrorCode::kProtocol,
                fmt::format("no region of {:#x} bytes at guest address {:#x} was shared",
                            wanted.memory_size, wanted.guest_phys_addr));
  }
  if (known->references > 1) {
    --known->references;
    return Reply();
  }
  std::vector<MemorySlot> slots = state_.slots;
  std::erase_if(slots, [&](const MemorySlot& s) { return same_place(s.region, wanted); });
  std::vector<PeerRegion> regions = regions_of(memory_);
  const auto gone = [&](const PeerRegion& r) { return r.guest.value == wanted.guest_phys_addr; };
  forget_absent_pages(*std::find_if(regions.begin(), regions.end(), gone));
  std::erase_if(regions, gone);
  auto memory = PeerMemory::create(std::move(regions), memory_->absent());
  if (!memory) return forward(memory);
  if (auto ok = replace_memory(std::move(*memory), std::move(slots)); !ok) return forward(ok);
  return Reply();
}

Result<BackendSession::Reply> BackendSession::get_max_mem_slots(Message& message) {
  return make_reply(message.request, uint64_t{offer_.mem_slots});
}

Status BackendSession::replace_memory(std::shared_ptr<const PeerMemory> memory,
                                      std::vector<MemorySlot> slots) {
  if (auto ok = stop_all("the memory changes"); !ok) return forward(ok);
  memory_ = std::move(memory);
  state_.slots = std::move(slots);
  rebase_iotlb();
  try_start_all();
  return {};
}

}  // namespace pollux::vhost
