// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/ports/port_fixture.hpp"

namespace pollux {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class NullPortTest : public PortTest {};

TEST_F(NullPortTest, TakesAllAndDeliversNothing) {
  auto port = make_started("null:");
  const TxQueue tx = port->tx_queues()[0];
  EXPECT_TRUE(send(tx, make_frame(60)));
  EXPECT_TRUE(send(tx, make_frame(1514)));
  EXPECT_EQ(tx.counters->packets.value(), 2u);
  EXPECT_EQ(tx.counters->bytes.value(), 1574u);
  Burst burst(cache_);
  const RxQueue rx = port->rx_queues()[0];
  rx.poll(rx.self, burst);
  EXPECT_TRUE(burst.empty());
  EXPECT_TRUE(port->info().link_up);
  expect_no_leak();
}

TEST_F(NullPortTest, DeliversFramesOfTheWantedSize) {
  auto port = make_started("null:,size=1514,queues=2");
  ASSERT_EQ(port->rx_queues().size(), 2u);
  const RxQueue rx = port->rx_queues()[1];
  {
    Burst burst(cache_);
    rx.poll(rx.self, burst);
    ASSERT_EQ(burst.size(), Burst::kCapacity);
    const Frame frame = bytes_of(burst[0]);
    EXPECT_EQ(frame.size(), 1514u);
    EXPECT_EQ(frame[12], std::byte{0x88});
    EXPECT_EQ(frame[13], std::byte{0xb5});
  }
  EXPECT_EQ(rx.counters->packets.value(), 64u);
  EXPECT_EQ(rx.counters->bytes.value(), 64u * 1514);
  expect_no_leak();
}

TEST_F(NullPortTest, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(refusal("null:x"), HasSubstr("takes no target"));
  EXPECT_THAT(refusal("null:,size=13"), HasSubstr("from 14 to 9018"));
  EXPECT_THAT(refusal("null:,szie=64"), HasSubstr("did you mean 'size'"));
}

TEST_F(NullPortTest, UnknownKindsAreNamedWithTheKnownOnes) {
  EXPECT_THAT(refusal("nul:"),
              AllOf(HasSubstr("did you mean 'null'?; there are: "), HasSubstr("ring, pcap, tap")));
}

// Help must not promise what a kind does not know: each listed key is taken by the kind itself.
TEST_F(NullPortTest, EveryListedKeyOfEveryKindIsKnownToIt) {
  for (const PortKind& kind : port_kinds()) {
    PortSpec spec{std::string(kind.name), "", {{"no-such-option", "1"}}};
    auto port = kind.make(spec, context_);
    ASSERT_FALSE(port) << kind.name;
    for (const PortKey& key : kind.keys) {
      EXPECT_THAT(port.error().what, HasSubstr(std::string(key.key))) << kind.name;
    }
  }
}

}  // namespace
}  // namespace pollux
