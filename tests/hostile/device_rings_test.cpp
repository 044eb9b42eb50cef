// SPDX-License-Identifier: Apache-2.0
// Guests that lie in their rings and headers: one table of lies for each direction, with what must
// come of it. Each runs in a switch of three guests: `liar`, and two honest ones, whose traffic
// must not notice. All guest memory lies between pages that nobody may touch.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "pollux/engine/turn.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"
#include "tests/support/tcp_frame.hpp"

namespace pollux {
namespace {

using ring::RingError;
using test::Bytes;
using test::DriverImage;
using test::Guest;
using test::HookedAccess;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::NetHeader;
using test::pattern;
using Ring = ring::SplitDeviceRing<HookedAccess>;

constexpr uint32_t kSize = 8;
constexpr uint32_t kHdr = 12;

// Guest addresses. The first two regions are adjacent; nothing lies behind the second.
constexpr uint64_t kFirst = 0x10000;
constexpr uint64_t kSecond = 0x50000;
constexpr uint64_t kEnd = 0x60000;
constexpr uint64_t kNowhere = 0x70000000;
// Where a guest finds its own rings.
constexpr uint64_t kDescTable = 0x100000;
constexpr uint64_t kAvailRing = 0x200000;
constexpr uint64_t kUsedRing = 0x300000;

/// To everybody, from one of three addresses.
Bytes broadcast(size_t size, uint8_t from, unsigned seed = 1) {
  Bytes frame = pattern(size, seed);
  std::fill_n(frame.begin(), std::min<size_t>(6, size), std::byte{0xff});
  const Bytes source{std::byte{2}, {}, {}, {}, {}, std::byte{from}};
  for (size_t i = 0; i < 6 && i + 6 < size; ++i) frame[6 + i] = source[i];
  if (size > 13) test::put_be16(&frame[12], 0x88b5);
  return frame;
}

Bytes operator+(Bytes left, const Bytes& right) {
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
    const auto region = [](uint64_t at, const test::GuardedMemory& memory) {
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

  /// What the engine promises of all packets.
  void expect_accounts_to_hold() const {
    const WorkerStats worker = turn_.stats();
    uint64_t in = 0;
    uint64_t out = 0;
    for (const Peer* peer : {&liar, &alice, &bob}) {
      in += peer->in.packets.value();
      out += peer->out.packets.value() + test::all_drops(peer->in) + test::all_drops(peer->out);
    }
    EXPECT_EQ(in - worker.floods + worker.flood_copies - worker.gso_packets + worker.gso_segments,
              out);
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
  test::LeakChecked pool_{512, 64};

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

Drops drops_of(const QueueCounters& counters) {
  Drops drops;
  for (size_t r = 0; r < kDropReasonCount; ++r) {
    const auto reason = static_cast<DropReason>(r);
    if (counters.drops.value(reason) != 0) drops[reason] = counters.drops.value(reason);
  }
  return drops;
}

std::string in_words(const Drops& drops) {
  std::string text;
  for (const auto& [reason, count] : drops) {
    text += std::string(info(reason).name) + " " + std::to_string(count) + ", ";
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

  friend void PrintTo(const SendLie& lie, std::ostream* os) { *os << lie.name; }
};

constexpr DropReason kBadDescriptor = DropReason::bad_descriptor;
constexpr DropReason kBadAddress = DropReason::bad_address;
constexpr DropReason kBadHeader = DropReason::bad_net_header;

Bytes good() { return NetHeader{}.bytes() + broadcast(60, 0); }

/// One descriptor with these fields.
std::function<void(Peer&)> one(uint64_t addr, uint32_t len, uint16_t flags = 0, uint16_t next = 0) {
  return [=](Peer& liar) {
    liar.sends.desc(0, addr, len, flags, next);
    liar.sends.offer(0);
  };
}

/// A good frame whose descriptor table refers to a table of `entries`, with a descriptor of `len`
/// and `flags`. Entry addresses of 0 stand for the frame.
std::function<void(Peer&)> through_table(std::vector<std::array<uint64_t, 4>> entries, uint32_t len,
                                         uint16_t flags = kIndirect, uint64_t shift = 0) {
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
std::function<void(Peer&)> framed(const Bytes& frame, const NetHeader& hdr) {
  return [=](Peer& liar) { liar.offer_frame(0, frame, hdr); };
}

NetHeader csum(uint16_t start, uint16_t offset) {
  return {.flags = 1, .csum_start = start, .csum_offset = offset};
}

NetHeader gso(uint8_t type, uint16_t size, uint16_t start = 34) {
  return {.flags = 1,
          .gso_type = type,
          .hdr_len = 54,
          .gso_size = size,
          .csum_start = start,
          .csum_offset = 16};
}

Bytes everybody(Bytes frame) {
  std::fill_n(frame.begin(), 6, std::byte{0xff});
  return frame;
}

/// TCP with something spoilt.
Bytes spoilt(size_t payload, bool v6, size_t at, uint8_t value) {
  Bytes frame = everybody(test::tcp_frame(payload, v6));
  frame[at] = std::byte{value};
  return frame;
}

std::vector<SendLie> descriptor_lies() {
  return {
      {"head_is_the_size", [](Peer& p) { p.sends.offer(kSize); }, {}, 0, 0, RingError::head_range},
      {"head_all_ones", [](Peer& p) { p.sends.offer(0xffff); }, {}, 0, 0, RingError::head_range},
      {"good_frame_then_bad_head",
       [](Peer& p) {
         p.offer(0, good());
         p.sends.offer(0x8000);
       },
       {},
       1,
       1,
       RingError::head_range},
      {"index_one_past_the_ring",
       [](Peer& p) { p.sends.avail_idx(kSize + 1); },
       {},
       0,
       0,
       RingError::avail_jump},
      {"index_half_way_round",
       [](Peer& p) { p.sends.avail_idx(0x8000); },
       {},
       0,
       0,
       RingError::avail_jump},
      {"index_goes_backwards",
       [](Peer& p) { p.sends.avail_idx(0xffff); },
       {},
       0,
       0,
       RingError::avail_jump},
      {"self_loop", one(kFirst, 64, kNext, 0), {{kBadDescriptor, 1}}},
      {"self_loop_of_nothing", one(kFirst, 0, kNext, 0), {{kBadDescriptor, 1}}},
      {"loop_of_two",
       [](Peer& p) {
         p.sends.desc(0, kFirst, 10, kNext, 1);
         p.sends.desc(1, kFirst, 10, kNext, 0);
         p.sends.offer(0);
       },
       {{kBadDescriptor, 1}}},
      {"loop_of_enormous_pieces", one(kFirst, 0x40000, kNext, 0), {{DropReason::too_long, 1}}},
      {"next_is_the_size", one(kFirst, 72, kNext, kSize), {{kBadDescriptor, 1}}},
      {"next_all_ones", one(kFirst, 72, kNext, 0xffff), {{kBadDescriptor, 1}}},
      {"writable", one(kFirst, 72, kWrite), {{kBadDescriptor, 1}}},
      {"second_is_writable",
       [](Peer& p) {
         p.sends.desc(0, p.guest.place(good()), 72, kNext, 1);
         p.sends.desc(1, kFirst, 72, kWrite);
         p.sends.offer(0);
       },
       {{kBadDescriptor, 1}}},
      {"unknown_flags_mean_nothing",
       [](Peer& p) {
         p.sends.desc(0, p.guest.place(good()), 72, 0xfff8, 0);
         p.sends.offer(0);
       },
       {},
       1},
      {"same_chain_offered_again",
       [](Peer& p) {
         p.offer(0, good());
         p.sends.offer(0);
       },
       {},
       2,
       2},
      {"indirect_loop_through_the_table",
       through_table({{0, 10, kNext, 1}, {0, 10, kNext, 0}}, 32),
       {{kBadDescriptor, 1}}},
      {"indirect_next_past_the_table",
       through_table({{0, 10, kNext, 2}, {0, 10, 0, 0}}, 32),
       {{kBadDescriptor, 1}}},
      {"indirect_next_past_the_table_but_in_the_queue",
       through_table({{0, 12, kNext, 1}}, 16),
       {{kBadDescriptor, 1}}},
      {"indirect_length_0", through_table({{0, 72, 0, 0}}, 0), {{kBadDescriptor, 1}}},
      {"indirect_length_8", through_table({{0, 72, 0, 0}}, 8), {{kBadDescriptor, 1}}},
      {"indirect_length_17", through_table({{0, 72, 0, 0}}, 17), {{kBadDescriptor, 1}}},
      {"indirect_length_longest", through_table({{0, 72, 0, 0}}, 0xfffffff0), {{kBadAddress, 1}}},
      {"indirect_nested",
       [](Peer& p) {
         const uint64_t inner = p.table({{p.guest.place(good()), 72, 0, 0}});
         const uint64_t outer = p.table({{inner, 16, kIndirect, 0}});
         p.sends.desc(0, outer, 16, kIndirect);
         p.sends.offer(0);
       },
       {{kBadDescriptor, 1}}},
      {"indirect_to_itself",
       [](Peer& p) {
         const uint64_t at = (p.guest.allocate(32) + 15) / 16 * 16;
         DriverImage::put_desc(p.guest.at(at), 0, at, 16, kIndirect, 0);
         p.sends.desc(0, at, 16, kIndirect);
         p.sends.offer(0);
       },
       {{kBadDescriptor, 1}}},
      {"indirect_with_next",
       through_table({{0, 72, 0, 0}}, 16, kIndirect | kNext),
       {{kBadDescriptor, 1}}},
      {"indirect_unaligned_is_legal",
       [](Peer& p) {
         const uint64_t frame = p.guest.place(good());
         const uint64_t at = (p.guest.allocate(40) | 7);
         DriverImage::put_desc(p.guest.at(at), 0, frame, 72, 0, 0);
         p.sends.desc(0, at, 16, kIndirect);
         p.sends.offer(0);
       },
       {},
       1},
      {"indirect_not_negotiated",
       through_table({{0, 72, 0, 0}}, 16),
       {{kBadDescriptor, 1}},
       0,
       1,
       RingError::none,
       {.indirect = false}},
      {"indirect_outside", one(kNowhere, 16, kIndirect), {{kBadAddress, 1}}},
      {"indirect_across_the_end", one(kEnd - 16, 32, kIndirect), {{kBadAddress, 1}}},
      {"indirect_across_two_regions", one(kSecond - 16, 32, kIndirect), {{kBadAddress, 1}}},
      {"indirect_is_the_queues_own_table",
       [](Peer& p) {
         p.sends.desc(1, p.guest.place(good()), 72);
         p.sends.desc(0, kDescTable, 16 * kSize, kIndirect);  // whose first entry is indirect
         p.sends.offer(0);
       },
       {{kBadDescriptor, 1}}},
      {"frame_is_the_used_ring", one(kUsedRing, 6 + 8 * kSize), {}, 1},
      {"frame_is_the_available_ring", one(kAvailRing, 6 + 2 * kSize), {{DropReason::runt, 1}}},
  };
}

std::vector<SendLie> length_lies() {
  return {
      {"no_bytes", one(kFirst, 0), {{kBadHeader, 1}}},
      {"no_bytes_nowhere", one(kNowhere, 0), {{kBadHeader, 1}}},
      {"part_of_a_header", one(kFirst, 11), {{kBadHeader, 1}}},
      {"a_header_alone", one(kFirst, 12), {{DropReason::runt, 1}}},
      {"a_header_and_a_byte", one(kFirst, 13), {{DropReason::runt, 1}}},
      {"a_byte_short_of_ethernet", one(kFirst, 25), {{DropReason::runt, 1}}},
      {"ethernet_alone", [](Peer& p) { p.offer_frame(0, broadcast(14, 0)); }, {}, 1},
      {"header_alone_over_two_descriptors",
       [](Peer& p) {
         p.sends.desc(0, kFirst, 7, kNext, 1);
         p.sends.desc(1, kFirst, 5);
         p.sends.offer(0);
       },
       {{DropReason::runt, 1}}},
      {"empty_descriptors_among_good_ones",
       [](Peer& p) {
         const uint64_t frame = p.guest.place(good());
         p.sends.desc(0, kNowhere, 0, kNext, 1);
         p.sends.desc(1, frame, 12, kNext, 2);
         p.sends.desc(2, ~uint64_t{0}, 0, kNext, 3);
         p.sends.desc(3, frame + 12, 60, kNext, 4);
         p.sends.desc(4, frame, 0);
         p.sends.offer(0);
       },
       {},
       1},
      {"header_in_twelve_pieces",
       [](Peer& p) {
         std::vector<std::array<uint64_t, 4>> entries;
         const uint64_t frame = p.guest.place(good());
         for (uint64_t i = 0; i < 12; ++i) entries.push_back({frame + i, 1, kNext, i + 1});
         entries.push_back({frame + 12, 60, 0, 0});
         p.sends.desc(0, p.table(entries), static_cast<uint32_t>(16 * entries.size()), kIndirect);
         p.sends.offer(0);
       },
       {},
       1},
      {"longest_descriptor", one(kFirst, 0xffffffff), {{DropReason::too_long, 1}}},
      {"longest_descriptor_at_the_end", one(kSecond, 0xffffffff), {{kBadAddress, 1}}},
      {"longer_than_any_frame", one(kFirst, 0x20000), {{DropReason::too_long, 1}}},
      {"one_longer_than_any_frame",
       one(kFirst, kHdr + Packet::kMaxLength + 1),
       {{DropReason::too_long, 1}}},
      {"many_pieces_longer_than_any_frame",
       [](Peer& p) {
         for (uint16_t i = 0; i < kSize; ++i) {
           p.sends.desc(i, kFirst, 0x4000, i + 1 == kSize ? 0 : kNext,
                        static_cast<uint16_t>(i + 1));
         }
         p.sends.offer(0);
       },
       {{DropReason::too_long, 1}}},
      {"nowhere", one(kNowhere, 72), {{kBadAddress, 1}}},
      {"address_0", one(0, 72), {{kBadAddress, 1}}},
      {"before_the_start", one(kFirst - 1, 72), {{kBadAddress, 1}}},
      {"first_byte_behind_the_end", one(kEnd, 1), {{kBadAddress, 1}}},
      {"ends_one_past_a_region", one(kEnd - 71, 72), {{kBadAddress, 1}}},
      {"ends_with_a_region",
       [](Peer& p) {
         p.guest.write(kEnd - 72, good());
         one(kEnd - 72, 72)(p);
       },
       {},
       1},
      {"address_wraps", one(~uint64_t{0} - 10, 72), {{kBadAddress, 1}}},
      {"address_and_length_wrap_into_memory",
       one(uint64_t{0} - 0x1000, 0x12000),
       {{kBadAddress, 1}}},
      {"spans_two_adjacent_regions",
       [](Peer& p) {
         p.guest.write(kSecond - 40, good());
         one(kSecond - 40, 72)(p);
       },
       {},
       1},
      {"second_piece_is_nowhere",
       [](Peer& p) {
         p.sends.desc(0, p.guest.place(good()), 72, kNext, 1);
         p.sends.desc(1, kNowhere, 10);
         p.sends.offer(0);
       },
       {{kBadAddress, 1}}},
  };
}

std::vector<SendLie> offload_lies() {
  const Bytes tcp = everybody(test::tcp_frame(3000));
  const Bytes tcp6 = everybody(test::tcp_frame(3000, true));
  const Bytes small = broadcast(100, 0);
  const Bytes large = broadcast(1000, 0);
  return {
      {"csum_start_beyond_the_packet", framed(small, csum(100, 0)), {{kBadHeader, 1}}},
      {"csum_start_all_ones", framed(small, csum(0xffff, 0)), {{kBadHeader, 1}}},
      {"csum_offset_beyond_the_packet", framed(small, csum(34, 65)), {{kBadHeader, 1}}},
      {"csum_offset_all_ones", framed(small, csum(34, 0xffff)), {{kBadHeader, 1}}},
      {"csum_sum_wraps_16_bits", framed(small, csum(0xffff, 0x13)), {{kBadHeader, 1}}},
      {"csum_half_beyond_the_packet", framed(small, csum(99, 0)), {{kBadHeader, 1}}},
      {"csum_in_the_last_bytes", framed(small, csum(34, 64)), {}, 1},
      {"csum_in_the_ethernet_header", framed(small, csum(13, 4)), {{kBadHeader, 1}}},
      {"csum_field_in_the_tail", framed(large, csum(34, 900)), {}, 1},
      {"csum_field_across_head_and_tail", framed(large, csum(34, 93)), {}, 1},
      {"csum_in_the_last_bytes_of_the_tail", framed(large, csum(998, 0)), {}, 1},
      {"data_valid_is_not_believed", framed(small, {.flags = 2}), {}, 1},
      {"unknown_header_flags", framed(small, {.flags = 0xfe}), {}, 1},
      {"num_buffers_forged", framed(small, {.num_buffers = 0xffff}), {}, 1},
      {"gso_size_0", framed(tcp, gso(1, 0)), {{kBadHeader, 1}}},
      {"gso_size_1", framed(tcp, gso(1, 1)), {{kBadHeader, 1}}},
      {"gso_size_huge_is_one_packet",
       framed(everybody(test::tcp_frame(1400)), gso(1, 0xffff)),
       {},
       1},
      {"gso_good", framed(tcp, gso(1, 1000)), {}, 3},
      {"gso_type_2", framed(tcp, gso(2, 1000)), {{kBadHeader, 1}}},
      {"gso_type_ufo", framed(tcp, gso(3, 1000)), {{kBadHeader, 1}}},
      {"gso_type_127", framed(tcp, gso(0x7f, 1000)), {{kBadHeader, 1}}},
      {"gso_type_255", framed(tcp, gso(0xff, 1000)), {{kBadHeader, 1}}},
      {"gso_type_ecn_alone", framed(tcp, gso(0x80, 1000)), {{kBadHeader, 1}}},
      {"gso_ecn_without_cwr", framed(tcp, gso(0x81, 1000)), {}, 3},
      {"gso_on_no_ip", framed(large, gso(1, 100)), {{kBadHeader, 1}}},
      {"gso_udp_on_tcp", framed(tcp, gso(5, 1000)), {{kBadHeader, 1}}},
      {"gso_tcp4_on_ipv6", framed(tcp6, gso(1, 1000, 54)), {{kBadHeader, 1}}},
      {"gso_tcp6_on_ipv4", framed(tcp, gso(4, 1000)), {{kBadHeader, 1}}},
      {"gso_tcp6_good", framed(tcp6, gso(4, 1000, 54)), {}, 3},
      {"gso_without_checksum",
       framed(tcp, {.gso_type = 1, .hdr_len = 54, .gso_size = 1000}),
       {{kBadHeader, 1}}},
      {"gso_checksum_elsewhere", framed(tcp, gso(1, 1000, 36)), {{kBadHeader, 1}}},
      {"gso_on_a_fragment", framed(spoilt(3000, false, 20, 0x20), gso(1, 1000)), {{kBadHeader, 1}}},
      {"gso_ip_length_too_long",
       framed(spoilt(3000, false, 17, 0xff), gso(1, 1000)),
       {{kBadHeader, 1}}},
      {"gso_ip_length_0", framed(spoilt(200, false, 17, 0), gso(1, 100)), {{kBadHeader, 1}}},
      {"gso_ip_header_length_0",
       framed(spoilt(3000, false, 14, 0x40), gso(1, 1000)),
       {{kBadHeader, 1}}},
      {"gso_ip_header_length_15",
       framed(spoilt(3000, false, 14, 0x4f), gso(1, 1000)),
       {{kBadHeader, 1}}},
      {"gso_tcp_header_length_0",
       framed(spoilt(3000, false, 46, 0x00), gso(1, 1000)),
       {{kBadHeader, 1}}},
      {"gso_tcp_header_beyond_the_packet",
       framed(spoilt(8, false, 46, 0xf0), gso(1, 8)),
       {{kBadHeader, 1}}},
      {"gso_hdr_len_0",
       framed(tcp, {.flags = 1,
                    .gso_type = 1,
                    .hdr_len = 0,
                    .gso_size = 1000,
                    .csum_start = 34,
                    .csum_offset = 16}),
       {},
       3},
      {"gso_hdr_len_all_ones",
       framed(tcp, {.flags = 1,
                    .gso_type = 1,
                    .hdr_len = 0xffff,
                    .gso_size = 1000,
                    .csum_start = 34,
                    .csum_offset = 16}),
       {},
       3},
      {"gso_frame_without_payload", framed(everybody(test::tcp_frame(0)), gso(1, 100)), {}, 1},
      {"gso_of_a_runt", framed(broadcast(14, 0), gso(1, 100)), {{kBadHeader, 1}}},
  };
}

class SendingLiar : public testing::TestWithParam<SendLie> {};

TEST_P(SendingLiar, IsCountedAndHarmsNobody) {
  const SendLie& lie = GetParam();
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
    EXPECT_EQ(test::all_drops(honest->out), 0u);
  }
  // 2.7.5.2: not a byte of a sender's memory is written, whatever it asked for.
  EXPECT_EQ(net.liar.guest.snapshot(), memory);
  const auto now = net.liar.sends.desc_memory().bytes();
  EXPECT_TRUE(std::equal(table.begin(), table.end(), now.begin()));
  net.expect_accounts_to_hold();
  net.expect_the_honest_to_be_well();
}

const auto kLieName = [](const auto& lie) { return lie.param.name; };
INSTANTIATE_TEST_SUITE_P(Descriptors, SendingLiar, testing::ValuesIn(descriptor_lies()), kLieName);
INSTANTIATE_TEST_SUITE_P(Lengths, SendingLiar, testing::ValuesIn(length_lies()), kLieName);
INSTANTIATE_TEST_SUITE_P(Offloads, SendingLiar, testing::ValuesIn(offload_lies()), kLieName);

TEST(SendingLiarAtWork, TinySegmentsAreTheReceiversToRefuse) {
  Switch net(Terms{});
  Bytes frame = everybody(test::tcp_frame(60000));
  net.liar.offer_frame(0, frame, gso(1, 8));  // 7500 segments
  net.run();
  EXPECT_EQ(net.bob.out.packets.value(), 128u);
  EXPECT_EQ(net.bob.out.drops.value(DropReason::receiver_ring_full), 7500u - 128u);
  net.expect_accounts_to_hold();
}

TEST(SendingLiarAtWork, BrokenRingStaysBrokenAndTheOthersGoOn) {
  Switch net(Terms{});
  net.liar.sends.avail_idx(100);
  net.run();
  net.liar.sends.avail_idx(0);
  net.liar.offer(0, good());
  for (int i = 0; i < 20; ++i) net.expect_the_honest_to_be_well();
  EXPECT_EQ(net.liar.in.packets.value(), 0u);
  EXPECT_EQ(net.liar.sends.used_idx(), 0);
}

/// What a liar posts to receive into, and what comes of two frames of 100 bytes sent to it.
struct ReceiveLie {
  std::string name;
  std::function<void(Peer&)> tell;
  Drops drops;                      // counted on the liar's tx queue
  uint64_t delivered = 0;           // frames that were written
  std::vector<uint32_t> used = {};  // lengths of the chains returned
  RingError error = RingError::none;
  Terms terms = {};

  friend void PrintTo(const ReceiveLie& lie, std::ostream* os) { *os << lie.name; }
};

constexpr DropReason kBadBuffer = DropReason::receiver_bad_buffer;
constexpr DropReason kFull = DropReason::receiver_ring_full;
constexpr DropReason kTooSmall = DropReason::receiver_too_small;

std::function<void(Peer&)> buffer(uint64_t addr, uint32_t len, uint16_t flags = kWrite,
                                  uint16_t next = 0) {
  return [=](Peer& p) {
    p.receives.desc(0, addr, len, flags, next);
    p.receives.offer(0);
  };
}

std::vector<ReceiveLie> receive_lies() {
  constexpr Terms kPlain{.mergeable = false};
  std::vector<ReceiveLie> lies{
      {"nothing_posted", [](Peer&) {}, {{kFull, 2}}},
      {"head_is_the_size",
       [](Peer& p) { p.receives.offer(kSize); },
       {{DropReason::receiver_down, 2}},
       0,
       {},
       RingError::head_range},
      {"index_jumps",
       [](Peer& p) { p.receives.avail_idx(kSize + 1); },
       {{DropReason::receiver_down, 2}},
       0,
       {},
       RingError::avail_jump},
      {"index_goes_backwards",
       [](Peer& p) { p.receives.avail_idx(0xffff); },
       {{DropReason::receiver_down, 2}},
       0,
       {},
       RingError::avail_jump},
      {"good_buffer_then_bad_head",
       [](Peer& p) {
         p.post(0, 2000);
         p.receives.offer(0xffff);
       },
       {{DropReason::receiver_down, 1}},
       1,
       {112},
       RingError::head_range},
      {"readable", buffer(kFirst, 2000, 0), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"nowhere", buffer(kNowhere, 2000), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"ends_one_past_a_region", buffer(kEnd - 111, 112), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"ends_with_a_region", buffer(kEnd - 112, 112), {{kFull, 1}}, 1, {112}},
      {"address_wraps", buffer(~uint64_t{0} - 50, 112), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"longest", buffer(kFirst, 0xffffffff), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"spans_two_adjacent_regions", buffer(kSecond - 50, 200), {{kFull, 1}}, 1, {112}},
      {"loop", buffer(kFirst, 1, kWrite | kNext, 0), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"loop_of_nothing",
       buffer(kFirst, 0, kWrite | kNext, 0),
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0}},
      {"next_past_the_queue",
       buffer(kFirst, 50, kWrite | kNext, kSize),
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0}},
      {"second_is_readable",
       [](Peer& p) {
         p.receives.desc(0, p.guest.allocate(50), 50, kWrite | kNext, 1);
         p.receives.desc(1, p.guest.allocate(500), 500, 0);
         p.receives.offer(0);
       },
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0}},
      {"indirect_nowhere", buffer(kNowhere, 16, kIndirect), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"indirect_length_0", buffer(kFirst, 0, kIndirect), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"indirect_length_17", buffer(kFirst, 17, kIndirect), {{kBadBuffer, 1}, {kFull, 1}}, 0, {0}},
      {"indirect_not_negotiated",
       [](Peer& p) {
         p.receives.desc(0, p.table({{p.guest.allocate(500), 500, kWrite, 0}}), 16, kIndirect);
         p.receives.offer(0);
       },
       {{kBadBuffer, 1}, {kFull, 1}},
       0,
       {0},
       RingError::none,
       {.indirect = false}},
      {"smaller_than_the_header",
       [](Peer& p) {
         for (uint16_t i = 0; i < 4; ++i) p.post(i, 5);
         p.post(4, 200);
       },
       {{kFull, 1}},
       1,
       {5, 5, 5, 5, 92}},
      {"chains_of_nothing",
       [](Peer& p) {
         for (uint16_t i = 0; i < kSize; ++i) p.post(i, 0);
       },
       {{kTooSmall, 2}},
       0,
       {}},
      {"too_small_without_mergeable",
       [](Peer& p) { p.post(0, 111); },
       {{kTooSmall, 2}},
       0,
       {},
       RingError::none,
       kPlain},
      {"nothing_without_mergeable",
       [](Peer& p) { p.post(0, 0); },
       {{kTooSmall, 2}},
       0,
       {},
       RingError::none,
       kPlain},
      {"header_alone_without_mergeable",
       [](Peer& p) { p.post(0, 12); },
       {{kTooSmall, 2}},
       0,
       {},
       RingError::none,
       kPlain},
      {"buffer_is_the_available_ring_of_the_other_queue",
       buffer(kAvailRing, 6 + 2 * kSize),
       {{kFull, 2}},
       0,
       {}},
  };
  // The same without mergeable buffers, where a chain alone must do.
  for (const char* name :
       {"readable", "nowhere", "ends_one_past_a_region", "ends_with_a_region", "address_wraps",
        "longest", "spans_two_adjacent_regions", "loop", "loop_of_nothing", "next_past_the_queue",
        "second_is_readable", "indirect_nowhere", "indirect_length_0", "indirect_length_17"}) {
    ReceiveLie lie = *std::find_if(lies.begin(), lies.end(),
                                   [&](const ReceiveLie& l) { return l.name == name; });
    lie.name += "_without_mergeable";
    lie.terms.mergeable = false;
    if (lie.name == "longest_without_mergeable") {
      // Bytes that a frame does not need are not looked at.
      lie.drops = {{kFull, 1}};
      lie.delivered = 1;
      lie.used = {112};
    }
    lies.push_back(lie);
  }
  return lies;
}

class ReceivingLiar : public testing::TestWithParam<ReceiveLie> {};

TEST_P(ReceivingLiar, CostsItselfFramesAndNobodyElse) {
  const ReceiveLie& lie = GetParam();
  Switch net(lie.terms);
  lie.tell(net.liar);
  for (uint16_t i = 0; i < 2; ++i) {
    net.alice.offer_frame(i, broadcast(100, 1, i));
    net.run();
  }
  EXPECT_EQ(drops_of(net.liar.out), lie.drops) << in_words(drops_of(net.liar.out));
  EXPECT_EQ(net.liar.out.packets.value(), lie.delivered);
  EXPECT_EQ(net.liar.tx.ring().error(), lie.error);
  std::vector<uint32_t> used;
  for (uint16_t i = 0; i < net.liar.receives.used_idx(); ++i) {
    used.push_back(net.liar.receives.used_len(i));
  }
  EXPECT_EQ(used, lie.used);
  EXPECT_EQ(net.bob.receives.used_idx(), 2);
  EXPECT_EQ(net.alice.sends.used_idx(), 2);
  net.expect_accounts_to_hold();
  net.expect_the_honest_to_be_well();
}

INSTANTIATE_TEST_SUITE_P(Hostile, ReceivingLiar, testing::ValuesIn(receive_lies()), kLieName);

TEST(ReceivingLiarAtWork, BuffersOverItsOwnRings) {
  for (const uint64_t place : {kDescTable, kAvailRing, kUsedRing}) {
    Switch net(Terms{});
    // The liar sends from and receives into the parts of its transmitq.
    for (uint16_t i = 0; i < kSize; ++i) {
      net.liar.receives.desc(i, place, 6 + 2 * kSize, kWrite);
      net.liar.receives.offer(i);
    }
    for (uint16_t i = 0; i < 4; ++i) {
      net.alice.offer_frame(i, broadcast(100, 1, i));
      net.liar.offer(i, good());
      net.run();
    }
    for (int i = 0; i < 3; ++i) net.run();
    net.expect_accounts_to_hold();
    net.expect_the_honest_to_be_well();
  }
}

TEST(ReceivingLiarAtWork, SendsAndReceivesInTheSameMemory) {
  // Its frame comes back into the very bytes that it is sent from, shifted by a few.
  for (const int shift : {-100, -12, -1, 0, 1, 12, 100}) {
    DriverImage sends(kSize);
    DriverImage receives(kSize);
    Guest guest;
    test::LeakChecked pool;
    QueueCounters counters;
    virtio::NetDeviceRx<ring::SplitDeviceRing<>> rx(
        ring::SplitDeviceRing<>({sends.layout(), 0, false, false}, guest.view()),
        spec::VIRTIO_F_VERSION_1);
    virtio::NetDeviceTx<ring::SplitDeviceRing<>> tx(
        ring::SplitDeviceRing<>({receives.layout(), 0, false, false}, guest.view()),
        spec::VIRTIO_F_VERSION_1);
    for (const size_t size : {60U, 100U, 190U, 250U, 1500U, 9000U}) {
      const uint64_t at = Guest::kBase + 0x8000;
      guest.write(at, NetHeader{}.bytes() + pattern(size));
      sends.desc(0, at, static_cast<uint32_t>(kHdr + size));
      sends.offer(0);
      receives.desc(0, at + static_cast<uint64_t>(shift), 10000, kWrite);
      receives.offer(0);
      Burst burst(pool.cache());
      rx.poll(burst, counters);
      ASSERT_EQ(burst.size(), 1u);
      tx.send(burst, counters);
      EXPECT_TRUE(burst.empty());
      (void)rx.complete();
      (void)tx.publish();
    }
  }
}

/// Something that a liar changes at the very moment between two accesses of the switch.
struct Race {
  std::string name;
  std::function<void(Peer&)> change;

  friend void PrintTo(const Race& race, std::ostream* os) { *os << race.name; }
};

std::vector<Race> races() {
  // Frame 0 is one descriptor (0), frame 1 a chain (1, 2, 3), frame 2 a table (4) of three.
  const auto all = [](Peer& p, size_t field, uint64_t value, size_t bytes) {
    for (uint32_t i = 0; i < 5; ++i) {
      std::byte* at = p.sends.desc_memory().data() + 16 * i + field;
      for (size_t b = 0; b < bytes; ++b) at[b] = static_cast<std::byte>(value >> (8 * b));
    }
  };
  return {
      {"length_longest", [=](Peer& p) { all(p, 8, 0xffffffff, 4); }},
      {"length_0", [=](Peer& p) { all(p, 8, 0, 4); }},
      {"length_1", [=](Peer& p) { all(p, 8, 1, 4); }},
      {"length_64k", [=](Peer& p) { all(p, 8, 0x10000, 4); }},
      {"flags_next", [=](Peer& p) { all(p, 12, kNext, 2); }},
      {"flags_indirect", [=](Peer& p) { all(p, 12, kIndirect, 2); }},
      {"flags_write", [=](Peer& p) { all(p, 12, kWrite, 2); }},
      {"flags_none", [=](Peer& p) { all(p, 12, 0, 2); }},
      {"next_all_ones", [=](Peer& p) { all(p, 14, 0xffff, 2); }},
      {"next_0", [=](Peer& p) { all(p, 14, 0, 2); }},
      {"address_nowhere", [=](Peer& p) { all(p, 0, kNowhere, 8); }},
      {"address_at_the_end", [=](Peer& p) { all(p, 0, kEnd - 1, 8); }},
      {"address_of_the_table", [=](Peer& p) { all(p, 0, kDescTable, 8); }},
      {"heads_all_ones",
       [](Peer& p) {
         for (uint32_t i = 0; i < kSize; ++i) p.sends.avail_entry(i, 0xffff);
       }},
      {"index_back", [](Peer& p) { p.sends.avail_idx(0); }},
      {"index_far", [](Peer& p) { p.sends.avail_idx(0x7000); }},
      {"all_of_its_memory_all_ones",
       [](Peer& p) { std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{0xff}); }},
      {"all_of_its_memory_0",
       [](Peer& p) { std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{}); }},
      {"everything_random",
       [](Peer& p) {
         static unsigned seed = 0;
         const Bytes noise = pattern(0x2000, ++seed);
         std::copy(noise.begin(), noise.end(), p.guest.at(kFirst));
         std::copy_n(noise.begin(), 16 * kSize, p.sends.desc_memory().data());
         std::copy_n(noise.begin(), 6 + 2 * kSize, p.sends.avail_memory().data());
       }},
  };
}

class Racing : public testing::TestWithParam<Race> {
 protected:
  static void offer_three(Peer& p) {
    const Bytes frame = NetHeader(test::tso4(100)).bytes() + everybody(test::tcp_frame(500));
    const auto size = static_cast<uint32_t>(frame.size());
    const uint64_t at = p.guest.place(frame);
    p.sends.desc(0, at, size);
    p.sends.desc(1, at, 20, kNext, 2);
    p.sends.desc(2, at + 20, 200, kNext, 3);
    p.sends.desc(3, at + 220, size - 220);
    p.sends.desc(
        4, p.table({{at, 5, kNext, 1}, {at + 5, 300, kNext, 2}, {at + 305, size - 305, 0, 0}}), 48,
        kIndirect);
    for (const uint16_t head : {0, 1, 4}) p.sends.offer(head);
  }
};

TEST_P(Racing, BetweenAnyTwoAccesses) {
  // First how many accesses there are, then a change before each of them.
  uint64_t accesses = 0;
  {
    Switch net(Terms{});
    offer_three(net.liar);
    net.run();
    accesses = net.liar.hook.reads + net.liar.hook.writes;
    ASSERT_EQ(net.liar.in.packets.value(), 3u);
    ASSERT_EQ(test::all_drops(net.liar.in), 0u);
  }
  for (uint64_t when = 1; when <= accesses; ++when) {
    SCOPED_TRACE("before access " + std::to_string(when));
    Switch net(Terms{});
    offer_three(net.liar);
    uint64_t now = 0;
    net.liar.hook.before = [&] {
      if (++now == when) GetParam().change(net.liar);
    };
    net.run(net.liar);
    net.liar.hook.before = [] {};
    // Every chain taken is returned, once, and each packet has one fate.
    EXPECT_LE(net.liar.in.packets.value(), kSize);
    EXPECT_EQ(net.liar.sends.used_idx(), net.liar.in.packets.value());
    net.expect_accounts_to_hold();
    net.expect_the_honest_to_be_well();
    if (HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Hostile, Racing, testing::ValuesIn(races()), kLieName);

/// The same for a receiver: buffers of several shapes, changed while frames are written.
class RacingReceiver : public testing::TestWithParam<std::tuple<bool, int>> {};

TEST_P(RacingReceiver, BetweenAnyTwoAccesses) {
  const auto [mergeable, what] = GetParam();
  const auto post = [](Peer& p) {
    const uint64_t at = p.guest.allocate(4000);
    p.receives.desc(0, at, 300, kWrite);
    p.receives.desc(1, at + 300, 20, kWrite | kNext, 2);
    p.receives.desc(2, at + 320, 900, kWrite);
    p.receives.desc(3, p.table({{at + 1300, 5, kWrite | kNext, 1}, {at + 1305, 1500, kWrite, 0}}),
                    32, kIndirect);
    p.receives.desc(4, at + 3000, 1000, kWrite);
    for (const uint16_t head : {0, 1, 3, 4}) p.receives.offer(head);
  };
  const auto change = [what](Peer& p) {
    constexpr std::array<std::pair<size_t, uint16_t>, 8> kFields{{{8, 0},
                                                                  {8, 0xffff},
                                                                  {10, 0xffff},
                                                                  {12, 0},
                                                                  {12, kNext | kWrite},
                                                                  {12, kIndirect},
                                                                  {14, 0xffff},
                                                                  {3, 0x7000}}};
    if (what < 8) {
      for (uint32_t i = 0; i < 5; ++i) {
        test::put_le(p.receives.desc_memory().data() + 16 * i + kFields[what].first,
                     kFields[what].second);
      }
    } else if (what == 8) {
      p.receives.avail_idx(0x4000);
    } else if (what == 9) {
      for (uint32_t i = 0; i < kSize; ++i) p.receives.avail_entry(i, 0x4000);
    } else if (what == 10) {
      std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{0xff});
    } else {
      std::fill_n(p.guest.at(kFirst), 0x2000, std::byte{});
    }
  };
  for (uint64_t when = 1; when < 200; ++when) {
    Switch net(Terms{.mergeable = mergeable});
    post(net.liar);
    net.alice.offer_frame(0, broadcast(200, 1, 1));
    net.alice.offer_frame(1, broadcast(1000, 1, 2));
    uint64_t now = 0;
    net.liar.hook.before = [&] {
      if (++now == when) change(net.liar);
    };
    net.run(net.alice);
    net.liar.hook.before = [] {};
    EXPECT_EQ(net.liar.out.packets.value() + test::all_drops(net.liar.out), 2u);
    EXPECT_LE(net.liar.receives.used_idx(), 4u);
    std::set<uint32_t> heads;
    for (uint16_t i = 0; i < net.liar.receives.used_idx(); ++i) {
      EXPECT_TRUE(heads.insert(net.liar.receives.used_id(i)).second) << "returned twice";
    }
    EXPECT_EQ(net.bob.receives.used_idx(), 2);
    net.expect_accounts_to_hold();
    if (now < when || HasFailure()) break;  // no more accesses
  }
}

INSTANTIATE_TEST_SUITE_P(Hostile, RacingReceiver,
                         testing::Combine(testing::Bool(), testing::Range(0, 12)));

}  // namespace
}  // namespace pollux
