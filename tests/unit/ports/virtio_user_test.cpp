// SPDX-License-Identifier: Apache-2.0
// The virtio-user port against the vhost-user port, over a real socket, in one process. Byte-level
// tests of either side are in tests/conform, so that the two can not share a misreading.
#include <fmt/format.h>

#include <filesystem>
#include <mutex>

#include "tests/support/vhost_peer.hpp"
#include "tests/unit/ports/port_fixture.hpp"

namespace pollux {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

/// The test's thread is the only worker; it holds this in its turns.
class TurnLock final : public Quiescence {
 public:
  [[nodiscard]] bool synchronize(Nanos /*deadline*/) noexcept override {
    const std::lock_guard guard(turn);
    return true;
  }
  std::mutex turn;
};

class VirtioUserTest : public PortTest {
 protected:
  VirtioUserTest() {
    char path[] = "/tmp/pollux-test-XXXXXX";
    dir_ = mkdtemp(path);
  }
  ~VirtioUserTest() override {
    stop_driver();
    device_.reset();
    std::filesystem::remove_all(dir_);
  }

  std::string socket() const { return dir_ + "/s"; }

  std::unique_ptr<Port> make_here(const std::string& text) {
    auto spec = PortSpec::parse(text);
    EXPECT_TRUE(spec);
    auto port = make_port(*spec, here_);
    EXPECT_TRUE(port) << (port ? "" : port.error().what);
    if (!port) return nullptr;
    const Status started = (*port)->start();
    EXPECT_TRUE(started) << (started ? "" : started.error().what);
    return std::move(*port);
  }
  void start_device(const std::string& options = "") {
    device_ = make_started("vhost-user:" + socket() + options);
  }
  void start_driver(const std::string& options = "") {
    driver_ = make_here("virtio-user:" + socket() + options);
  }

  /// stop() waits for the back end to let go, whose loop this thread has to run meanwhile.
  void stop_driver() {
    if (driver_ == nullptr) return;
    std::atomic<bool> done{false};
    std::thread stopper([&] {
      driver_.reset();
      done = true;
    });
    while (!done) (void)loop_->run_once(milliseconds(1));
    stopper.join();
  }

  template <typename Condition>
  bool wait_until(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      (void)loop_->run_once(milliseconds(1));
    }
    return true;
  }
  bool wait_for_link(bool up = true) {
    return wait_until([&] {
      return driver_->info().link_up == up && (device_ == nullptr || device_->info().link_up == up);
    });
  }

  /// Sends from one port, and takes what comes out of the other.
  Frame carry(Port& from, Port& to, const Frame& frame) {
    const TxQueue tx = from.tx_queues()[0];
    const RxQueue rx = to.rx_queues()[0];
    {
      const std::lock_guard guard(quiescence_of_driver_.turn);
      if (!send(tx, frame)) return {};
    }
    Frame got;
    wait_until([&] {
      const std::lock_guard guard(quiescence_of_driver_.turn);
      Burst burst(cache_);
      rx.poll(rx.self, burst);
      if (!burst.empty()) got = bytes_of(burst[0]);
      burst.clear();
      if (rx.complete != nullptr) rx.complete(rx.self);
      return !got.empty();
    });
    return got;
  }
  void expect_carries(std::initializer_list<size_t> sizes) {
    for (const size_t size : sizes) {
      const Frame frame = make_frame(size, static_cast<unsigned>(size));
      EXPECT_EQ(carry(*driver_, *device_, frame), frame) << size << " bytes to the device";
      EXPECT_EQ(carry(*device_, *driver_, frame), frame) << size << " bytes to the driver";
    }
  }
  bool has_feature(const std::string& name) const {
    const auto names = driver_->info().feature_names;
    return std::find(names.begin(), names.end(), name) != names.end();
  }

  std::string dir_;
  TurnLock quiescence_of_driver_;
  PortContext here_{*pool_, *loop_, quiescence_of_driver_, clock_, rings_, Log{}};
  std::unique_ptr<Port> device_;
  std::unique_ptr<Port> driver_;
};

TEST_F(VirtioUserTest, CarriesFramesBothWays) {
  for (const std::string options :
       {"", ",mrg=off", ",indirect=off", ",event-idx=off", ",version-1=off,mrg=off",
        ",csum=off,tso=off", ",queue-size=32768", ",queue-size=64,indirect=off", ",in-order=only",
        ",packed=only", ",packed=only,in-order=only", ",packed=only,mrg=off,indirect=off",
        ",packed=only,event-idx=off", ",packed=only,in-order=only,queue-size=333",
        ",packed=only,queue-size=32767"}) {
    SCOPED_TRACE(options);
    start_device();
    start_driver(options);
    ASSERT_TRUE(wait_for_link());
    expect_carries({14, 60, 64, 128, 192, 193, 500, 1514});
    if (has_feature("MRG_RXBUF")) expect_carries({2049, 9014, 60000});
    EXPECT_TRUE(driver_->info().broken.empty());
    stop_driver();
    device_.reset();
  }
  expect_no_leak();
}

TEST_F(VirtioUserTest, TinyRings) {
  start_device();
  start_driver(",queue-size=2,mrg=off");
  ASSERT_TRUE(wait_for_link());
  for (int i = 0; i < 10; ++i) expect_carries({60, 1514});
}

// Around a packed ring many times, whose end chains of several descriptors cross.
TEST_F(VirtioUserTest, ManyLapsOfAPackedRing) {
  for (const std::string options :
       {",packed=only,queue-size=7", ",packed=only,in-order=only,queue-size=13,indirect=off"}) {
    start_device();
    start_driver(options + ",mtu=9000");
    ASSERT_TRUE(wait_for_link());
    for (int i = 0; i < 50; ++i) expect_carries({60, 1514, 9014});
    EXPECT_TRUE(driver_->info().broken.empty()) << driver_->info().broken;
    stop_driver();
    device_.reset();
  }
  expect_no_leak();
}

TEST_F(VirtioUserTest, FormatOfRingsIsWhatBothSidesWant) {
  const auto format = [&](const std::string& device, const std::string& driver) {
    start_device(device);
    start_driver(driver);
    EXPECT_TRUE(wait_for_link());
    const PortInfo here = driver_->info();
    const PortInfo there = device_->info();
    EXPECT_EQ(here.rings[0].format, there.rings[0].format);
    EXPECT_EQ(here.rings[1].size, there.rings[1].size);
    expect_carries({60, 1514});
    stop_driver();
    device_.reset();
    return fmt::format("{} {}", here.rings[0].format, here.rings[0].size);
  };
  EXPECT_EQ(format("", ",queue-size=256"), "split 256");
  EXPECT_EQ(format("", ",packed=on,queue-size=300"), "packed 300");
  EXPECT_EQ(format("", ",packed=on,in-order=on,queue-size=300"), "packed in-order 300");
  EXPECT_EQ(format("", ",in-order=on,queue-size=256"), "split in-order 256");
  // Falls back, on the power of two below.
  EXPECT_EQ(format(",packed=off", ",packed=on,in-order=on,queue-size=300"), "split in-order 256");
  EXPECT_EQ(format(",in-order=off", ",packed=on,in-order=on,queue-size=300"), "packed 300");
}

TEST_F(VirtioUserTest, InsistsOnWhatItWasToldToInsistOn) {
  start_device(",packed=off");
  start_driver(",packed=only");
  ASSERT_TRUE(
      wait_until([&] { return driver_->info().state.find("RING_PACKED") != std::string::npos; }));
  EXPECT_FALSE(driver_->info().link_up);
  device_.reset();
  start_device();
  ASSERT_TRUE(wait_for_link()) << "a back end that has them is as good as ever";
  expect_carries({60});
}

TEST_F(VirtioUserTest, TellsWhatWasNegotiated) {
  start_device(",indirect=off");
  start_driver(",queue-size=256,mac=52:54:00:00:00:01");
  ASSERT_TRUE(wait_for_link());
  const PortInfo info = driver_->info();
  EXPECT_EQ(info.kind, "virtio-user");
  EXPECT_EQ(info.target, socket());
  EXPECT_THAT(info.peer, HasSubstr("pid"));
  EXPECT_THAT(info.feature_names, testing::Contains("VERSION_1"));
  EXPECT_THAT(info.feature_names, testing::Not(testing::Contains("INDIRECT_DESC")));
  EXPECT_THAT(info.protocol_feature_names, testing::Contains("REPLY_ACK"));
  EXPECT_EQ(info.features, device_->info().features & ~(uint64_t{1} << 30));
  ASSERT_EQ(info.rings.size(), 2u);
  EXPECT_EQ(info.rings[0].name, "rx0");
  EXPECT_EQ(info.rings[0].size, 256u);
  EXPECT_TRUE(info.rings[1].enabled);
  EXPECT_EQ(info.mac, net::MacAddress({0x52, 0x54, 0, 0, 0, 1}));
  EXPECT_THAT(info.memory, HasSubstr("2 regions"));
  EXPECT_NE(driver_->tx_queues()[0].offloads->load() & kTxChecksum, 0u);
}

TEST_F(VirtioUserTest, SegmentationNeedsItsCompany) {
  start_device();
  start_driver(",csum=off");
  ASSERT_TRUE(wait_for_link());
  EXPECT_FALSE(has_feature("HOST_TSO4"));
  EXPECT_FALSE(has_feature("GUEST_TSO4"));
  EXPECT_EQ(driver_->tx_queues()[0].offloads->load(), 0u);
  stop_driver();
  ASSERT_TRUE(wait_until([&] { return !device_->info().link_up; }));
  start_driver(",mrg=off");
  ASSERT_TRUE(wait_for_link());
  EXPECT_TRUE(has_feature("HOST_TSO4"));
  EXPECT_FALSE(has_feature("GUEST_TSO4")) << "no large frames without mergeable buffers";
}

TEST_F(VirtioUserTest, FortyRegions) {
  start_device();
  start_driver(",regions=40");
  ASSERT_TRUE(wait_for_link());
  EXPECT_THAT(driver_->info().memory, HasSubstr("41 regions"));
  EXPECT_THAT(device_->info().memory, HasSubstr("41 regions"));
  // Enough frames that buffers of all regions, and some across two of them, take part.
  for (int i = 0; i < 20; ++i) {
    const TxQueue tx = device_->tx_queues()[0];
    const RxQueue rx = driver_->rx_queues()[0];
    for (unsigned k = 0; k < 64; ++k) {
      const std::lock_guard guard(quiescence_of_driver_.turn);
      ASSERT_TRUE(send(tx, make_frame(2000, k)));
    }
    size_t seen = 0;
    ASSERT_TRUE(wait_until([&] {
      const std::lock_guard guard(quiescence_of_driver_.turn);
      Burst burst(cache_);
      rx.poll(rx.self, burst);
      for (size_t k = 0; k < burst.size(); ++k) {
        EXPECT_EQ(bytes_of(burst[k]), make_frame(2000, static_cast<unsigned>(seen++)));
      }
      return seen == 64;
    }));
  }
}

TEST_F(VirtioUserTest, SeveralQueuePairs) {
  start_device(",queues=3");
  start_driver(",queues=3");
  ASSERT_TRUE(wait_for_link());
  EXPECT_EQ(driver_->info().rings.size(), 6u);
  for (size_t q = 0; q < 3; ++q) {
    {
      const std::lock_guard guard(quiescence_of_driver_.turn);
      ASSERT_TRUE(send(driver_->tx_queues()[q], make_frame(100, static_cast<unsigned>(q))));
    }
    const auto frames = receive(device_->rx_queues()[q], 1);
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(frames[0], make_frame(100, static_cast<unsigned>(q)));
  }
}

TEST_F(VirtioUserTest, FewerQueuesThanWanted) {
  start_device();
  start_driver(",queues=4");
  ASSERT_TRUE(wait_for_link());
  EXPECT_EQ(driver_->tx_queues().size(), 4u);
  EXPECT_FALSE(driver_->info().rings[2].enabled);
  const std::lock_guard guard(quiescence_of_driver_.turn);
  EXPECT_TRUE(send(driver_->tx_queues()[3], make_frame(100))) << "leads to the only one";
}

TEST_F(VirtioUserTest, SaysByTheControlQueueWhatItWants) {
  constexpr const char* kDriver = ",queues=2,ctrl-queue=only,mac=52:54:00:00:00:07";
  for (const std::string rings : {"", ",packed=only,queue-size=7", ",in-order=only"}) {
    SCOPED_TRACE(rings);
    start_device(",queues=4,ctrl-queue=on");
    start_driver(kDriver + rings);
    ASSERT_TRUE(wait_for_link()) << driver_->info().state;
    EXPECT_THAT(device_->info().control, HasSubstr("promiscuous; 2 of 4 queue pairs"));
    EXPECT_EQ(device_->info().mac, net::MacAddress({0x52, 0x54, 0, 0, 0, 7}));
    expect_carries({60, 1514});
    // The next back end is told the same.
    device_.reset();
    ASSERT_TRUE(wait_for_link(false));
    start_device(",queues=4,ctrl-queue=on");
    ASSERT_TRUE(wait_for_link()) << driver_->info().state;
    EXPECT_THAT(device_->info().control, HasSubstr("2 of 4 queue pairs"));
    expect_carries({60, 1514});
    stop_driver();
    device_.reset();
  }
  expect_no_leak();
}

TEST_F(VirtioUserTest, ControlQueueBehindTheOnlyPair) {
  start_device(",ctrl-queue=on");
  start_driver(",queues=4,ctrl-queue=on");
  ASSERT_TRUE(wait_for_link()) << driver_->info().state;
  EXPECT_THAT(device_->info().control, HasSubstr("1 of 1 queue pairs"));
  expect_carries({60});
}

TEST_F(VirtioUserTest, GoesOnWithoutAControlQueueUnlessItInsists) {
  start_device();
  start_driver(",ctrl-queue=on");
  ASSERT_TRUE(wait_for_link());
  EXPECT_FALSE(has_feature("CTRL_VQ"));
  stop_driver();
  start_driver(",ctrl-queue=only");
  EXPECT_TRUE(
      wait_until([&] { return driver_->info().state.find("CTRL_VQ") != std::string::npos; }));
}

class VirtioUserRestarts : public VirtioUserTest,
                           public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Rings, VirtioUserRestarts,
                         testing::Values("", ",packed=only,queue-size=100",
                                         ",packed=only,in-order=only,queue-size=100"));

TEST_P(VirtioUserRestarts, WaitsForABackEndAndOutlivesIt) {
  start_driver(GetParam());
  ASSERT_TRUE(wait_until([&] { return !driver_->info().state.empty(); }));
  EXPECT_FALSE(driver_->info().link_up);
  EXPECT_FALSE(send(driver_->tx_queues()[0], make_frame(60)));
  for (int round = 0; round < 5; ++round) {
    start_device();
    ASSERT_TRUE(wait_for_link()) << driver_->info().state;
    expect_carries({60, 1514, 9014});
    device_.reset();
    ASSERT_TRUE(wait_for_link(false));
  }
  stop_driver();
  expect_no_leak();
}

TEST_P(VirtioUserRestarts, WhatLiesInTheRingsIsThereForTheNextBackEnd) {
  start_device();
  start_driver(GetParam());
  ASSERT_TRUE(wait_for_link());
  for (unsigned round = 1; round < 4; ++round) {
    expect_carries({60, 1514});
    const Frame frame = make_frame(700, round);
    {
      const std::lock_guard guard(quiescence_of_driver_.turn);
      ASSERT_TRUE(send(driver_->tx_queues()[0], frame));
    }
    device_.reset();
    ASSERT_TRUE(wait_for_link(false));
    start_device();
    ASSERT_TRUE(wait_for_link());
    EXPECT_EQ(receive(device_->rx_queues()[0], 1), std::vector<Frame>{frame});
  }
}

TEST_P(VirtioUserRestarts, TheDriverMayComeAndGo) {
  start_device();
  start_driver(GetParam());
  ASSERT_TRUE(wait_for_link());
  stop_driver();
  const size_t fds = test::open_fds();
  for (int round = 0; round < 20; ++round) {
    start_driver(GetParam());
    ASSERT_TRUE(wait_for_link());
    expect_carries({60, 1514});
    {  // frames in both rings when it goes
      const std::lock_guard guard(quiescence_of_driver_.turn);
      (void)send(driver_->tx_queues()[0], make_frame(1514));
      (void)send(device_->tx_queues()[0], make_frame(1514));
    }
    stop_driver();
    (void)receive(device_->rx_queues()[0], 1, std::chrono::seconds(0));
  }
  ASSERT_TRUE(wait_until([&] { return !device_->info().link_up; }));
  EXPECT_LE(test::open_fds(), fds);
}

TEST_F(VirtioUserTest, ListensForABackEnd) {
  start_driver(",server=on");
  start_device(",server=off");
  ASSERT_TRUE(wait_for_link());
  expect_carries({60, 1514});
  device_.reset();
  ASSERT_TRUE(wait_for_link(false));
  start_device(",server=off");
  ASSERT_TRUE(wait_for_link());
  expect_carries({60, 1514});
}

TEST_F(VirtioUserTest, StopsAtOnceWithNobodyThere) {
  for (const std::string options : {"", ",server=on"}) {
    const auto start = std::chrono::steady_clock::now();
    start_driver(options);
    driver_.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  }
}

TEST_F(VirtioUserTest, RefusesWhatCanNotBe) {
  EXPECT_THAT(refusal("virtio-user:"), HasSubstr("path of a socket"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,packed=on,version-1=off"), HasSubstr("version-1"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,packed=perhaps"), HasSubstr("packed"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,packed=on,queue-size=40000"), HasSubstr("queue-size"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,queue-size=3"), HasSubstr("queue-size"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,queue-size=65536"), HasSubstr("queue-size"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,queues=0"), HasSubstr("queues"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,mac=1"), HasSubstr("mac"));
  EXPECT_THAT(refusal("virtio-user:/tmp/s,mgr=on"), HasSubstr("mrg"));
  EXPECT_THAT(start_refusal("virtio-user:/" + std::string(200, 'x')), HasSubstr("107"));
  EXPECT_THAT(start_refusal("virtio-user:/no/such/dir/s,server=on"), HasSubstr("/no/such/dir"));
}

}  // namespace
}  // namespace pollux
