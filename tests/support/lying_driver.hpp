// SPDX-License-Identifier: Apache-2.0
// A guest's driver without rings of our own code: memory in a file that anyone may have shrunk, and
// rings of either format filled as they should be, but for the twist that a test gives a
// descriptor.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "pollux/spec/virtio_net.hpp"
#include "pollux/spec/virtio_ring.hpp"

namespace pollux::liar {

inline constexpr size_t kPage = 4096;
inline constexpr size_t kMemory = 16 * kPage;
inline constexpr uint64_t kUser = 0x7f0000000000;  // where the front end has the memory
inline constexpr uint64_t kGuest = 0x100000;       // where the guest has it
inline constexpr uint64_t kIova = 0x40000000;      // where its IOMMU shows it to devices
inline constexpr uint32_t kRings = 4;              // one a page, from the start of the memory
inline constexpr uint32_t kControl = kRings;       // the ring behind them, if there is one
inline constexpr size_t kBuffers = (kRings + 1) * kPage;
// Within a ring's page: descriptors, then the parts that one side writes, then indirect tables.
inline constexpr size_t kAvailAt = 1024;
inline constexpr size_t kUsedAt = 2048;
inline constexpr size_t kTablesAt = 3072;

/// Accesses are calls to the kernel, so that a file cut short is nothing to die of.
class GuestMemory {
 public:
  explicit GuestMemory(int fd) : fd_(fd) {}

  void put(size_t at, const void* from, size_t size) const {
    (void)!pwrite(fd_, from, size, static_cast<off_t>(at % kMemory));
  }
  template <typename T>
  [[nodiscard]] T get(size_t at) const {
    T value{};
    (void)!pread(fd_, &value, sizeof value, static_cast<off_t>(at % kMemory));
    return value;
  }
  [[nodiscard]] std::vector<std::byte> all() const {
    std::vector<std::byte> bytes(kMemory);
    (void)!pread(fd_, bytes.data(), bytes.size(), 0);
    return bytes;
  }

 private:
  int fd_;
};

struct Piece {
  uint64_t addr;
  uint32_t len;
  bool write = false;  // for the device to write, if the whole chain is not
};

/// One field of one descriptor of a chain that is not as it should be.
struct Twist {
  unsigned descriptor = 0;
  unsigned field = 0;  // addr, len, flags, next or id
  uint64_t value = 0;
};

/// The driver of one ring, split or packed. Makes chains of up to kChain buffers, and as many as
/// the device gives back.
class RingDriver {
 public:
  static constexpr size_t kChain = 4;
  static constexpr size_t kAtOnce = 16;  // chains

  RingDriver(GuestMemory memory, uint32_t ring, bool packed, uint32_t size, uint64_t base)
      : memory_(memory), page_(ring * kPage), packed_(packed), size_(size), base_(base) {
    const std::array<std::byte, kTablesAt> zeros{};
    memory_.put(page_, zeros.data(), zeros.size());
  }

  /// True when the device has given everything back.
  [[nodiscard]] bool idle() { return waiting() == 0; }
  /// Chains that the device has.
  [[nodiscard]] size_t waiting() {
    reap();
    return pending_.size();
  }

  /// The used index as SET_VRING_BASE tells it: where a device goes on that finds the ring so.
  [[nodiscard]] uint32_t used() {
    if (!packed_) return memory_.get<uint16_t>(page_ + kUsedAt + 2);
    reap();
    const uint16_t slot = pending_.empty() ? at_ : pending_.front().slot;
    const bool wrap = pending_.empty() ? wrap_ : pending_.front().wrap;
    return (slot | (wrap ? 0x8000U : 0U)) * 0x10001U;
  }

  /// False when the device has all that it may have. `writable`: for the device to write.
  bool offer(std::span<const Piece> chain, bool writable, bool indirect,
             const std::optional<Twist>& twist) {
    reap();
    if (pending_.size() == kAtOnce) return false;
    const size_t table = page_ + kTablesAt + (turn_ % kAtOnce) * kChain * 16;
    const auto begin = packed_ ? at_ : static_cast<uint16_t>(turn_ % kAtOnce * kChain);
    std::vector<Descriptor> all;
    for (const Piece& piece : chain) {
      const bool last = all.size() + 1 == chain.size();
      uint16_t flags = writable || piece.write ? spec::VIRTQ_DESC_F_WRITE : uint16_t{0};
      if (!last && !(packed_ && indirect)) flags |= spec::VIRTQ_DESC_F_NEXT;
      const auto next = static_cast<uint16_t>((indirect ? 0 : begin) + all.size() + 1);
      all.push_back({piece.addr, piece.len, flags, packed_ ? id() : next});
    }
    if (twist) apply(*twist, all);
    if (indirect) {
      for (size_t i = 0; i < all.size(); ++i) write(table + 16 * i, all[i]);
      const uint64_t place = base_ + table;
      const auto bytes = static_cast<uint32_t>(16 * all.size());
      all = {{place, bytes, spec::VIRTQ_DESC_F_INDIRECT, id()}};
      if (twist && twist->descriptor >= kChain) apply(*twist, all);
    }
    packed_ ? show_packed(all) : show_split(begin, all);
    ++turn_;
    return true;
  }

 private:
  struct Descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t tail;  // next, or the id
  };
  struct Pending {
    uint16_t slot;
    uint16_t id;
    bool wrap;
  };

  [[nodiscard]] uint16_t id() const { return static_cast<uint16_t>(turn_ % kAtOnce); }

  static void apply(const Twist& twist, std::vector<Descriptor>& all) {
    Descriptor& d = all[twist.descriptor % all.size()];
    switch (twist.field % 4) {
      case 0:
        d.addr = twist.value;
        break;
      case 1:
        d.len = static_cast<uint32_t>(twist.value);
        break;
      case 2:
        d.flags ^= twist.value & 7;
        break;
      default:
        d.tail = static_cast<uint16_t>(twist.value);
    }
  }

  /// The packed descriptor has length, id and flags in another order than the split one.
  void write(size_t at, const Descriptor& d) const {
    if (packed_) {
      const spec::pvirtq_desc desc{d.addr, d.len, d.tail, d.flags};
      memory_.put(at, &desc, sizeof desc);
    } else {
      const spec::virtq_desc desc{d.addr, d.len, d.flags, d.tail};
      memory_.put(at, &desc, sizeof desc);
    }
  }

  void show_split(uint16_t begin, const std::vector<Descriptor>& all) {
    for (size_t i = 0; i < all.size(); ++i) write(page_ + 16 * (begin + i), all[i]);
    memory_.put(page_ + kAvailAt + 4 + size_t{2} * (turn_ % size_), &begin, sizeof begin);
    const auto index = static_cast<uint16_t>(turn_ + 1);
    memory_.put(page_ + kAvailAt + 2, &index, sizeof index);
    pending_.push_back({begin, id(), true});
  }

  /// The first descriptor last, as it shows the others.
  void show_packed(std::vector<Descriptor> all) {
    pending_.push_back({at_, id(), wrap_});
    std::vector<uint16_t> slots;
    for (Descriptor& d : all) {
      d.flags |= wrap_ ? spec::VIRTQ_DESC_F_AVAIL : spec::VIRTQ_DESC_F_USED;
      slots.push_back(at_);
      if (++at_ == size_) {
        at_ = 0;
        wrap_ = !wrap_;
      }
    }
    for (size_t i = all.size(); i-- != 0;) write(page_ + size_t{16} * slots[i], all[i]);
  }

  /// Forgets what the device gave back. It is believed: it is ours.
  void reap() {
    if (!packed_) {
      const auto used = memory_.get<uint16_t>(page_ + kUsedAt + 2);
      while (!pending_.empty() && static_cast<uint16_t>(turn_ - used) < pending_.size()) {
        pending_.pop_front();
      }
      return;
    }
    while (!pending_.empty()) {
      const auto desc = memory_.get<spec::pvirtq_desc>(page_ + size_t{16} * pending_.front().slot);
      const bool avail = (desc.flags & spec::VIRTQ_DESC_F_AVAIL) != 0;
      const bool used = (desc.flags & spec::VIRTQ_DESC_F_USED) != 0;
      if (avail != used || used != pending_.front().wrap) return;
      // In order, one entry stands for all up to it.
      while (!pending_.empty() && pending_.front().id != desc.id) pending_.pop_front();
      if (!pending_.empty()) pending_.pop_front();
    }
  }

  GuestMemory memory_;
  size_t page_;
  bool packed_;
  uint32_t size_;
  uint64_t base_;  // the device's address of the memory
  uint64_t turn_ = 0;
  uint16_t at_ = 0;
  bool wrap_ = true;
  std::deque<Pending> pending_;
};

/// Ethernet, IPv4 and TCP with right lengths, behind a net header.
inline std::vector<uint8_t> tcp_packet(const spec::virtio_net_hdr& hdr, size_t payload,
                                       uint8_t destination, uint8_t source) {
  constexpr size_t kHdr = 12;
  std::vector<uint8_t> bytes(kHdr + 54 + payload, 0x5a);
  std::memset(bytes.data(), 0, kHdr + 54);
  std::memcpy(bytes.data(), &hdr, kHdr);
  uint8_t* frame = bytes.data() + kHdr;
  frame[0] = frame[6] = 2;
  frame[5] = destination;
  frame[11] = source;
  frame[12] = 0x08;
  frame[14] = 0x45;
  frame[16] = static_cast<uint8_t>((40 + payload) >> 8);
  frame[17] = static_cast<uint8_t>(40 + payload);
  frame[22] = 64;
  frame[23] = 6;
  frame[46] = 0x50;
  frame[47] = 0x10;
  return bytes;
}

}  // namespace pollux::liar
