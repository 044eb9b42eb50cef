// SPDX-License-Identifier: Apache-2.0
// A session whose guest is migrated post-copy: it runs here already while its pages still come. The
// front end asks for those that are touched, told by a userfaultfd. Text: "Migration", POSTCOPY_...
// and SET_MEM_TABLE.
//
//   POSTCOPY_ADVISE            a userfaultfd is opened and passed to the front end
//   POSTCOPY_LISTEN            from now on memory arrives as follows:
//   SET_MEM_TABLE, ADD_MEM_REG mapped, not touched; the reply says where the regions are here
//   the same with 8 zeros      the front end is ready: faults are handed over, rings may start
//   POSTCOPY_END               everything is here
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/memory_slot.hpp"

namespace pollux::vhost {
namespace {

uint64_t place_here(const PeerRegion& region) { return reinterpret_cast<uintptr_t>(region.host); }

}  // namespace

Result<BackendSession::Reply> BackendSession::postcopy_advise(Message& message) {
  if (!postcopy_) {
    auto faults = PageFaults::open();
    if (!faults) return forward(faults);
    postcopy_.emplace(std::move(*faults));
  }
  Message reply = make_request(message.request);  // a descriptor and nothing else
  reply.flags |= spec::VHOST_USER_REPLY_MASK;
  UniqueFd copy(::fcntl(postcopy_->faults.fd(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(errno, "can not pass a userfaultfd to the front end");
  reply.fds.push_back(std::move(copy));
  return reply;
}

Result<BackendSession::Reply> BackendSession::postcopy_listen(Message& /*message*/) {
  if (!postcopy_) return fail(ErrorCode::kProtocol, "no POSTCOPY_ADVISE came before");
  if (!state_.slots.empty()) {
    return fail(ErrorCode::kProtocol, "memory was shared already, and maybe used");
  }
  postcopy_->listening = true;
  return Reply();
}

/// Pages that come from now on come without anybody's asking.
Result<BackendSession::Reply> BackendSession::postcopy_end(Message& message) {
  if (postcopy_) {
    const std::shared_ptr<const PeerMemory> before = memory_;
    if (before) {
      for (const PeerRegion& region : before->regions()) postcopy_->faults.unwatch(*region.mapping);
    }
    postcopy_.reset();
    if (before) {
      auto memory = PeerMemory::create({before->regions().begin(), before->regions().end()});
      if (!memory) return forward(memory);
      if (auto ok = replace_memory(std::move(*memory), state_.slots); !ok) return forward(ok);
    }
  }
  return make_reply(message.request, uint64_t{0});
}

bool BackendSession::in_postcopy() const { return postcopy_ && postcopy_->listening; }

/// The message that says that the front end serves page faults now.
bool BackendSession::is_postcopy_go(const Message& message) {
  return message.payload.size() == sizeof(uint64_t) && message.fds.empty() &&
         *message.get<uint64_t>() == 0;
}

/// The table that the front end sent, with the addresses that the regions have here.
Message BackendSession::postcopy_table(const Message& message, std::vector<MemorySlot> slots,
                                       std::vector<PeerRegion> regions) {
  constexpr size_t kFirst = offsetof(spec::VhostUserMemory, regions) +
                            offsetof(spec::VhostUserMemoryRegion, userspace_addr);
  Message reply = make_request(message.request);
  reply.flags |= spec::VHOST_USER_REPLY_MASK;
  reply.payload = message.payload;
  for (size_t i = 0; i < regions.size(); ++i) {
    const uint64_t here = place_here(regions[i]);
    std::memcpy(&reply.payload[kFirst + i * sizeof(spec::VhostUserMemoryRegion)], &here,
                sizeof here);
  }
  postcopy_->slots = std::move(slots);
  postcopy_->regions = std::move(regions);
  return reply;
}

/// The same for one region more.
Result<BackendSession::Reply> BackendSession::postcopy_add(Message& message) {
  auto wanted = *message.get<spec::VhostUserMemRegMsg>();
  auto& slots = postcopy_->slots;
  auto& regions = postcopy_->regions;
  size_t at = 0;
  while (at < slots.size() && !same_place(slots[at].region, wanted.region)) ++at;
  if (at < slots.size()) {
    ++slots[at].references;
  } else {
    if (slots.size() >= offer_.mem_slots) {
      return fail(ErrorCode::kResource,
                  fmt::format("all {} memory slots are in use", offer_.mem_slots));
    }
    auto slot = make_slot(wanted.region, std::move(message.fds.front()));
    if (!slot) return forward(slot);
    auto region = map_region(*slot);
    if (!region) return forward(region);
    slots.push_back(std::move(*slot));
    regions.push_back(std::move(*region));
  }
  wanted.region.userspace_addr = place_here(regions[at]);
  return make_reply(message.request, wanted);
}

/// The front end serves page faults from now on.
Result<BackendSession::Reply> BackendSession::postcopy_go() {
  for (const PeerRegion& region : postcopy_->regions) {
    if (auto ok = postcopy_->faults.watch(*region.mapping); !ok) return forward(ok);
  }
  auto absent = AbsentPages::create(postcopy_->regions);
  if (!absent) return forward(absent);
  auto memory = PeerMemory::create(postcopy_->regions, std::move(*absent));
  if (!memory) return forward(memory);
  if (auto ok = replace_memory(std::move(*memory), postcopy_->slots); !ok) return forward(ok);
  return Reply();
}

std::shared_ptr<AbsentPages> BackendSession::absent_pages() const {
  return memory_ ? memory_->absent() : nullptr;
}

void BackendSession::pages_arrived() {
  if (const auto absent = absent_pages()) {
    eventfd_t count = 0;
    (void)eventfd_read(absent->arrivals(), &count);
  }
  try_start_all();
}

/// A region goes, and whoever waits for a page of it with it.
void BackendSession::forget_absent_pages(const PeerRegion& region) noexcept {
  if (!in_postcopy()) return;
  postcopy_->faults.abandon(*region.mapping);
  std::erase_if(postcopy_->regions, [&](const PeerRegion& r) { return r.host == region.host; });
  std::erase_if(postcopy_->slots, [&](const MemorySlot& s) {
    return s.region.guest_phys_addr == region.guest.value;
  });
}

/// Nobody will bring the rest: whoever waits for it goes on with zeros of our own.
void BackendSession::abandon_absent_pages() noexcept {
  if (in_postcopy() && memory_) {
    for (const PeerRegion& region : memory_->regions()) postcopy_->faults.abandon(*region.mapping);
  }
  postcopy_.reset();
}

}  // namespace pollux::vhost
