// SPDX-License-Identifier: Apache-2.0
// The expected files are written out by hand from draft-ietf-opsawg-pcap and -pcapng.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/unit/ports/port_fixture.hpp"

namespace pollux {
namespace {

using testing::HasSubstr;

/// Builds a file from integers in either byte order.
class Bytes {
 public:
  explicit Bytes(bool big = false) : big_(big) {}
  Bytes& u16(uint16_t v) { return put(v, 2); }
  Bytes& u32(uint32_t v) { return put(v, 4); }
  Bytes& raw(const Frame& frame) {
    for (const std::byte b : frame) text_ += static_cast<char>(b);
    return *this;
  }
  Bytes& zeros(size_t n) {
    text_.append(n, '\0');
    return *this;
  }
  Bytes& pcap_header(uint32_t magic = 0xa1b2c3d4, uint32_t link_type = 1) {
    return u32(magic).u16(2).u16(4).u32(0).u32(0).u32(262144).u32(link_type);
  }
  Bytes& pcap_frame(const Frame& frame, uint32_t seconds = 1, uint32_t fraction = 0,
                    uint32_t missing = 0) {
    const auto len = static_cast<uint32_t>(frame.size());
    return u32(seconds).u32(fraction).u32(len).u32(len + missing).raw(frame);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  Bytes& put(uint32_t v, int size) {
    for (int i = 0; i < size; ++i) {
      text_ += static_cast<char>(v >> (8 * (big_ ? size - 1 - i : i)));
    }
    return *this;
  }
  bool big_;
  std::string text_;
};

class PcapPortTest : public PortTest {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pollux-pcap-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { ASSERT_EQ(std::system(("rm -r " + dir_).c_str()), 0); }

  [[nodiscard]] std::string path(const std::string& name) const { return dir_ + "/" + name; }

  std::string save(const std::string& name, const Bytes& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes.text();
    return path(name);
  }
  [[nodiscard]] static std::string load(const std::string& file) {
    std::ostringstream out;
    out << std::ifstream(file, std::ios::binary).rdbuf();
    return out.str();
  }

  /// Plays a file to its end.
  std::vector<Frame> play(const std::string& file, Port& port) {
    SCOPED_TRACE(file);
    std::vector<Frame> frames;
    const RxQueue rx = port.rx_queues()[0];
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    bool finished = false;
    while (!finished && std::chrono::steady_clock::now() < deadline) {
      finished = port.finished();  // asked before the last poll, which counts rejected frames
      Burst burst(cache_);
      rx.poll(rx.self, burst);
      for (const Packet* packet : burst.packets()) {
        frames.push_back(bytes_of(*packet));
        timestamps_.push_back(packet->meta.timestamp);
      }
    }
    EXPECT_TRUE(finished);
    return frames;
  }

  std::string dir_;
  std::vector<uint64_t> timestamps_;
};

TEST_F(PcapPortTest, PlaysMicrosecondFilesOfBothByteOrders) {
  const std::vector<Frame> frames{make_frame(60, 1), make_frame(1514, 2), make_frame(14, 3)};
  for (const bool big : {false, true}) {
    Bytes bytes(big);
    bytes.pcap_header();
    for (const Frame& frame : frames) bytes.pcap_frame(frame, 1'700'000'000, 5);
    const std::string file = save("in.pcap", bytes);
    auto port = make_started("pcap:" + file);
    timestamps_.clear();
    EXPECT_EQ(play(file, *port), frames);
    EXPECT_EQ(timestamps_, std::vector<uint64_t>(3, 1'700'000'000'000'005'000));
    const QueueCounters& counters = *port->rx_queues()[0].counters;
    EXPECT_EQ(counters.packets.value(), 3u);
    EXPECT_EQ(counters.bytes.value(), 60u + 1514 + 14);
    EXPECT_EQ(port->info().broken, "");
    EXPECT_TRUE(port->tx_queues().empty());
  }
  expect_no_leak();
}

TEST_F(PcapPortTest, PlaysNanosecondFiles) {
  Bytes bytes;
  bytes.pcap_header(0xa1b23c4d).pcap_frame(make_frame(60), 1, 999'999'999);
  const std::string file = save("in.pcap", bytes);
  auto port = make_started("pcap:" + file);
  EXPECT_EQ(play(file, *port).size(), 1u);
  EXPECT_EQ(timestamps_, std::vector<uint64_t>{1'999'999'999});
}

TEST_F(PcapPortTest, PlaysPcapng) {
  const Frame frame = make_frame(61, 9);
  Bytes bytes;
  bytes.u32(0x0a0d0d0a).u32(28).u32(0x1a2b3c4d).u16(1).u16(0).u32(~0u).u32(~0u).u32(28);
  bytes.u32(1).u32(20).u16(1).u16(0).u32(0).u32(20);  // an interface without options: microseconds
  bytes.u32(6).u32(96).u32(0).u32(0).u32(7).u32(61).u32(61).raw(frame).zeros(3).u32(96);
  bytes.u32(3).u32(80).u32(61).raw(frame).zeros(3).u32(80);  // a Simple Packet Block
  const std::string file = save("in.pcapng", bytes);
  auto port = make_started("pcap:" + file);
  EXPECT_EQ(play(file, *port), (std::vector<Frame>{frame, frame}));
  EXPECT_EQ(timestamps_[0], 7000u);
}

TEST_F(PcapPortTest, PlaysAgainWithLoop) {
  Bytes bytes;
  bytes.pcap_header().pcap_frame(make_frame(60, 1)).pcap_frame(make_frame(60, 2));
  auto port = make_started("pcap:" + save("in.pcap", bytes) + ",loop=on");
  const auto frames = receive(port->rx_queues()[0], 5000);
  ASSERT_GE(frames.size(), 5000u);
  EXPECT_EQ(frames[4998], make_frame(60, 1));
  EXPECT_EQ(frames[4999], make_frame(60, 2));
  EXPECT_FALSE(port->finished());
  port->stop();
  port.reset();
  expect_no_leak();
}

TEST_F(PcapPortTest, LoopOverNothingEnds) {
  Bytes bytes;
  bytes.pcap_header();
  const std::string file = save("empty.pcap", bytes);
  auto port = make_started("pcap:" + file + ",loop=on");
  EXPECT_TRUE(play(file, *port).empty());
}

TEST_F(PcapPortTest, CountsFramesThatCanNotBePlayed) {
  Bytes bytes;
  bytes.pcap_header();
  bytes.pcap_frame(make_frame(13));             // a runt
  bytes.pcap_frame(make_frame(65'600));         // longer than any packet
  bytes.pcap_frame(make_frame(100), 1, 0, 50);  // cut short by the capture
  bytes.pcap_frame(make_frame(60, 4));
  const std::string file = save("in.pcap", bytes);
  auto port = make_started("pcap:" + file);
  EXPECT_EQ(play(file, *port), std::vector<Frame>{make_frame(60, 4)});
  const QueueCounters& counters = *port->rx_queues()[0].counters;
  EXPECT_EQ(counters.packets.value(), 4u);
  EXPECT_EQ(counters.bytes.value(), 13u + 65'600 + 150 + 60);
  EXPECT_EQ(counters.drops.value(DropReason::runt), 1u);
  EXPECT_EQ(counters.drops.value(DropReason::too_long), 1u);
  EXPECT_EQ(counters.drops.value(DropReason::receive_truncated), 1u);
  port.reset();
  expect_no_leak();
}

TEST_F(PcapPortTest, AFileThatEndsInsideAFrameBreaksThePort) {
  Bytes bytes;
  bytes.pcap_header()
      .pcap_frame(make_frame(60, 1))
      .u32(1)
      .u32(0)
      .u32(60)
      .u32(60)
      .raw(make_frame(59));
  const std::string file = save("in.pcap", bytes);
  auto port = make_started("pcap:" + file);
  EXPECT_EQ(play(file, *port).size(), 1u);
  EXPECT_THAT(port->info().broken, HasSubstr("can not be read on"));
}

TEST_F(PcapPortTest, PatientWhenThePoolIsEmpty) {
  Bytes bytes;
  bytes.pcap_header();
  for (unsigned i = 0; i < 50; ++i) bytes.pcap_frame(make_frame(60, i));
  std::vector<Packet*> hoard;
  while (Packet* packet = cache_.allocate()) hoard.push_back(packet);
  const std::string file = save("in.pcap", bytes);
  auto port = make_started("pcap:" + file);
  EXPECT_TRUE(receive(port->rx_queues()[0], 1, std::chrono::seconds(0)).empty());
  for (Packet* packet : hoard) cache_.release(packet);
  EXPECT_EQ(play(file, *port).size(), 50u);
}

TEST_F(PcapPortTest, RefusesWhatCanNotBePlayed) {
  Bytes cooked;
  cooked.pcap_header(0xa1b2c3d4, 113);
  EXPECT_THAT(start_refusal("pcap:" + save("any.pcap", cooked)), HasSubstr("not on 'any'"));
  Bytes text;
  text.raw(make_frame(100));
  EXPECT_THAT(start_refusal("pcap:" + save("x.pcap", text)), HasSubstr("is not a pcap or pcapng"));
  EXPECT_THAT(start_refusal("pcap:" + path("missing")), HasSubstr("No such file"));
  EXPECT_THAT(start_refusal("pcap:" + dir_), HasSubstr("not a regular file"));
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  EXPECT_THAT(start_refusal("pcap:" + path("fifo")), HasSubstr("not a regular file"));
  EXPECT_THAT(start_refusal("pcap:,tx=" + path("fifo")), HasSubstr("no regular file"));
  EXPECT_THAT(start_refusal("pcap:,tx=" + path("no/such")), HasSubstr("No such file"));
  EXPECT_THAT(start_refusal("pcap:,tx=/dev/full"), HasSubstr("No space left"));
  EXPECT_THAT(refusal("pcap:"), HasSubstr("names no file"));
  EXPECT_THAT(refusal("pcap:,tx=x,loop=on"), HasSubstr("no file to read"));
  EXPECT_THAT(refusal("pcap:x,rate=1"), HasSubstr("known: tx, loop, snaplen, format"));
  Bytes good;
  good.pcap_header();
  const std::string file = save("in.pcap", good);
  EXPECT_THAT(start_refusal("pcap:" + file + ",tx=" + dir_ + "/./in.pcap"),
              HasSubstr("is being read"));
  EXPECT_EQ(load(file), good.text());
}

TEST_F(PcapPortTest, WritesPcap) {
  const std::string file = path("out.pcap");
  auto port = make_started("pcap:,tx=" + file);
  const TxQueue tx = port->tx_queues()[0];
  PacketMeta meta;
  meta.timestamp = 1'700'000'000'123'456'789;
  EXPECT_TRUE(send(tx, make_frame(60, 1), meta));
  EXPECT_TRUE(send(tx, make_frame(1514, 2), meta));
  EXPECT_TRUE(send(tx, make_frame(65'535, 3), meta));
  port->stop();
  EXPECT_EQ(tx.counters->packets.value(), 3u);
  EXPECT_EQ(tx.counters->bytes.value(), 60u + 1514 + 65'535);
  Bytes expected;
  expected.pcap_header(0xa1b23c4d);
  for (const Frame& frame : {make_frame(60, 1), make_frame(1514, 2), make_frame(65'535, 3)}) {
    expected.pcap_frame(frame, 1'700'000'000, 123'456'789);
  }
  EXPECT_EQ(load(file), expected.text());
  EXPECT_TRUE(port->rx_queues().empty());
  EXPECT_FALSE(port->finished());
  port.reset();
  expect_no_leak();
}

TEST_F(PcapPortTest, WritesPcapng) {
  const std::string file = path("out.pcapng");
  auto port = make_started("pcap:,tx=" + file + ",snaplen=62");
  PacketMeta meta;
  meta.timestamp = 0x17'9ab0'1234'5678;
  EXPECT_TRUE(send(port->tx_queues()[0], make_frame(61, 1), meta));
  EXPECT_TRUE(send(port->tx_queues()[0], make_frame(100, 2), meta));
  port->stop();
  Frame cut = make_frame(100, 2);
  cut.resize(62);
  Bytes expected;
  expected.u32(0x0a0d0d0a).u32(28).u32(0x1a2b3c4d).u16(1).u16(0).u32(~0u).u32(~0u).u32(28);
  expected.u32(1).u32(32).u16(1).u16(0).u32(62).u16(9).u16(1).u32(9).u32(0).u32(32);
  expected.u32(6).u32(96).u32(0).u32(0x179ab0).u32(0x12345678).u32(61).u32(61);
  expected.raw(make_frame(61, 1)).zeros(3).u32(96);
  expected.u32(6).u32(96).u32(0).u32(0x179ab0).u32(0x12345678).u32(62).u32(100);
  expected.raw(cut).zeros(2).u32(96);
  EXPECT_EQ(load(file), expected.text());
}

// Both formats are what libpcap understands, and stamps are of the time of sending.
TEST_F(PcapPortTest, ReadsBackWhatItWrote) {
  std::vector<Frame> frames;
  for (unsigned i = 0; i < 500; ++i) frames.push_back(make_frame(14 + 13 * i, i));
  for (const std::string name : {"x.pcap", "x.pcapng"}) {
    const auto before = std::chrono::system_clock::now().time_since_epoch();
    auto writer = make_started("pcap:,tx=" + path(name));
    for (const Frame& frame : frames) {
      while (!send(writer->tx_queues()[0], frame)) std::this_thread::yield();
    }
    writer->stop();
    const auto after = std::chrono::system_clock::now().time_since_epoch();
    auto reader = make_started("pcap:" + path(name));
    timestamps_.clear();
    EXPECT_EQ(play(name, *reader), frames);
    EXPECT_GE(timestamps_.front(), std::chrono::nanoseconds(before).count() - 1'000'000);
    EXPECT_LE(timestamps_.back(), std::chrono::nanoseconds(after).count() + 1'000'000);
  }
  expect_no_leak();
}

TEST_F(PcapPortTest, WritesWithoutBeingStopped) {
  const std::string file = path("out.pcap");
  auto port = make_started("pcap:,tx=" + file);
  EXPECT_TRUE(send(port->tx_queues()[0], make_frame(60)));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (load(file).size() < 24 + 16 + 60 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(load(file).size(), 24u + 16 + 60);
}

/// Lets files of this process grow to `bytes` only, as long as it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(PcapPortTest, AFullDiskBreaksThePortAndTheFileStaysWhole) {
  const std::string file = path("out.pcap");
  auto port = make_started("pcap:,tx=" + file);
  const TxQueue tx = port->tx_queues()[0];
  const FileSizeLimit limit(4000);
  uint64_t sent = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  const auto late = [&] { return std::chrono::steady_clock::now() > deadline; };
  while (port->info().broken.empty() && !late()) sent += send(tx, make_frame(500)) ? 1 : 0;
  EXPECT_THAT(port->info().broken, HasSubstr("can not be written"));
  bool taken = false;  // it is, once the pool has some again, and counted as dropped
  while (!taken && !late()) taken = send(tx, make_frame(500));
  EXPECT_TRUE(taken);
  ++sent;
  port->stop();
  const uint64_t carried = tx.counters->packets.value();
  EXPECT_LE(carried, 7u);
  EXPECT_EQ(carried + tx.counters->drops.value(DropReason::receiver_error), sent);
  EXPECT_EQ(load(file).size(), 24 + carried * 516);
  port.reset();
  expect_no_leak();
}

}  // namespace
}  // namespace pollux
