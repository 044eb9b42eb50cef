// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets of device rings have in common: the parts of a referee that know no format,
// and turns of a queue on a ring that is watched.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "pollux/packet/fill.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"

namespace pollux::fuzz {

inline void require(bool good, const char* what) {
  if (good) return;
  (void)std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

// Two adjacent regions, with nothing before and behind.
inline constexpr uint64_t kGuest = 0x10000;
inline constexpr size_t kFirstSize = 0x2000;
inline constexpr size_t kSecondSize = 0x800;

/// A guest's memory. Heap blocks of exact sizes: the sanitizer watches their borders.
struct GuestBlocks {
  std::vector<std::byte> first = std::vector<std::byte>(kFirstSize);
  std::vector<std::byte> second = std::vector<std::byte>(kSecondSize);
  std::shared_ptr<const PeerMemory> memory =
      PeerMemory::create(
          {{GuestAddr{kGuest}, {}, kFirstSize, first.data(), nullptr},
           {GuestAddr{kGuest + kFirstSize}, {}, kSecondSize, second.data(), nullptr}})
          .value();
};

inline bool inside(std::span<const std::byte> part, const void* at, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(part.data());
  const auto place = reinterpret_cast<uintptr_t>(at);
  return place >= begin && place - begin <= part.size() && size <= part.size() - (place - begin);
}

/// When the driver interferes, as the input says; counts accesses.
class Clock {
 public:
  explicit Clock(FuzzedDataProvider& input)
      : input_(input), next_change_(input.ConsumeIntegralInRange<uint32_t>(0, 64)) {}

  /// Before each access: true when it is time for a change.
  [[nodiscard]] bool tick() {
    ++accesses_;
    if (next_change_ != 0) {
      --next_change_;
      return false;
    }
    if (input_.remaining_bytes() < 4) {
      next_change_ = ~uint32_t{0};
      return false;
    }
    next_change_ = input_.ConsumeIntegral<uint8_t>();
    return true;
  }

  [[nodiscard]] uint64_t accesses() const { return accesses_; }

 private:
  FuzzedDataProvider& input_;
  uint32_t next_change_;
  uint64_t accesses_ = 0;
};

/// Overwrites `count` bytes of `part` at most, at a place of the input's choice.
inline void scribble(FuzzedDataProvider& input, std::span<std::byte> part, size_t count) {
  const size_t place = input.ConsumeIntegral<uint16_t>() % part.size();
  const auto bytes = input.ConsumeBytes<uint8_t>(std::min(count, part.size() - place));
  std::transform(bytes.begin(), bytes.end(), part.begin() + static_cast<ptrdiff_t>(place),
                 [](uint8_t b) { return std::byte{b}; });
}

/// SharedAccess with the referee before each access.
template <typename Referee>
class Access {
 public:
  explicit Access(Referee& referee) : referee_(&referee) {}

  template <typename T>
  [[nodiscard]] T load(const T* from) const {
    referee_->before_read(from, sizeof(T));
    return access_.load(from);
  }
  template <typename T>
  [[nodiscard]] T load_acquire(const T* from) const {
    referee_->before_read(from, sizeof(T));
    return access_.load_acquire(from);
  }
  template <typename T>
  void store(T* to, T value) const {
    referee_->before_write(to, sizeof(T));
    referee_->returned(to, &value, sizeof(T));
    access_.store(to, value);
  }
  template <typename T>
  void store_release(T* to, T value) const {
    referee_->before_write(to, sizeof(T));
    referee_->published(to, &value, sizeof(T));
    access_.store_release(to, value);
  }
  template <typename T>
  [[nodiscard]] T snapshot(const void* from) const {
    referee_->before_read(from, sizeof(T));
    return access_.snapshot<T>(from);
  }
  void full_fence() const { access_.full_fence(); }
  void copy_in(void* to, const void* from, size_t size) const {
    referee_->before_read(from, size);
    access_.copy_in(to, from, size);
    referee_->copied(from, to, size);
  }
  void copy_out(void* to, const void* from, size_t size) const {
    referee_->before_write(to, size);
    referee_->returned(to, from, size);
    access_.copy_out(to, from, size);
  }
  void prefetch_read(const void*) const {}
  void prefetch_write(const void*) const {}

 private:
  SharedAccess access_;
  Referee* referee_;
};

/// The program's pool: made once, whole after each input.
inline Pool& pool() {
  static const std::unique_ptr<Pool> instance = std::move(
      Pool::create({.name = "fuzz", .packets = 96, .buffers = 96, .pages = HugePages::kNever})
          .value());
  return *instance;
}

/// A few turns in which the device takes frames from `ring`.
template <typename Ring, typename Referee>
void poll_some(Ring ring, uint64_t features, Referee& referee) {
  PoolCache cache(pool());
  virtio::NetDeviceRx<Ring> rx(std::move(ring), features);
  rx.ring().suppress_notifications();
  QueueCounters counters;
  for (int turn = 0; turn < 4; ++turn) {
    const uint64_t before = referee.accesses();
    const uint64_t packets = counters.packets.value();
    Burst burst(cache);
    rx.poll(burst, counters);
    require(referee.accesses() - before < 32 * 5000, "a poll that takes too long");
    require(counters.packets.value() - packets <= 32, "a poll that takes too much");
    for (const Packet* packet : burst.packets()) {
      require(packet->size() >= 14 && packet->size() <= Packet::kMaxLength, "a length");
      std::vector<std::byte> bytes(packet->size());
      require(packet->copy_to(bytes.data(), 0, bytes.size()) == bytes.size(), "a packet cut short");
    }
    burst.clear();
    (void)rx.complete();
    referee.check_returned(rx.ring());
  }
}

/// A few turns in which the device puts frames into `ring`.
template <typename Ring, typename Referee>
void send_some(Ring ring, uint64_t features, Referee& referee, FuzzedDataProvider& input) {
  PoolCache cache(pool());
  virtio::NetDeviceTx<Ring> tx(std::move(ring), features);
  tx.ring().suppress_notifications();
  QueueCounters counters;
  static const std::vector<std::byte> bytes(Packet::kMaxLength, std::byte{0x5a});
  for (int turn = 0; turn < 4; ++turn) {
    Burst burst(cache);
    for (size_t n = input.ConsumeIntegralInRange<size_t>(0, 40); n != 0; --n) {
      const auto kind = input.ConsumeIntegral<uint8_t>();
      const size_t size = kind < 4 ? input.ConsumeIntegral<uint16_t>() : 14 + 6 * kind;
      Packet* packet = cache.allocate();
      if (packet == nullptr) break;
      if (!fill(*packet, cache, {bytes.data(), size})) {
        cache.release(packet);
        break;
      }
      if (kind % 4 == 1) packet->meta.needs_csum = true;
      burst.push(packet);
    }
    const size_t offered = burst.size();
    const uint64_t before = referee.accesses();
    const uint64_t sent = counters.packets.value();
    uint64_t dropped = 0;
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      dropped -= counters.drops.value(static_cast<DropReason>(r));
    }
    tx.send(burst, counters);
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      dropped += counters.drops.value(static_cast<DropReason>(r));
    }
    require(counters.packets.value() - sent + dropped + burst.size() == offered,
            "a packet without a fate, or with two");
    require(referee.accesses() - before < (offered + 1) * 16384, "a send that takes too long");
    burst.clear();
    (void)tx.publish();
    referee.check_returned(tx.ring());
  }
}

/// After each input.
inline void check_pool() {
  require(pool().free_packets() == pool().packet_count(), "packets leaked");
  require(pool().free_buffers() == pool().buffer_count(), "buffers leaked");
}

}  // namespace pollux::fuzz
