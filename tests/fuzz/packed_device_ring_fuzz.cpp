// SPDX-License-Identifier: Apache-2.0
// The device side of a packed virtqueue against a driver that changes its memory between any two
// accesses; see device_ring_fuzz.cpp for the split one. The input says what was negotiated, how
// everything looks at first, what is sent, and then, byte by byte, what changes when.
//
// Beyond what the sanitizers see it is checked that
//   - each access lies inside the ring or the guest's memory, and each write where a device may
//     write: of a descriptor its second half alone, never to the driver's event structure, never to
//     a sender's memory
//   - used descriptors are written to places that the device took descriptors from, the first one
//     of a batch last, and all that was taken is returned
//   - packets and buffers all come back to the pool
//   - the work of a poll and of a send is bounded
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "tests/fuzz/device_queue.hpp"

namespace pollux {
namespace {

using namespace fuzz;

/// A guest's memory and one ring of it, in heap blocks of exact sizes.
struct Peer : GuestBlocks {
  explicit Peer(uint32_t queue) : size(queue), desc(spec::packed_desc_bytes(queue)) {}

  [[nodiscard]] ring::PackedLayout layout() {
    return {size, reinterpret_cast<spec::pvirtq_desc*>(desc.data()),
            reinterpret_cast<spec::pvirtq_event_suppress*>(driver.data()),
            reinterpret_cast<spec::pvirtq_event_suppress*>(device.data())};
  }
  [[nodiscard]] std::array<std::span<std::byte>, 5> parts() {
    return {desc, driver, device, first, second};
  }

  uint32_t size;
  std::vector<std::byte> desc;
  std::vector<std::byte> driver = std::vector<std::byte>(4);
  std::vector<std::byte> device = std::vector<std::byte>(4);
};

/// The driver that interferes, and the referee of what the device does.
class Referee {
 public:
  Referee(Peer& peer, FuzzedDataProvider& input, bool device_writes)
      : peer_(peer), input_(input), clock_(input), device_writes_(device_writes) {}

  void before_read(const void* at, size_t size) {
    if (clock_.tick()) change();
    require(inside(peer_.desc, at, size) || inside(peer_.driver, at, size) || in_guest(at, size),
            "a read outside of what a device may read");
  }
  void before_write(const void* to, size_t size) {
    if (clock_.tick()) change();
    require(inside(peer_.desc, to, size) || inside(peer_.device, to, size) ||
                (device_writes_ && in_guest(to, size)),
            "a write outside of what a device may write");
  }
  void copied(const void* /*from*/, const void* /*to*/, size_t /*size*/) {}
  void returned(const void* to, const void* from, size_t size) {
    if (inside(peer_.desc, to, size)) (void)check_used(to, from, size);
  }
  void published(const void* to, const void* from, size_t size) {
    if (!inside(peer_.desc, to, size)) return;
    const uint32_t slot = check_used(to, from, size);
    require(slot == next_used_, "a batch that does not begin where the last one ended");
    next_used_ = ~uint32_t{0};  // until the ring tells how far it went
  }

  void start_at(uint32_t slot) { next_used_ = slot; }
  [[nodiscard]] uint64_t accesses() const { return clock_.accesses(); }
  template <typename Ring>
  void check_returned(const Ring& ring) {
    require(ring.next_avail() == ring.next_used(), "a chain taken and not returned");
    require(!ring.unpublished(), "a used descriptor that was not published");
    next_used_ = ring.next_used().index;
  }

 private:
  bool in_guest(const void* at, size_t size) const {
    return inside(peer_.first, at, size) || inside(peer_.second, at, size);
  }

  /// The second half of a descriptor, at once, marked used; its place in the ring.
  uint32_t check_used(const void* to, const void* from, size_t size) const {
    const auto offset = static_cast<size_t>(static_cast<const std::byte*>(to) - peer_.desc.data());
    require(size == 8 && offset % 16 == 8, "a used descriptor written in part");
    uint64_t half = 0;
    std::memcpy(&half, from, sizeof half);
    const auto flags = static_cast<uint16_t>(half >> 48);
    require(((flags >> 7) & 1) == (flags >> 15), "a descriptor written that is not used");
    require(static_cast<uint16_t>(half >> 32) < peer_.size, "an id that no driver gave");
    return static_cast<uint32_t>(offset / 16);
  }

  /// One to eight bytes anywhere; more often where it hurts.
  void change() {
    const auto kind = input_.ConsumeIntegral<uint8_t>();
    if ((kind & 3) == 0) {
      const uint32_t slot = input_.ConsumeIntegral<uint16_t>() % peer_.size;
      const auto flags = input_.ConsumeIntegral<uint16_t>();
      std::memcpy(peer_.desc.data() + size_t{16} * slot + 14, &flags, 2);
      return;
    }
    const std::span<std::byte> part = (kind & 3) == 3 ? peer_.parts()[(kind >> 2) % 5] : peer_.desc;
    scribble(input_, part, 1 + (kind >> 5));
  }

  Peer& peer_;
  FuzzedDataProvider& input_;
  Clock clock_;
  bool device_writes_;
  uint32_t next_used_ = 0;
};

struct Deal {
  bool receives;  // the driver receives, the device writes
  bool in_order;
  uint64_t features;
  uint32_t queue;
  ring::PackedCursor start;
};

Deal negotiate(FuzzedDataProvider& input) {
  const auto bits = input.ConsumeIntegral<uint8_t>();
  Deal deal{};
  deal.receives = (bits & 1) != 0;
  deal.features = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_RING_PACKED;
  deal.in_order = (bits & 2) != 0;
  if ((bits & 4) != 0) deal.features |= spec::VIRTIO_NET_F_MRG_RXBUF;
  if ((bits & 8) != 0) deal.features |= spec::VIRTIO_F_INDIRECT_DESC;
  if ((bits & 16) != 0) deal.features |= spec::VIRTIO_F_EVENT_IDX;
  deal.queue = 1 + input.ConsumeIntegral<uint8_t>();
  if ((bits & 32) != 0) {
    deal.start.index = static_cast<uint16_t>(input.ConsumeIntegral<uint8_t>() % deal.queue);
  }
  deal.start.wrap = (bits & 64) == 0;
  return deal;
}

/// A ring that is mostly good, so that the input need not find out how to make one: chains of one
/// to four descriptors or a table, lengths and places by the input.
void set_up(Peer& peer, const Deal& deal, FuzzedDataProvider& input) {
  const uint16_t write = deal.receives ? spec::VIRTQ_DESC_F_WRITE : uint16_t{0};
  const auto put = [](std::byte* table, uint32_t i, const spec::pvirtq_desc& desc) {
    std::memcpy(table + size_t{16} * i, &desc, sizeof desc);
  };
  const auto element = [&](uint16_t id, uint16_t flags) {
    const uint64_t addr = kGuest + input.ConsumeIntegral<uint16_t>() % (kFirstSize + kSecondSize);
    const auto len = static_cast<uint32_t>(input.ConsumeIntegral<uint16_t>() % 3000);
    return spec::pvirtq_desc{addr, len, id, flags};
  };
  ring::PackedCursor at = deal.start;
  for (uint32_t used = 0; used < peer.size && input.remaining_bytes() > 16;) {
    const auto shape = input.ConsumeIntegral<uint8_t>();
    const uint16_t id = at.index;
    if ((shape & 7) == 7 && (deal.features & spec::VIRTIO_F_INDIRECT_DESC) != 0) {
      const size_t entries = 1 + (shape >> 4);
      const size_t place = input.ConsumeIntegral<uint16_t>() % (kFirstSize - 16 * entries);
      for (uint32_t e = 0; e < entries; ++e) {
        put(peer.first.data() + place, e, element(0, write));
      }
      const auto flags =
          static_cast<uint16_t>(spec::VIRTQ_DESC_F_INDIRECT | ring::packed_avail_flags(at.wrap));
      put(peer.desc.data(), at.index,
          {kGuest + place, static_cast<uint32_t>(16 * entries), id, flags});
      at = at.advanced(1, peer.size);
      ++used;
      continue;
    }
    const uint32_t length = std::min<uint32_t>(1 + (shape >> 6), peer.size - used);
    for (uint32_t e = 0; e < length; ++e) {
      const uint16_t next = e + 1 == length ? 0 : spec::VIRTQ_DESC_F_NEXT;
      put(peer.desc.data(), at.index,
          element(id, static_cast<uint16_t>(write | next | ring::packed_avail_flags(at.wrap))));
      at = at.advanced(1, peer.size);
    }
    used += length;
  }
}

template <ring::UsedEntries kUsed>
auto make_ring(Peer& peer, const Deal& deal, Referee& referee) {
  referee.start_at(deal.start.index);
  return ring::PackedDeviceRing<Access<Referee>, kUsed>(
      {peer.layout(), deal.start, (deal.features & spec::VIRTIO_F_INDIRECT_DESC) != 0,
       (deal.features & spec::VIRTIO_F_EVENT_IDX) != 0},
      PeerView(*peer.memory), Access<Referee>(referee));
}

}  // namespace
}  // namespace pollux

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pollux;
  using ring::UsedEntries;
  FuzzedDataProvider input(data, size);
  const Deal deal = negotiate(input);
  Peer peer(deal.queue);
  set_up(peer, deal, input);
  Referee referee(peer, input, deal.receives);
  if (deal.receives) {
    fuzz::send_some(make_ring<UsedEntries::kEach>(peer, deal, referee), deal.features, referee,
                    input);
  } else if (deal.in_order) {
    fuzz::poll_some(make_ring<UsedEntries::kOneForMany>(peer, deal, referee), deal.features,
                    referee);
  } else {
    fuzz::poll_some(make_ring<UsedEntries::kEach>(peer, deal, referee), deal.features, referee);
  }
  fuzz::check_pool();
  return 0;
}
