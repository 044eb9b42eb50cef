// SPDX-License-Identifier: Apache-2.0
// A tap port and this host's kernel, in a network namespace of the test's own. What the kernel's
// stack does with offloads is for tests/interop/test_tap.py.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "pollux/base/fd.hpp"
#include "tests/unit/ports/port_fixture.hpp"

namespace pollux {
namespace {

using testing::HasSubstr;

class TapPortTest : public PortTest {};

TEST_F(TapPortTest, RefusesWrongSpecs) {
  EXPECT_THAT(refusal("tap:"), HasSubstr("needs the name of a network interface"));
  EXPECT_THAT(refusal("tap:sixteenletters16"), HasSubstr("1 to 15 letters"));
  EXPECT_THAT(refusal("tap:a/b"), HasSubstr("is no name for a network interface"));
  EXPECT_THAT(refusal("tap:t,queues=0"), HasSubstr("from 1 to 64"));
  EXPECT_THAT(refusal("tap:t,mac=1:2"), HasSubstr("MAC address"));
}

/// With a namespace of its own, and back in the old one at the end.
class TapInNamespaceTest : public TapPortTest {
 protected:
  void SetUp() override {
    before_.reset(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    if (::unshare(CLONE_NEWNET) != 0) {
      before_.reset();
      GTEST_SKIP() << "NOT TESTED: a network namespace needs root (CAP_SYS_ADMIN)";
    }
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "NOT TESTED: /dev/net/tun is not there: modprobe tun";
    }
  }
  void TearDown() override {
    if (before_) {
      ASSERT_EQ(::setns(before_.get(), CLONE_NEWNET), 0);
    }
  }

  /// The kernel's end: whatever passes the interface.
  static UniqueFd packet_socket(const char* name) {
    UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(name));
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  /// The next frame of our EtherType that the kernel hands out.
  static Frame kernel_receive(const UniqueFd& fd) {
    Frame frame(70'000);
    pollfd waiting{fd.get(), POLLIN, 0};
    while (::poll(&waiting, 1, 10'000) == 1) {
      const ssize_t got = ::recv(fd.get(), frame.data(), frame.size(), 0);
      if (got >= 14 && frame[12] == std::byte{0x88} && frame[13] == std::byte{0xb5}) {
        frame.resize(static_cast<size_t>(got));
        return frame;
      }
    }
    return {};
  }

  static Frame ours(size_t size, unsigned seed) {
    Frame frame = make_frame(size, seed);
    std::ranges::fill(frame.begin(), frame.begin() + 6, std::byte{0xff});
    frame[6] = std::byte{2};
    frame[12] = std::byte{0x88};
    frame[13] = std::byte{0xb5};
    return frame;
  }

  /// What comes in by the port, without the kernel's own router solicitations and the like.
  std::vector<Frame> receive_ours(const RxQueue& rx, size_t count) {
    std::vector<Frame> frames;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (frames.size() < count && std::chrono::steady_clock::now() < deadline) {
      for (Frame& frame : receive(rx, 1, std::chrono::seconds(1))) {
        if (frame[12] == std::byte{0x88} && frame[13] == std::byte{0xb5}) {
          frames.push_back(std::move(frame));
        }
      }
    }
    return frames;
  }

  UniqueFd before_;
};

TEST_F(TapInNamespaceTest, CarriesFramesBothWays) {
  auto port = make_started("tap:plx0,mtu=9000,mac=02:00:00:00:07:01");
  ASSERT_TRUE(port);
  const PortInfo info = port->info();
  EXPECT_TRUE(info.link_up);
  EXPECT_EQ(info.mtu, 9000);
  EXPECT_EQ(info.mac, net::MacAddress({2, 0, 0, 0, 7, 1}));
  const UniqueFd kernel = packet_socket("plx0");
  std::vector<Frame> frames;
  for (const size_t size : {14, 60, 191, 192, 193, 1514, 2240, 2241, 9014}) {
    frames.push_back(ours(size, static_cast<unsigned>(size)));
  }
  for (const Frame& frame : frames) {
    EXPECT_TRUE(send(port->tx_queues()[0], frame));
    EXPECT_EQ(kernel_receive(kernel), frame);
  }
  EXPECT_EQ(port->tx_queues()[0].counters->packets.value(), frames.size());
  for (const Frame& frame : frames) {
    ASSERT_EQ(::send(kernel.get(), frame.data(), frame.size(), 0), ssize_t(frame.size()));
  }
  EXPECT_EQ(receive_ours(port->rx_queues()[0], frames.size()), frames);
  port->stop();
  port.reset();
  expect_no_leak();
}

TEST_F(TapInNamespaceTest, BorrowedTailsAreWrittenDirectly) {
  auto port = make_started("tap:plx0");
  const UniqueFd kernel = packet_socket("plx0");
  Frame frame = ours(1000, 3);
  Burst burst(cache_);
  Packet* packet = cache_.allocate();
  packet->set_head_size(128);
  std::memcpy(packet->head(), frame.data(), 128);
  packet->append({frame.data() + 128, 400, kBorrowed});
  packet->append({frame.data() + 528, 472, kBorrowed});
  burst.push(packet);
  const TxQueue tx = port->tx_queues()[0];
  (void)tx.send(tx.self, burst);
  EXPECT_TRUE(burst.empty());
  EXPECT_EQ(kernel_receive(kernel), frame);
}

TEST_F(TapInNamespaceTest, SeveralQueues) {
  auto port = make_started("tap:plx0,queues=3");
  ASSERT_EQ(port->tx_queues().size(), 3u);
  const UniqueFd kernel = packet_socket("plx0");
  for (unsigned q = 0; q < 3; ++q) {
    EXPECT_TRUE(send(port->tx_queues()[q], ours(100, q)));
    EXPECT_EQ(kernel_receive(kernel), ours(100, q));
  }
}

TEST_F(TapInNamespaceTest, OffloadsAsAskedFor) {
  auto port = make_started("tap:plx0");
  EXPECT_NE(port->tx_queues()[0].offloads->load() & kTxTso4, 0u);
  auto plain = make_started("tap:plx1,offload=off");
  EXPECT_EQ(plain->tx_queues()[0].offloads->load(), 0u);
}

TEST_F(TapInNamespaceTest, DownOrTaken) {
  auto port = make_started("tap:plx0,up=off");
  EXPECT_FALSE(port->info().link_up);
  EXPECT_THAT(port->info().state, HasSubstr("ip link set plx0 up"));
  const TxQueue tx = port->tx_queues()[0];
  EXPECT_FALSE(send(tx, ours(60, 1)));  // the kernel takes nothing: left with the caller
  EXPECT_EQ(tx.counters->packets.value(), 0u);

  auto second = try_make("tap:plx0");
  ASSERT_TRUE(second);
  const Status taken = (*second)->start();
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, ErrorCode::kAlreadyExists);
}

TEST_F(TapInNamespaceTest, AnInterfaceOfAnotherKindIsRefused) {
  EXPECT_THAT(start_refusal("tap:lo"), HasSubstr("lo"));
}

}  // namespace
}  // namespace pollux
