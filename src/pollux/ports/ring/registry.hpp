// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "pollux/base/result.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/ring/spsc_ring.hpp"

namespace pollux {

/// Two rings of packets that two `ring:` ports of one program meet at: what one sends, the other
/// receives. Packets that are still inside when the last port lets go return to the pool.
class RingLink {
 public:
  RingLink(Pool& pool, size_t size) : pool_(pool), to_side_{Ring(size), Ring(size)} {}
  ~RingLink();
  RingLink(const RingLink&) = delete;
  RingLink& operator=(const RingLink&) = delete;

  using Ring = SpscRing<Packet*>;

  /// The ring that side 0 or 1 receives from. One thread pushes, one pops at a time.
  [[nodiscard]] Ring& to(size_t side) noexcept { return to_side_[side]; }
  /// Whether a started port receives on that side.
  [[nodiscard]] std::atomic<bool>& present(size_t side) noexcept { return present_[side]; }
  [[nodiscard]] Pool& pool() const noexcept { return pool_; }

  /// Gives what waits for `side` back to the pool; nobody may be receiving there. Returns how many.
  size_t drain(size_t side) noexcept;

 private:
  friend class RingRegistry;

  Pool& pool_;
  std::array<Ring, 2> to_side_;
  std::array<std::atomic<bool>, 2> present_{};
  std::array<bool, 2> taken_{};  // under the registry's lock
};

/// Where the `ring:` ports of one program find each other by name. Thread-safe; outlives its
/// ports.
class RingRegistry {
 public:
  /// A port's place at a link; leaves it when it is destroyed.
  class Seat {
   public:
    Seat(RingRegistry& registry, std::string name, std::shared_ptr<RingLink> link, size_t side)
        : registry_(&registry), name_(std::move(name)), link_(std::move(link)), side_(side) {}
    Seat(Seat&& other) noexcept = default;
    Seat& operator=(Seat&&) = delete;
    ~Seat();

    [[nodiscard]] RingLink& link() const { return *link_; }
    [[nodiscard]] size_t side() const { return side_; }

   private:
    RingRegistry* registry_;
    std::string name_;
    std::shared_ptr<RingLink> link_;
    size_t side_;
  };

  /// The first port of a name makes the link, with rings for `size` packets; the second takes its
  /// other side, whatever size it asks for. Errors: kAlreadyExists when two ports have it,
  /// kInvalidArgument when the other port takes its packets from another pool.
  [[nodiscard]] Result<Seat> join(const std::string& name, Pool& pool, size_t size);

 private:
  void leave(const std::string& name, RingLink& link, size_t side);

  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<RingLink>> links_;
};

}  // namespace pollux
