// SPDX-License-Identifier: Apache-2.0
// The same packets through Linux's own segmentation: in at a tap device with virtio-net headers,
// over a bridge, out at a tap device without offloads. Byte for byte what the Segmenter makes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "pollux/base/fd.hpp"
#include "pollux/stage/offload.hpp"
#include "tests/support/packets.hpp"
#include "tests/unit/stage/gso_reference.hpp"

namespace pollux::stage {
namespace {

using test::Bytes;
using test::GsoFrame;

/// The virtio-net header of VIRTIO 1.3, 5.1.6, without num_buffers.
struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
};
static_assert(sizeof(VnetHeader) == 10);

constexpr uint8_t kSource[6] = {0x52, 0x54, 0, 0, 0, 1};

/// Two taps and a bridge between them, in the network namespace of the thread that makes it.
class KernelSwitch {
 public:
  /// What is missing, or empty.
  std::string open() {
    if (::unshare(CLONE_NEWNET) != 0) return "needs root: a network namespace of its own";
    socket_ = UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (::ioctl(socket_.get(), SIOCBRADDBR, "br0") != 0) return "needs the kernel's bridge";
    for (const bool in : {true, false}) {
      UniqueFd& tap = in ? in_ : out_;
      const char* name = in ? "in" : "out";
      tap = UniqueFd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
      ifreq request = named(name);
      request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | (in ? IFF_VNET_HDR : 0));
      if (!tap || ::ioctl(tap.get(), TUNSETIFF, &request) != 0) return "needs /dev/net/tun";
      ifreq bridge = named("br0");
      ::ioctl(socket_.get(), SIOCGIFINDEX, &request);
      bridge.ifr_ifindex = request.ifr_ifindex;
      if (::ioctl(socket_.get(), SIOCBRADDIF, &bridge) != 0) return "can not use the bridge";
    }
    for (const char* name : {"in", "out", "br0"}) {
      ifreq request = named(name);
      ::ioctl(socket_.get(), SIOCGIFFLAGS, &request);
      request.ifr_flags |= IFF_UP;
      if (::ioctl(socket_.get(), SIOCSIFFLAGS, &request) != 0) return "can not bring links up";
    }
    return "";
  }

  bool send(const VnetHeader& header, const Bytes& frame) {
    Bytes all(sizeof(header));
    std::memcpy(all.data(), &header, sizeof(header));
    all.insert(all.end(), frame.begin(), frame.end());
    return ::write(in_.get(), all.data(), all.size()) == static_cast<ssize_t>(all.size());
  }

  /// The next frame from kSource; empty when none comes.
  Bytes receive() {
    for (;;) {
      pollfd ready{out_.get(), POLLIN, 0};
      if (::poll(&ready, 1, 5000) <= 0) return {};
      Bytes frame(70000);
      const ssize_t size = ::read(out_.get(), frame.data(), frame.size());
      if (size < 14 || std::memcmp(frame.data() + 6, kSource, 6) != 0) continue;
      frame.resize(static_cast<size_t>(size));
      return frame;
    }
  }

 private:
  static ifreq named(const char* name) {
    ifreq request{};
    std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    return request;
  }

  UniqueFd socket_;
  UniqueFd in_;
  UniqueFd out_;
};

/// Runs `body` with a KernelSwitch on a thread of its own: the namespace ends with it.
void with_kernel(const std::function<void(KernelSwitch&)>& body) {
  std::string missing;
  std::thread([&] {
    KernelSwitch kernel;
    missing = kernel.open();
    if (missing.empty()) body(kernel);
  }).join();
  if (!missing.empty()) GTEST_SKIP() << missing;
}

void set_addresses(Bytes& frame) {
  const uint8_t addresses[] = {0x52, 0x54, 0, 0, 0, 2};
  std::memcpy(frame.data(), addresses, 6);
  std::memcpy(frame.data() + 6, kSource, 6);
}

uint8_t gso_type(GsoType gso) {
  if (gso == GsoType::kTcp4) return 1;
  if (gso == GsoType::kTcp6) return 4;
  if (gso == GsoType::kUfo4 || gso == GsoType::kUfo6) return 3;
  return 5;
}

TEST(KernelGso, SegmentsAreTheSame) {
  with_kernel([](KernelSwitch& kernel) {
    std::mt19937 random(17);
    test::PacketMaker maker;
    for (int round = 0; round < 300; ++round) {
      GsoFrame frame = test::random_gso_frame(random);
      set_addresses(frame.bytes);
      const size_t payload = frame.bytes.size() - frame.payload;
      const auto gso_size = static_cast<uint16_t>(payload / 60 + 8 + random() % 1300);
      if (!frame.tcp() && payload == 0) continue;
      // Linux counts TCP options as payload when it asks whether one segment is enough, and then
      // drops what turns out to fit.
      if (payload <= gso_size && payload + 40 > gso_size) continue;
      const VnetHeader header{1,
                              gso_type(frame.gso),
                              static_cast<uint16_t>(frame.payload),
                              gso_size,
                              static_cast<uint16_t>(frame.l4),
                              static_cast<uint16_t>(frame.tcp() ? 16 : 6)};
      ASSERT_TRUE(kernel.send(header, frame.bytes)) << std::strerror(errno);

      Packet* packet = maker.make(frame.bytes);
      packet->meta.gso = payload > gso_size ? frame.gso : GsoType::kNone;
      packet->meta.gso_size = gso_size;
      packet->meta.needs_csum = true;
      packet->meta.csum_start = header.csum_start;
      packet->meta.csum_offset = header.csum_offset;
      Burst burst(maker.cache());
      Burst out(maker.cache());
      Burst held(maker.cache());
      burst.push(packet);
      finalize(
          burst, 0, out, held,
          [&](Burst& made) -> std::optional<DropReason> {
            for (const Packet* segment : made.packets()) {
              EXPECT_EQ(test::bytes_of(*segment), kernel.receive())
                  << "round " << round << " type " << int(header.gso_type) << " payload " << payload
                  << " gso_size " << gso_size;
            }
            return std::nullopt;
          },
          [](DropReason reason, size_t) { ADD_FAILURE() << info(reason).name; });
      if (testing::Test::HasFailure()) return;
    }
  });
}

TEST(KernelGso, FragmentsAreTheSame) {
  with_kernel([](KernelSwitch& kernel) {
    std::mt19937 random(19);
    test::PacketMaker maker;
    for (int round = 0; round < 300; ++round) {
      GsoFrame frame = test::random_ufo_frame(random);
      set_addresses(frame.bytes);
      const size_t bytes = frame.bytes.size() - frame.l4;
      const auto gso_size = static_cast<uint16_t>((bytes / 60 + 8 + random() % 1300) & ~7U);
      if (bytes <= gso_size) continue;  // Linux drops what needs no fragments
      const VnetHeader header{
          1, 3, static_cast<uint16_t>(frame.payload), gso_size, static_cast<uint16_t>(frame.l4), 6};
      ASSERT_TRUE(kernel.send(header, frame.bytes)) << std::strerror(errno);

      Packet* packet = maker.make_split(frame.bytes, frame.payload, random);
      packet->meta.gso = frame.gso;
      packet->meta.gso_size = gso_size;
      packet->meta.needs_csum = true;
      packet->meta.csum_start = header.csum_start;
      packet->meta.csum_offset = header.csum_offset;
      Burst burst(maker.cache());
      Burst out(maker.cache());
      Burst held(maker.cache());
      burst.push(packet);
      finalize(
          burst, 0, out, held,
          [&](Burst& made) -> std::optional<DropReason> {
            for (const Packet* fragment : made.packets()) {
              Bytes ours = test::bytes_of(*fragment);
              Bytes theirs = kernel.receive();
              if (!frame.v4() && ours.size() > 62 && theirs.size() > 62) {
                test::take_identification(ours, frame.l3);  // Linux draws it
                test::take_identification(theirs, frame.l3);
              }
              EXPECT_EQ(ours, theirs)
                  << "round " << round << " bytes " << bytes << " gso_size " << gso_size;
            }
            return std::nullopt;
          },
          [](DropReason reason, size_t) { ADD_FAILURE() << info(reason).name; });
      if (testing::Test::HasFailure()) return;
    }
  });
}

TEST(KernelGso, ChecksumsAreTheSame) {
  with_kernel([](KernelSwitch& kernel) {
    std::mt19937 random(18);
    test::PacketMaker maker;
    for (int round = 0; round < 300; ++round) {
      Bytes bytes = test::random_bytes(60 + random() % 1400, random);
      set_addresses(bytes);
      test::put16(bytes, 12, 0x88b5);
      const auto start = static_cast<uint16_t>(
          34 + random() % (bytes.size() - 36));  // Linux wants an IP header's room before it
      const auto offset = static_cast<uint16_t>(random() % (bytes.size() - start - 1));
      if (round % 10 == 0) {
        // The sum is ffff: its complement 0 must not appear.
        std::fill(bytes.begin() + start, bytes.end(), uint8_t{0});
        test::put16(bytes, start + offset, 0xffff);
        if (offset % 2 != 0) continue;
      }
      ASSERT_TRUE(kernel.send({1, 0, 0, 0, start, offset}, bytes)) << std::strerror(errno);
      Packet* packet = maker.make(bytes);
      packet->meta.needs_csum = true;
      packet->meta.csum_start = start;
      packet->meta.csum_offset = offset;
      EXPECT_EQ(fill_checksum(*packet, maker.cache()), std::nullopt);
      EXPECT_EQ(test::bytes_of(*packet), kernel.receive()) << start << " + " << offset;
      maker.cache().release(packet);
      if (testing::Test::HasFailure()) return;
    }
  });
}

}  // namespace
}  // namespace pollux::stage
