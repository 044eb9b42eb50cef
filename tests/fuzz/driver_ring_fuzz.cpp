// SPDX-License-Identifier: Apache-2.0
// The driver side of a network device, on rings of either format, against a device that may write
// to everything it can write to, between any two accesses of ours: ring memory, indirect tables and
// buffers. Nothing may crash, nothing may be read or written outside, and in the end every buffer
// and packet is the pool's again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "pollux/packet/burst.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"

namespace {

using namespace pollux;

/// The fuzzer's bytes as decisions; zeros when they run out.
class Choices {
 public:
  explicit Choices(std::span<const uint8_t> data) : data_(data) {}
  bool more() const { return !data_.empty(); }
  uint8_t byte() {
    if (data_.empty()) return 0;
    const uint8_t value = data_.front();
    data_ = data_.subspan(1);
    return value;
  }
  uint16_t word() { return static_cast<uint16_t>(byte() | byte() << 8); }

 private:
  std::span<const uint8_t> data_;
};

/// The hostile device: what it may write to and what it decides to.
struct Device {
  virtual ~Device() = default;

  void act() {
    if (choices == nullptr || !choices->more()) return;
    const uint8_t what = choices->byte() % 16;
    if (what == 6) return scribble(tables);
    if (what == 7) return scribble(buffers);
    if (what == 8 || what == 9) return use_as_it_should(choices->word() % 2100);
    scribble_ring(what);
  }

  /// One of the ways to change the ring itself; nothing for numbers that mean none.
  virtual void scribble_ring(uint8_t what) = 0;
  /// Returns what is available next, with a plausible header.
  virtual void use_as_it_should(uint32_t len) = 0;

  void scribble(std::span<std::byte> memory) {
    if (memory.empty()) return;
    const size_t at = choices->word() * 5 % memory.size();
    const size_t n = std::min<size_t>(choices->byte() % 32, memory.size() - at);
    for (size_t i = 0; i < n; ++i) memory[at + i] = static_cast<std::byte>(choices->byte());
  }
  void write_header(uint64_t at) {
    if (at >= buffers.size() || buffers.size() - at <= 12) return;
    std::memset(buffers.data() + at, 0, 12);
    buffers[at] = static_cast<std::byte>(choices->byte() & 3);
    buffers[at + 1] = static_cast<std::byte>(choices->byte() & 5);
    buffers[at + 10] = static_cast<std::byte>(choices->byte() % 40);
  }

  Choices* choices = nullptr;
  std::span<std::byte> tables;
  std::span<std::byte> buffers;
};

struct SplitDevice final : Device {
  ring::SplitLayout layout{};
  uint16_t used = 0;  // an index that is plausible most of the time

  void scribble_ring(uint8_t what) override {
    switch (what) {
      case 0:
        layout.used->idx = choices->word();
        break;
      case 1:
        layout.used->ring[choices->byte() % layout.size] = {choices->word(), choices->word()};
        break;
      case 2:
        layout.used->flags = choices->word();
        break;
      case 3:
        *layout.avail_event() = choices->word();
        break;
      case 4:
        scribble({reinterpret_cast<std::byte*>(layout.desc), spec::desc_bytes(layout.size)});
        break;
      case 5:
        scribble({reinterpret_cast<std::byte*>(layout.avail), spec::avail_bytes(layout.size)});
        break;
      default:
        break;
    }
  }

  void use_as_it_should(uint32_t len) override {
    if (used == layout.avail->idx) return;
    const uint16_t head = layout.avail->ring[used % layout.size];
    layout.used->ring[used % layout.size] = {head, len};
    layout.used->idx = ++used;
    write_header(layout.desc[head % layout.size].addr);
  }
};

struct PackedDevice final : Device {
  ring::PackedLayout layout{};
  ring::PackedCursor avail;  // plausible most of the time, and equal unless it returns a batch
  ring::PackedCursor used;

  void scribble_ring(uint8_t what) override {
    spec::pvirtq_desc& desc = layout.desc[used.index];
    switch (what) {
      case 0:
        desc.flags = choices->word();
        break;
      case 1:
        desc.id = choices->word();
        desc.len = choices->word();
        desc.flags = ring::packed_used_flags(used.wrap);
        break;
      case 2:
        layout.device->flags = choices->word();
        break;
      case 3:
        layout.device->desc = choices->word();
        break;
      case 4:
        scribble({reinterpret_cast<std::byte*>(layout.desc), spec::packed_desc_bytes(layout.size)});
        break;
      case 5:
        avail = used = ring::PackedCursor::from_wire(
            static_cast<uint16_t>(choices->word() % layout.size | (choices->byte() & 1) << 15));
        break;
      case 10:  // in order, a batch: its last chain stands for all
        (void)take();
        break;
      default:
        break;
    }
  }

  /// The next chain's last descriptor.
  spec::pvirtq_desc take() {
    spec::pvirtq_desc desc{};
    for (uint32_t i = 0; i < layout.size; ++i) {
      desc = layout.desc[avail.index];
      if ((desc.flags & ring::kPackedOwnerFlags) != ring::packed_avail_flags(avail.wrap)) break;
      avail = avail.advanced(1, layout.size);
      if ((desc.flags & spec::VIRTQ_DESC_F_NEXT) == 0) break;
    }
    return desc;
  }

  void use_as_it_should(uint32_t len) override {
    const ring::PackedCursor from = avail;
    const spec::pvirtq_desc last = take();
    if (avail == from) return;
    const uint64_t addr = layout.desc[from.index].addr;
    layout.desc[used.index] = {addr, len, last.id, ring::packed_used_flags(used.wrap)};
    used = avail;
    write_header(addr);
  }
};

/// SharedAccess with the device's turn before each access.
struct HostileAccess : SharedAccess {
  Device* device = nullptr;

  template <typename T>
  T load(const T* from) const noexcept {
    device->act();
    return SharedAccess::load(from);
  }
  template <typename T>
  T load_acquire(const T* from) const noexcept {
    device->act();
    return SharedAccess::load_acquire(from);
  }
  template <typename T>
  void store(T* to, T value) const noexcept {
    device->act();
    SharedAccess::store(to, value);
  }
  template <typename T>
  void store_release(T* to, T value) const noexcept {
    device->act();
    SharedAccess::store_release(to, value);
  }
  template <typename T>
  T snapshot(const void* from) const noexcept {
    device->act();
    return SharedAccess::snapshot<T>(from);
  }
  void copy_in(void* to, const void* from, size_t size) const noexcept {
    device->act();
    SharedAccess::copy_in(to, from, size);
  }
  void copy_out(void* to, const void* from, size_t size) const noexcept {
    device->act();
    SharedAccess::copy_out(to, from, size);
  }
};

constexpr uint32_t kEntries = 38;

void require(bool condition) {
  if (!condition) std::abort();
}

/// What the formats differ in.
struct SplitFormat {
  using Device = SplitDevice;
  using Ring = ring::SplitDriverRing<HostileAccess>;
  static size_t bytes(uint32_t size) { return ring::split_bytes(size); }
  static ring::SplitLayout place(std::byte* at, uint32_t size) {
    return ring::place_split(at, size);
  }
  static uint32_t size(uint8_t choice) { return uint32_t{1} << choice % 9; }
};
struct PackedFormat {
  using Device = PackedDevice;
  using Ring = ring::PackedDriverRing<HostileAccess>;
  static size_t bytes(uint32_t size) { return ring::packed_bytes(size); }
  static ring::PackedLayout place(std::byte* at, uint32_t size) {
    return ring::place_packed(at, size);
  }
  static uint32_t size(uint8_t choice) { return 1U + choice; }
};

/// Ring and tables in memory of their own, so that a step outside is seen.
template <typename Format>
struct Queue {
  Queue(uint32_t size, Choices& choices, Pool& pool)
      : ring_memory(static_cast<std::byte*>(std::aligned_alloc(64, Format::bytes(size)))),
        tables(4 * kEntries) {
    std::memset(ring_memory.get(), 0, Format::bytes(size));
    device.layout = Format::place(ring_memory.get(), size);
    device.tables = std::as_writable_bytes(std::span(tables));
    device.buffers = pool.region().bytes();
    device.choices = &choices;
  }
  typename Format::Ring ring(bool event_idx, bool in_order, bool indirect) {
    HostileAccess access;
    access.device = &device;
    ring::DriverRingOptions options{.event_idx = event_idx, .in_order = in_order};
    if (indirect) options.indirect = {tables.data(), uint64_t{1} << 40, 4, kEntries};
    return typename Format::Ring(device.layout, options, access);
  }

  struct Free {
    void operator()(std::byte* at) const { std::free(at); }
  };
  std::unique_ptr<std::byte, Free> ring_memory;
  std::vector<spec::virtq_desc> tables;  // 16 bytes each in either format
  typename Format::Device device;
};

virtio::NetDriverConfig config(Pool& pool, uint8_t bits) {
  using namespace spec;
  uint64_t features = 0;
  if ((bits & 1) != 0) features |= VIRTIO_F_VERSION_1;
  if ((bits & 2) != 0) features |= VIRTIO_NET_F_MRG_RXBUF;
  if ((bits & 4) != 0) {
    features |= VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 |
                VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6;
  }
  return {.window = {pool.region().data(), pool.region().size(), 0}, .features = features};
}

/// Packets are judged by their private parts only, whatever the device does to their tails.
void check(const Burst& burst) {
  for (const Packet* packet : burst.packets()) {
    require(packet->size() >= 14 && packet->size() <= Packet::kMaxLength);
    require(packet->head_size() >= std::min<uint32_t>(packet->size(), Packet::kHeadCopy));
    std::vector<std::byte> all(packet->size());
    require(packet->copy_to(all.data(), 0, all.size()) == all.size());
    if (packet->meta.needs_csum) {
      require(packet->meta.csum_start + packet->meta.csum_offset + 2U <= packet->size());
    }
  }
}

template <typename Tx>
void send_some(Tx& tx, Burst& burst, Choices& choices, QueueCounters& counters) {
  const size_t count = choices.byte() % 40;
  const uint32_t size = choices.word() % 6000;
  for (size_t i = 0; i < count && burst.room() != 0; ++i) {
    Packet* packet = burst.cache().allocate();
    if (packet == nullptr) break;
    const uint32_t head = std::min<uint32_t>(size, Packet::kHeadCopy);
    packet->set_head_size(head);
    std::memset(packet->head(), 0x55, head);
    if (!burst.cache().append_room(*packet, size - head)) {
      burst.cache().release(packet);
      break;
    }
    burst.push(packet);
  }
  (void)tx.send(burst, counters);
  (void)tx.publish();
  if ((choices.byte() & 1) != 0) burst.clear();
}

template <typename Format>
void run(Pool& pool, uint8_t bits, Choices& choices) {
  using Ring = typename Format::Ring;
  const uint32_t size = Format::size(choices.byte());
  Queue<Format> rx_queue(size, choices, pool);
  Queue<Format> tx_queue(size, choices, pool);
  PoolCache cache(pool);
  QueueCounters counters;
  const bool event_idx = (bits & 8) != 0;
  const bool in_order = (bits & 64) != 0;
  const auto net = config(pool, bits);
  virtio::NetDriverRx<Ring> rx(rx_queue.ring(event_idx, in_order, false), pool, net);
  virtio::NetDriverTx<Ring> tx(tx_queue.ring(event_idx, in_order, (bits & 16) != 0), pool, net);
  (void)rx.fill(cache);
  Burst received(cache);
  Burst sent(cache);
  for (int turn = 0; turn < 200 && choices.more(); ++turn) {
    (void)rx.poll(received, counters);
    check(received);
    switch (choices.byte() % 4) {
      case 0:
        send_some(tx, sent, choices, counters);
        break;
      case 1:  // what came in goes out
        (void)tx.send(received, counters);
        (void)tx.publish();
        break;
      default:
        break;
    }
    received.clear();
  }
  sent.clear();
  received.clear();
  rx.stop(cache);
  tx.stop(cache);
}

void run(Choices choices) {
  static const std::unique_ptr<Pool> pool =
      std::move(Pool::create({.packets = 128, .buffers = 256, .pages = HugePages::kNever}).value());
  const uint8_t bits = choices.byte();
  if ((bits & 32) != 0) {
    run<PackedFormat>(*pool, bits, choices);
  } else {
    run<SplitFormat>(*pool, bits, choices);
  }
  require(pool->free_buffers() == pool->buffer_count());
  require(pool->free_packets() == pool->packet_count());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  run(Choices({data, size}));
  return 0;
}
