// SPDX-License-Identifier: Apache-2.0
// A switch of three guests: `liar`, and two honest ones, whose traffic must not notice what the
// first one does. All guest memory lies between pages that nobody may touch.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "pollux/engine/turn.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/tcp_frame.hpp"

namespace pollux::hostile {

using namespace test;
using ring::RingError;
using Ring = ring::SplitDeviceRing<HookedAccess>;

inline constexpr uint32_t kSize = 8;
inline constexpr uint32_t kHdr = 12;

// Guest addresses. The first two regions are adjacent; nothing lies behind the second.
inline constexpr uint64_t kFirst = 0x10000;
inline constexpr uint64_t kSecond = 0x50000;
inline constexpr uint64_t kEnd = 0x60000;
inline constexpr uint64_t kNowhere = 0x70000000;
// Where a guest finds its own rings.
inline constexpr uint64_t kDescTable = 0x100000;
inline constexpr uint64_t kAvailRing = 0x200000;
inline constexpr uint64_t kUsedRing = 0x300000;

/// To everybody, from one of three addresses.
inline Bytes broadcast(size_t size, uint8_t from, unsigned seed = 1) {
  Bytes frame = pattern(size, seed);
  std::fill_n(frame.begin(), std::min<size_t>(6, size), std::byte{0xff});
  const Bytes source{std::byte{2}, {}, {}, {}, {}, std::byte{from}};
  for (size_t i = 0; i < 6 && i + 6 < size; ++i) frame[6 + i] = source[i];
  if (size > 13) put_be16(&frame[12], 0x88b5);
  return frame;
}

inline Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

/// How a guest came to terms with its device.
struct Terms {
  bool mergeable = true;
  bool indirect = true;
  bool event_idx = false;
  uint32_t offloads = 0;  // kTx... bits
};

/// A guest with its two rings, and the switch's side of them.
class Peer {
 public:
  Peer(uint8_t number, const Terms& terms, uint32_t size = kSize)
      : number_(number),
        sends(size),
        receives(size),
        guest({{kFirst, kSecond - kFirst}, {kSecond, kEnd - kSecond}}, rings_of(sends)),
        rx(Ring({sends.layout(), 0, terms.indirect, terms.event_idx}, guest.view(),
                HookedAccess(hook)),
           features(terms)),
        tx(Ring({receives.layout(), 0, terms.indirect, terms.event_idx}, guest.view(),
                HookedAccess(hook)),
           features(terms)),
        offloads(terms.offloads) {}

  RxQueue rx_queue() { return {this, poll, complete, &in}; }
  TxQueue tx_queue() { return {this, send, flush, &offloads, &out}; }
  [[nodiscard]] uint8_t number() const { return number_; }

  /// Puts bytes into fresh memory and offers them as one descriptor.
  void offer(uint16_t desc, const Bytes& all) {
    sends.desc(desc, guest.place(all), static_cast<uint32_t>(all.size()));
    sends.offer(desc);
  }
  /// A good frame with this header.
  void offer_frame(uint16_t desc, const Bytes& frame, const NetHeader& hdr = {}) {
    offer(desc, hdr.bytes() + frame);
  }
  /// A table of descriptors in fresh memory at a multiple of 16.
  uint64_t table(const std::vector<std::array<uint64_t, 4>>& entries) {
    const uint64_t addr = (guest.allocate(16 * entries.size() + 15) + 15) / 16 * 16;
    for (uint32_t i = 0; i < entries.size(); ++i) {
      DriverImage::put_desc(guest.at(addr), i, entries[i][0], static_cast<uint32_t>(entries[i][1]),
                            static_cast<uint16_t>(entries[i][2]),
                            static_cast<uint16_t>(entries[i][3]));
    }
    return addr;
  }
  void post(uint16_t desc, uint32_t size) {
    receives.desc(desc, guest.allocate(size), size, kWrite);
    receives.offer(desc);
  }

 private:
  uint8_t number_;

 public:
  HookedAccess::Hook hook;
  DriverImage sends;
  DriverImage receives;
  Guest guest;
  virtio::NetDeviceRx<Ring> rx;
  virtio::NetDeviceTx<Ring> tx;
  QueueCounters in;
  QueueCounters out;
  std::atomic<uint32_t> offloads;

 private:
  static uint64_t features(const Terms& terms) {
    return spec::VIRTIO_F_VERSION_1 | (terms.mergeable ? spec::VIRTIO_NET_F_MRG_RXBUF : 0);
  }
  static std::vector<PeerRegion> rings_of(const DriverImage& image) {
    const auto region = [](uint64_t at, const GuardedMemory& memory) {
      return PeerRegion{GuestAddr{at}, UserAddr{at}, memory.size(), memory.data(), nullptr};
    };
    return {region(kDescTable, image.desc_memory()), region(kAvailRing, image.avail_memory()),
            region(kUsedRing, image.used_memory())};
  }

  static void poll(void* self, Burst& burst) noexcept {
    auto& peer = *static_cast<Peer*>(self);
    peer.rx.poll(burst, peer.in);
  }
  static void complete(void* self) noexcept { (void)static_cast<Peer*>(self)->rx.complete(); }
  static DropReason send(void* self, Burst& burst) noexcept {
    auto& peer = *static_cast<Peer*>(self);
    peer.tx.send(burst, peer.out);
    return peer.tx.ring().error() == RingError::none ? DropReason::receiver_ring_full
                                                     : DropReason::receiver_down;
  }
  static void flush(void* self) noexcept { (void)static_cast<Peer*>(self)->tx.publish(); }
};

/// A switch between a liar and two honest guests with large receive rings.
class Switch {
 public:
  explicit Switch(const Terms& liars)
      : liar(0, liars),
        alice(1, {}, 128),
        bob(2, {}, 128),
        cache_(pool_.cache()),
        fdb_(std::move(stage::Fdb::create({.capacity = 64}).value())),
        turn_(0, cache_, *fdb_) {
    topology_.sources.resize(1);
    topology_.outputs.resize(3);
    for (Peer* peer : {&liar, &alice, &bob}) {
      topology_.sources[0].push_back({peer->rx_queue(), peer->number()});
      topology_.outputs[peer->number()] = {true, {peer->tx_queue()}};
      topology_.flood_ports.push_back(peer->number());
    }
    for (Peer* peer : {&alice, &bob}) {
      for (uint16_t i = 0; i < 128; ++i) peer->post(i, 1600);
    }
  }

  /// A turn for each.
  void run() {
    for (const RxSource& source : topology_.sources[0]) (void)turn_.run(topology_, source, 0);
  }
  void run(const Peer& peer) { (void)turn_.run(topology_, topology_.sources[0][peer.number()], 0); }

  [[nodiscard]] WorkerStats stats() const { return turn_.stats(); }
  [[nodiscard]] stage::Fdb& fdb() { return *fdb_; }

  /// What the engine promises of all packets.
  void expect_accounts_to_hold() const {
    uint64_t in = 0;
    uint64_t out = 0;
    for (const Peer* peer : {&liar, &alice, &bob}) {
      in += peer->in.packets.value();
      out += peer->out.packets.value() + all_drops(peer->in) + all_drops(peer->out);
    }
    EXPECT_EQ(in + turn_.stats().made(), out);
  }

  /// Alice's frame reaches Bob, and both get their descriptors back.
  void expect_the_honest_to_be_well() {
    const uint64_t addr = bob.receives.used_idx();
    const uint16_t sent = alice.sends.used_idx();
    const Bytes frame = broadcast(100, 1, 77);
    alice.offer_frame(3, frame);
    run();
    EXPECT_EQ(alice.sends.used_idx(), static_cast<uint16_t>(sent + 1));
    ASSERT_EQ(bob.receives.used_idx(), addr + 1);
    ASSERT_EQ(bob.receives.used_len(addr % 128), kHdr + 100);
    const uint64_t place = kFirst + 1600 * bob.receives.used_id(addr % 128);
    EXPECT_EQ(bob.guest.read(place + kHdr, 100), frame);
  }

 private:
  LeakChecked pool_{512, 64};

 public:
  Peer liar;
  Peer alice;
  Peer bob;

 private:
  PoolCache& cache_;
  std::unique_ptr<stage::Fdb> fdb_;
  Topology topology_;
  Turn turn_;
};

using Drops = std::map<DropReason, uint64_t>;

inline Drops drops_of(const QueueCounters& counters) {
  Drops drops;
  for (size_t r = 0; r < kDropReasonCount; ++r) {
    const auto reason = static_cast<DropReason>(r);
    if (counters.drops.value(reason) != 0) drops[reason] = counters.drops.value(reason);
  }
  return drops;
}

inline std::string in_words(const Drops& drops) {
  std::string text;
  for (const auto& [reason, count] : drops) {
    if (!text.empty()) text += ", ";
    text += std::string(info(reason).name) + " " + std::to_string(count);
  }
  return text;
}

/// What a liar sends, and what comes of it.
struct SendLie {
  std::string name;
  std::function<void(Peer&)> tell;
  Drops drops;             // counted on the liar's rx queue
  uint64_t delivered = 0;  // frames that reach each honest guest
  uint16_t used = 1;       // chains returned, all with length 0
  RingError error = RingError::none;
  Terms terms = {};

  friend void PrintTo(const SendLie& lie, std::ostream* os) {
    *os << "delivered " << lie.delivered << " times";
    if (!lie.drops.empty()) *os << ", counted as " << in_words(lie.drops);
    if (lie.error != RingError::none) *os << ", broken: " << ring::describe(lie.error);
  }
};

inline constexpr DropReason kBadDescriptor = DropReason::bad_descriptor;
inline constexpr DropReason kBadAddress = DropReason::bad_address;
inline constexpr DropReason kBadHeader = DropReason::bad_net_header;

inline Bytes good() { return NetHeader{}.bytes() + broadcast(60, 0); }

/// One descriptor with these fields.
inline std::function<void(Peer&)> one(uint64_t addr, uint32_t len, uint16_t flags = 0,
                                      uint16_t next = 0) {
  return [=](Peer& liar) {
    liar.sends.desc(0, addr, len, flags, next);
    liar.sends.offer(0);
  };
}

/// A good frame whose descriptor table refers to a table of `entries`, with a descriptor of `len`
/// and `flags`. Entry addresses of 0 stand for the frame.
inline std::function<void(Peer&)> through_table(std::vector<std::array<uint64_t, 4>> entries,
                                                uint32_t len, uint16_t flags = kIndirect,
                                                uint64_t shift = 0) {
  return [=](Peer& liar) {
    const uint64_t frame = liar.guest.place(good());
    auto filled = entries;
    for (auto& entry : filled) {
      if (entry[0] == 0) entry[0] = frame;
    }
    const uint64_t at = liar.table(filled) + shift;
    liar.sends.desc(0, at, len, flags, 1);
    liar.sends.desc(1, frame, 72);
    liar.sends.offer(0);
  };
}

/// A frame with a header.
inline std::function<void(Peer&)> framed(const Bytes& frame, const NetHeader& hdr) {
  return [=](Peer& liar) { liar.offer_frame(0, frame, hdr); };
}

inline NetHeader csum(uint16_t start, uint16_t offset) {
  return {.flags = 1, .csum_start = start, .csum_offset = offset};
}

inline NetHeader gso(uint8_t type, uint16_t size, uint16_t start = 34) {
  return {.flags = 1,
          .gso_type = type,
          .hdr_len = 54,
          .gso_size = size,
          .csum_start = start,
          .csum_offset = 16};
}

inline Bytes everybody(Bytes frame) {
  std::fill_n(frame.begin(), 6, std::byte{0xff});
  return frame;
}

/// TCP with something spoilt.
inline Bytes spoilt(size_t payload, bool v6, size_t at, uint8_t value) {
  Bytes frame = everybody(tcp_frame(payload, v6));
  frame[at] = std::byte{value};
  return frame;
}

/// A lie is told; exactly what it says comes of it, and the others notice nothing.
inline void expect_counted_and_harmless(const SendLie& lie) {
  Switch net(lie.terms);
  lie.tell(net.liar);
  const std::vector<Bytes> memory = net.liar.guest.snapshot();
  const Bytes table(net.liar.sends.desc_memory().bytes().begin(),
                    net.liar.sends.desc_memory().bytes().end());
  for (int i = 0; i < 3; ++i) net.run();

  EXPECT_EQ(drops_of(net.liar.in), lie.drops) << in_words(drops_of(net.liar.in));
  EXPECT_EQ(net.liar.rx.ring().error(), lie.error);
  EXPECT_EQ(net.liar.in.packets.value(), lie.used);
  EXPECT_EQ(net.liar.sends.used_idx(), lie.used);
  for (uint32_t i = 0; i < lie.used; ++i) EXPECT_EQ(net.liar.sends.used_len(i), 0u);
  for (Peer* honest : {&net.alice, &net.bob}) {
    EXPECT_EQ(honest->receives.used_idx(), lie.delivered);
    EXPECT_EQ(honest->out.packets.value(), lie.delivered);
    EXPECT_EQ(all_drops(honest->out), 0u);
  }
  // 2.7.5.2: not a byte of a sender's memory is written, whatever it asked for.
  EXPECT_EQ(net.liar.guest.snapshot(), memory);
  const auto now = net.liar.sends.desc_memory().bytes();
  EXPECT_TRUE(std::equal(table.begin(), table.end(), now.begin()));
  net.expect_accounts_to_hold();
  net.expect_the_honest_to_be_well();
}

/// The name of a case, for INSTANTIATE_TEST_SUITE_P.
inline const auto kLieName = [](const auto& lie) { return lie.param.name; };

}  // namespace pollux::hostile
