// SPDX-License-Identifier: Apache-2.0
// A network device that lies to its driver: in used lengths, headers and num_buffers. Each lie
// with what must come of it; afterwards every buffer is the pool's again (PoolTest counts).
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/net_driver_fixture.hpp"

namespace pollux::virtio {
namespace {

using test::Bytes, test::net_header, test::NetQueue, test::pattern;
using test::operator+;

constexpr uint64_t kMergeable = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF;
constexpr uint64_t kOffloads =
    spec::VIRTIO_NET_F_GUEST_CSUM | spec::VIRTIO_NET_F_GUEST_TSO4 | spec::VIRTIO_NET_F_GUEST_TSO6;
constexpr uint32_t kSize = 128;

/// Returns the next available chain with `bytes` in it but `len` as the used length.
void lie(NetQueue& queue, const Bytes& bytes, uint32_t len) {
  const uint16_t head = queue.take();
  std::copy(bytes.begin(), bytes.end(),
            reinterpret_cast<uint8_t*>(queue.at(queue.chain(head)[0].addr)));
  queue.use(head, len);
}

constexpr std::nullopt_t uncounted = std::nullopt;

struct Case {
  std::string name;
  std::function<void(NetQueue&)> tell;
  std::optional<DropReason> reason = uncounted;
  ring::RingError error = ring::RingError::none;
  uint64_t drops = 1;

  friend void PrintTo(const Case& c, std::ostream* os) {
    if (c.error != ring::RingError::none) {
      *os << "broken: " << ring::describe(c.error);
    } else if (c.reason) {
      *os << "counted as " << info(*c.reason).name << ", the queue goes on";
    } else {
      *os << "nothing is taken";
    }
  }
};

const std::vector<Case>& cases() {
  using enum DropReason;
  using ring::RingError;
  static const std::vector<Case> table{
      {"length_zero", [](NetQueue& q) { lie(q, {}, 0); }, bad_net_header},
      {"shorter_than_the_header", [](NetQueue& q) { lie(q, net_header(1), 11); }, bad_net_header},
      {"header_only", [](NetQueue& q) { lie(q, net_header(1), 12); }, runt},
      {"thirteen_bytes", [](NetQueue& q) { lie(q, net_header(1), 25); }, runt},
      {"length_beyond_the_buffer", [](NetQueue& q) { lie(q, net_header(1), 12 + 2048 + 1); },
       uncounted, RingError::used_length},
      {"length_all_ones", [](NetQueue& q) { lie(q, net_header(1), 0xffffffff); }, uncounted,
       RingError::used_length},
      {"num_buffers_zero", [](NetQueue& q) { lie(q, net_header(0), 100); }, uncounted,
       RingError::num_buffers},
      {"num_buffers_above_the_queue", [](NetQueue& q) { lie(q, net_header(kSize + 1), 100); },
       uncounted, RingError::num_buffers},
      {"num_buffers_all_ones", [](NetQueue& q) { lie(q, net_header(0xffff), 100); }, uncounted,
       RingError::num_buffers},
      {"num_buffers_more_than_a_packet_holds",
       [](NetQueue& q) {
         for (int i = 0; i < 70; ++i) lie(q, net_header(70), 2060);
       },
       too_long},
      {"num_buffers_more_than_were_returned",
       [](NetQueue& q) {
         for (int i = 0; i < 5; ++i) lie(q, net_header(6), 2060);
       }},
      {"merged_longer_than_any_frame",
       [](NetQueue& q) {
         for (int i = 0; i < 36; ++i) lie(q, net_header(36), 2060);
       },
       too_long},
      {"merged_of_nothing",
       [](NetQueue& q) {
         for (int i = 0; i < 36; ++i) lie(q, net_header(36), i == 0 ? 12 : 0);
       },
       runt},
      {"merged_whose_first_is_shorter_than_the_header",
       [](NetQueue& q) { lie(q, net_header(2), 5); },  // its num_buffers means nothing
       bad_net_header},
      {"csum_beyond_the_frame",
       [](NetQueue& q) { lie(q, net_header(1, 1, 0, 0, 0xffff, 0xffff), 112); }, bad_net_header},
      {"unknown_gso_type", [](NetQueue& q) { lie(q, net_header(1, 1, 0x7f, 100, 34, 16), 1512); },
       bad_net_header},
      {"gso_of_a_frame_that_is_not_ip",
       [](NetQueue& q) { lie(q, net_header(1, 1, 1, 100, 34, 16), 1512); }, bad_net_header},
      {"gso_size_zero", [](NetQueue& q) { lie(q, net_header(1, 1, 1, 0, 34, 16), 1512); },
       bad_net_header},
      {"gso_that_was_not_negotiated",
       [](NetQueue& q) { lie(q, net_header(1, 1, 3, 100, 34, 6), 1512); }, bad_net_header},
  };
  return table;
}

class LyingNetDevice : public test::PoolTest,
                       public testing::WithParamInterface<std::tuple<Case, test::RingKind>> {};

TEST_P(LyingNetDevice, CostsItselfAndNobodyElse) {
  const auto& [told, kind] = GetParam();
  NetQueue queue(*pool, kSize, kind);
  const auto rx = test::AnyDriverRx::make(
      queue, *pool, {.window = queue.window, .features = kMergeable | kOffloads});
  Burst burst(*cache);
  (void)rx->fill(*cache);
  told.tell(queue);
  for (int i = 0; i < 5; ++i) (void)rx->poll(burst, counters);
  EXPECT_EQ(rx->error(), told.error);
  EXPECT_TRUE(burst.empty());
  EXPECT_EQ(counters.packets.value(), 0u);
  if (told.reason) {
    EXPECT_EQ(counters.drops.value(*told.reason), told.drops);
    // A queue that was not broken goes on.
    queue.deliver(net_header(1) + pattern(100));
    (void)rx->poll(burst, counters);
    ASSERT_EQ(burst.size(), 1u);
    EXPECT_EQ(test::bytes_of(burst[0]), pattern(100));
  }
  burst.clear();
  rx->stop(*cache);
}

INSTANTIATE_TEST_SUITE_P(Hostile, LyingNetDevice,
                         testing::Combine(testing::ValuesIn(cases()),
                                          testing::ValuesIn(test::kRingKinds)),
                         [](const auto& c) {
                           return std::get<0>(c.param).name + "_" + to_string(std::get<1>(c.param));
                         });

}  // namespace
}  // namespace pollux::virtio
