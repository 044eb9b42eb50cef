// SPDX-License-Identifier: Apache-2.0
// The device side of a split virtqueue against a driver that changes its memory between any two
// accesses. The input says what was negotiated, how everything looks at first, what is sent, and
// then, byte by byte, what changes when.
//
// Beyond what the sanitizers see it is checked that
//   - each access lies inside the ring or the guest's memory, and each write where a device may
//     write (2.7.5.2: never to descriptors; never to a sender's memory)
//   - each chain taken is returned once, in order, under the head that was read
//   - packets and buffers all come back to the pool
//   - the work of a poll and of a send is bounded
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "pollux/packet/fill.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"

namespace pollux {
namespace {

void require(bool good, const char* what) {
  if (good) return;
  (void)std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

constexpr uint32_t kMaxQueue = 256;
// Two adjacent regions, with nothing before and behind.
constexpr uint64_t kGuest = 0x10000;
constexpr size_t kFirstSize = 0x2000;
constexpr size_t kSecondSize = 0x800;

/// A guest's memory and one ring of it. Heap blocks of exact sizes: the sanitizer watches their
/// borders.
struct Peer {
  explicit Peer(uint32_t queue)
      : size(queue),
        desc(spec::desc_bytes(queue)),
        avail(spec::avail_bytes(queue)),
        used(spec::used_bytes(queue)),
        first(kFirstSize),
        second(kSecondSize),
        memory(PeerMemory::create(
                   {{GuestAddr{kGuest}, {}, kFirstSize, first.data(), nullptr},
                    {GuestAddr{kGuest + kFirstSize}, {}, kSecondSize, second.data(), nullptr}})
                   .value()) {}

  [[nodiscard]] ring::SplitLayout layout() {
    return {size, reinterpret_cast<spec::virtq_desc*>(desc.data()),
            reinterpret_cast<spec::virtq_avail*>(avail.data()),
            reinterpret_cast<spec::virtq_used*>(used.data())};
  }
  [[nodiscard]] std::array<std::span<std::byte>, 5> parts() {
    return {desc, avail, used, first, second};
  }

  uint32_t size;
  std::vector<std::byte> desc;
  std::vector<std::byte> avail;
  std::vector<std::byte> used;
  std::vector<std::byte> first;
  std::vector<std::byte> second;
  std::shared_ptr<const PeerMemory> memory;
};

bool inside(std::span<const std::byte> part, const void* at, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(part.data());
  const auto place = reinterpret_cast<uintptr_t>(at);
  return place >= begin && place - begin <= part.size() && size <= part.size() - (place - begin);
}

/// The driver that interferes, and the referee of what the device does.
class Referee {
 public:
  Referee(Peer& peer, FuzzedDataProvider& input, bool device_writes)
      : peer_(peer), input_(input), device_writes_(device_writes) {
    next_change_ = input_.ConsumeIntegralInRange<uint32_t>(0, 64);
  }

  void before_read(const void* at, size_t size) {
    tick();
    require(inside(peer_.desc, at, size) || inside(peer_.avail, at, size) || in_guest(at, size),
            "a read outside of what a device may read");
  }
  void before_write(const void* to, size_t size) {
    tick();
    require(inside(peer_.used, to, size) || (device_writes_ && in_guest(to, size)),
            "a write outside of what a device may write");
  }
  void loaded(const uint16_t* at, uint16_t value) {
    const auto* ring = reinterpret_cast<const uint16_t*>(peer_.avail.data() + 4);
    if (at >= ring && at < ring + peer_.size) heads_[static_cast<size_t>(at - ring)] = value;
  }
  void returned(const void* to, const void* from, size_t size) {
    if (!inside(peer_.used, to, size)) return;
    const std::byte* ring = peer_.used.data() + 4;
    spec::virtq_used_elem elem{};
    require(size == sizeof elem, "a used entry written in part");
    std::memcpy(&elem, from, sizeof elem);
    const uint32_t slot = next_used_ % peer_.size;
    require(to == ring + size_t{8} * slot, "a used entry out of order");
    require(elem.id == heads_[slot], "a chain returned under another head than was read");
    ++next_used_;
  }
  void published(uint16_t idx) { published_ = idx; }

  void start_at(uint16_t index) { next_used_ = published_ = index; }
  [[nodiscard]] uint16_t next_used() const { return next_used_; }
  [[nodiscard]] uint16_t published() const { return published_; }
  [[nodiscard]] uint64_t accesses() const { return accesses_; }

 private:
  bool in_guest(const void* at, size_t size) const {
    return inside(peer_.first, at, size) || inside(peer_.second, at, size);
  }

  void tick() {
    ++accesses_;
    if (next_change_ != 0) {
      --next_change_;
      return;
    }
    if (input_.remaining_bytes() < 4) {
      next_change_ = ~uint32_t{0};
      return;
    }
    next_change_ = input_.ConsumeIntegral<uint8_t>();
    change();
  }

  /// One to eight bytes anywhere; more often where it hurts.
  void change() {
    const auto kind = input_.ConsumeIntegral<uint8_t>();
    if ((kind & 3) == 0) {
      const auto idx = input_.ConsumeIntegral<uint16_t>();
      std::memcpy(peer_.avail.data() + 2, &idx, 2);
      return;
    }
    const std::span<std::byte> part = (kind & 3) == 3 ? peer_.parts()[(kind >> 2) % 5] : peer_.desc;
    const size_t place = input_.ConsumeIntegral<uint16_t>() % part.size();
    const size_t count = std::min<size_t>(1 + (kind >> 5), part.size() - place);
    const auto bytes = input_.ConsumeBytes<uint8_t>(count);
    std::transform(bytes.begin(), bytes.end(), part.begin() + static_cast<ptrdiff_t>(place),
                   [](uint8_t b) { return std::byte{b}; });
  }

  Peer& peer_;
  FuzzedDataProvider& input_;
  bool device_writes_;
  uint32_t next_change_;
  uint64_t accesses_ = 0;
  std::array<uint16_t, kMaxQueue> heads_{};
  uint16_t next_used_ = 0;
  uint16_t published_ = 0;
};

/// SharedAccess with the referee before each access.
class Access {
 public:
  explicit Access(Referee& referee) : referee_(&referee) {}

  template <typename T>
  [[nodiscard]] T load(const T* from) const {
    referee_->before_read(from, sizeof(T));
    const T value = access_.load(from);
    referee_->loaded(from, value);
    return value;
  }
  template <typename T>
  [[nodiscard]] T load_acquire(const T* from) const {
    referee_->before_read(from, sizeof(T));
    return access_.load_acquire(from);
  }
  template <typename T>
  void store(T* to, T value) const {
    referee_->before_write(to, sizeof(T));
    access_.store(to, value);
  }
  template <typename T>
  void store_release(T* to, T value) const {
    referee_->before_write(to, sizeof(T));
    access_.store_release(to, value);
    referee_->published(value);
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

using Ring = ring::SplitDeviceRing<Access>;

struct Deal {
  bool receives;  // the driver receives, the device writes
  uint64_t features;
  uint32_t queue;
  uint16_t start;
};

Deal negotiate(FuzzedDataProvider& input) {
  const auto bits = input.ConsumeIntegral<uint8_t>();
  Deal deal{};
  deal.receives = (bits & 1) != 0;
  if ((bits & 2) != 0) deal.features |= spec::VIRTIO_F_VERSION_1;
  if ((bits & 4) != 0) deal.features |= spec::VIRTIO_NET_F_MRG_RXBUF;
  if ((bits & 8) != 0) deal.features |= spec::VIRTIO_F_INDIRECT_DESC;
  if ((bits & 16) != 0) deal.features |= spec::VIRTIO_F_EVENT_IDX;
  deal.queue = 1U << input.ConsumeIntegralInRange<uint32_t>(0, 8);
  deal.start = (bits & 32) != 0 ? input.ConsumeIntegral<uint16_t>() : uint16_t{0};
  return deal;
}

/// A ring that is mostly good, so that the input need not find out how to make one: chains of one
/// to four descriptors or a table, lengths and places by the input.
void set_up(Peer& peer, const Deal& deal, FuzzedDataProvider& input) {
  const uint16_t write = deal.receives ? spec::VIRTQ_DESC_F_WRITE : uint16_t{0};
  const auto descriptor = [&](std::byte* table, uint32_t i, uint16_t flags) {
    spec::virtq_desc desc{};
    desc.addr = kGuest + input.ConsumeIntegral<uint16_t>() % (kFirstSize + kSecondSize);
    desc.len = input.ConsumeIntegral<uint16_t>() % 3000;
    desc.flags = flags;
    desc.next = static_cast<uint16_t>(i + 1);
    std::memcpy(table + size_t{16} * i, &desc, sizeof desc);
  };
  uint16_t offered = 0;
  for (uint32_t i = 0; i < peer.size && input.remaining_bytes() > 16;) {
    const uint32_t head = i;
    const auto shape = input.ConsumeIntegral<uint8_t>();
    if ((shape & 7) == 7 && (deal.features & spec::VIRTIO_F_INDIRECT_DESC) != 0) {
      const size_t entries = 1 + (shape >> 4);
      const size_t at = input.ConsumeIntegral<uint16_t>() % (kFirstSize - 16 * entries);
      for (uint32_t e = 0; e < entries; ++e) {
        const uint16_t next = e + 1 == entries ? 0 : spec::VIRTQ_DESC_F_NEXT;
        descriptor(peer.first.data() + at, e, static_cast<uint16_t>(write | next));
      }
      const spec::virtq_desc desc{kGuest + at, static_cast<uint32_t>(16 * entries),
                                  spec::VIRTQ_DESC_F_INDIRECT, 0};
      std::memcpy(peer.desc.data() + size_t{16} * i++, &desc, sizeof desc);
    } else {
      const uint32_t length = std::min<uint32_t>(1 + (shape >> 6), peer.size - i);
      for (uint32_t e = 0; e < length; ++e, ++i) {
        const uint16_t next = e + 1 == length ? 0 : spec::VIRTQ_DESC_F_NEXT;
        descriptor(peer.desc.data(), i, static_cast<uint16_t>(write | next));
      }
    }
    const auto slot = static_cast<uint16_t>(deal.start + offered) % peer.size;
    const auto entry = static_cast<uint16_t>(head);
    std::memcpy(peer.avail.data() + 4 + size_t{2} * slot, &entry, 2);
    ++offered;
  }
  const auto idx = static_cast<uint16_t>(deal.start + offered);
  std::memcpy(peer.avail.data() + 2, &idx, 2);
}

/// The program's pool: made once, whole after each input.
Pool& pool() {
  static const std::unique_ptr<Pool> instance = std::move(
      Pool::create({.name = "fuzz", .packets = 96, .buffers = 96, .pages = HugePages::kNever})
          .value());
  return *instance;
}

Ring make_ring(Peer& peer, const Deal& deal, Referee& referee) {
  referee.start_at(deal.start);
  return Ring({peer.layout(), deal.start, (deal.features & spec::VIRTIO_F_INDIRECT_DESC) != 0,
               (deal.features & spec::VIRTIO_F_EVENT_IDX) != 0},
              PeerView(*peer.memory), Access(referee));
}

void check_returned(Ring& ring, const Referee& referee) {
  require(ring.next_avail() == referee.next_used(), "a chain taken and not returned");
  require(referee.published() == referee.next_used(), "a used entry that was not published");
}

void poll_some(Peer& peer, const Deal& deal, FuzzedDataProvider& input) {
  Referee referee(peer, input, false);
  PoolCache cache(pool());
  virtio::NetDeviceRx<Ring> rx(make_ring(peer, deal, referee), deal.features);
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
    check_returned(rx.ring(), referee);
  }
}

void send_some(Peer& peer, const Deal& deal, FuzzedDataProvider& input) {
  Referee referee(peer, input, true);
  PoolCache cache(pool());
  virtio::NetDeviceTx<Ring> tx(make_ring(peer, deal, referee), deal.features);
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
    check_returned(tx.ring(), referee);
  }
}

}  // namespace
}  // namespace pollux

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pollux;
  FuzzedDataProvider input(data, size);
  const Deal deal = negotiate(input);
  Peer peer(deal.queue);
  set_up(peer, deal, input);
  if (deal.receives) {
    send_some(peer, deal, input);
  } else {
    poll_some(peer, deal, input);
  }
  require(pool().free_packets() == pool().packet_count(), "packets leaked");
  require(pool().free_buffers() == pool().buffer_count(), "buffers leaked");
  return 0;
}
