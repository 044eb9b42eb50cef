// SPDX-License-Identifier: Apache-2.0
// Guests that lie in their transmit rings and headers: a table of lies, with what must come of
// each.
#include <gtest/gtest.h>

#include "tests/support/three_guests.hpp"

namespace pollux {
namespace {

using namespace hostile;

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

TEST_P(SendingLiar, IsCountedAndHarmsNobody) { expect_counted_and_harmless(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Descriptors, SendingLiar, testing::ValuesIn(descriptor_lies()), kLieName);
INSTANTIATE_TEST_SUITE_P(Lengths, SendingLiar, testing::ValuesIn(length_lies()), kLieName);
INSTANTIATE_TEST_SUITE_P(Offloads, SendingLiar, testing::ValuesIn(offload_lies()), kLieName);

TEST(SendingLiarAtWork, TinySegmentsAreTheReceiversToRefuse) {
  Switch net(Terms{});
  const Bytes frame = everybody(test::tcp_frame(60000));
  net.liar.offer_frame(0, frame, gso(1, 60));  // 1000 segments
  net.run();
  EXPECT_EQ(net.bob.out.packets.value(), 128u);
  EXPECT_EQ(net.bob.out.drops.value(DropReason::receiver_ring_full), 1000u - 128u);
  net.expect_accounts_to_hold();
}

TEST(SendingLiarAtWork, SegmentsWithoutEndAreRefused) {
  Switch net(Terms{});
  const Bytes frame = everybody(test::tcp_frame(60000));
  net.liar.offer_frame(0, frame, gso(1, 8));  // 7500 segments
  net.run();
  EXPECT_EQ(net.liar.in.drops.value(DropReason::bad_net_header), 1u);
  EXPECT_EQ(net.bob.out.packets.value(), 0u);
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

}  // namespace
}  // namespace pollux
