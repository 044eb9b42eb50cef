// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/ring/registry.hpp"

#include <fmt/format.h>

namespace pollux {

RingLink::~RingLink() {
  drain(0);
  drain(1);
}

size_t RingLink::drain(size_t side) noexcept {
  PoolCache cache(pool_);
  size_t count = 0;
  Packet* packet = nullptr;
  for (; to_side_[side].pop(packet); ++count) cache.release(packet);
  return count;
}

RingRegistry::Seat::~Seat() {
  if (link_) registry_->leave(name_, *link_, side_);
}

Result<RingRegistry::Seat> RingRegistry::join(const std::string& name, Pool& pool, size_t size) {
  const std::lock_guard guard(mutex_);
  std::shared_ptr<RingLink> link = links_[name].lock();
  if (!link) {
    link = std::make_shared<RingLink>(pool, size);
    links_[name] = link;
  }
  if (&link->pool() != &pool) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("ring '{}': its two ports must use the same packet pool", name));
  }
  const size_t side = link->taken_[0] ? 1 : 0;
  if (link->taken_[side]) {
    return fail(ErrorCode::kAlreadyExists,
                fmt::format("ring '{}' has two ports already: choose another name", name));
  }
  link->taken_[side] = true;
  return Seat(*this, name, std::move(link), side);
}

void RingRegistry::leave(const std::string& name, RingLink& link, size_t side) {
  const std::lock_guard guard(mutex_);
  link.taken_[side] = false;
  if (!link.taken_[1 - side]) links_.erase(name);
}

}  // namespace pollux
