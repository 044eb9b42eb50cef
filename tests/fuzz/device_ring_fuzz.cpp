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
#include <cstring>
#include <span>
#include <vector>

#include "pollux/ring/split_device_ring.hpp"
#include "tests/fuzz/device_queue.hpp"

namespace pollux {
namespace {

using namespace fuzz;

constexpr uint32_t kMaxQueue = 256;

/// A guest's memory and one ring of it, in heap blocks of exact sizes.
struct Peer : GuestBlocks {
  explicit Peer(uint32_t queue)
      : size(queue),
        desc(spec::desc_bytes(queue)),
        avail(spec::avail_bytes(queue)),
        used(spec::used_bytes(queue)) {}

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
};

/// The driver that interferes, and the referee of what the device does.
class Referee {
 public:
  Referee(Peer& peer, FuzzedDataProvider& input, bool device_writes)
      : peer_(peer), input_(input), clock_(input), device_writes_(device_writes) {}

  void before_read(const void* at, size_t size) {
    if (clock_.tick()) change();
    require(inside(peer_.desc, at, size) || inside(peer_.avail, at, size) || in_guest(at, size),
            "a read outside of what a device may read");
  }
  void before_write(const void* to, size_t size) {
    if (clock_.tick()) change();
    require(inside(peer_.used, to, size) || (device_writes_ && in_guest(to, size)),
            "a write outside of what a device may write");
  }
  /// Heads are copied out of the ring, many at once.
  void copied(const void* from, const void* to, size_t size) {
    const std::byte* ring = peer_.avail.data() + 4;
    if (!inside({ring, size_t{2} * peer_.size}, from, size)) return;
    std::memcpy(&heads_[static_cast<size_t>(static_cast<const std::byte*>(from) - ring) / 2], to,
                size);
  }
  void returned(const void* to, const void* from, size_t size) {
    const std::byte* ring = peer_.used.data() + 4;
    // The flags before the entries, and the event behind them, are no entries.
    if (!inside({ring, size_t{8} * peer_.size}, to, size)) return;
    spec::virtq_used_elem elem{};
    require(size == sizeof elem, "a used entry written in part");
    std::memcpy(&elem, from, sizeof elem);
    const uint32_t slot = next_used_ % peer_.size;
    require(to == ring + size_t{8} * slot, "a used entry out of order");
    require(elem.id == heads_[slot], "a chain returned under another head than was read");
    ++next_used_;
  }
  void published(const void* /*to*/, const void* from, size_t /*size*/) {
    std::memcpy(&published_, from, sizeof published_);
  }

  void start_at(uint16_t index) { next_used_ = published_ = index; }
  [[nodiscard]] uint64_t accesses() const { return clock_.accesses(); }
  template <typename Ring>
  void check_returned(const Ring& ring) const {
    require(ring.next_avail() == next_used_, "a chain taken and not returned");
    require(published_ == next_used_, "a used entry that was not published");
  }

 private:
  bool in_guest(const void* at, size_t size) const {
    return inside(peer_.first, at, size) || inside(peer_.second, at, size);
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
    scribble(input_, part, 1 + (kind >> 5));
  }

  Peer& peer_;
  FuzzedDataProvider& input_;
  Clock clock_;
  bool device_writes_;
  std::array<uint16_t, kMaxQueue> heads_{};
  uint16_t next_used_ = 0;
  uint16_t published_ = 0;
};

using Ring = ring::SplitDeviceRing<Access<Referee>>;

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

Ring make_ring(Peer& peer, const Deal& deal, Referee& referee) {
  referee.start_at(deal.start);
  return Ring({peer.layout(), deal.start, (deal.features & spec::VIRTIO_F_INDIRECT_DESC) != 0,
               (deal.features & spec::VIRTIO_F_EVENT_IDX) != 0},
              PeerView(*peer.memory), Access<Referee>(referee));
}

}  // namespace
}  // namespace pollux

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pollux;
  FuzzedDataProvider input(data, size);
  const Deal deal = negotiate(input);
  Peer peer(deal.queue);
  set_up(peer, deal, input);
  Referee referee(peer, input, deal.receives);
  if (deal.receives) {
    fuzz::send_some(make_ring(peer, deal, referee), deal.features, referee, input);
  } else {
    fuzz::poll_some(make_ring(peer, deal, referee), deal.features, referee);
  }
  fuzz::check_pool();
  return 0;
}
