// SPDX-License-Identifier: Apache-2.0
// A front end that copies a guest while it runs, as live migration does: now and then, between any
// two accesses of the device, it takes the marks and copies the pages that they name. In the end
// its copy must be the guest, to the byte.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "pollux/mem/dirty_log.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_device_rx.hpp"
#include "pollux/virtio/net_device_tx.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/hooked_access.hpp"

namespace pollux {
namespace {

using test::Bytes;
using test::Guest;
using test::HookedAccess;
using test::kNext;
using test::kWrite;
using test::pattern;
using test::put_le;
using Ring = ring::SplitDeviceRing<HookedAccess>;

constexpr uint32_t kEntries = 16;
constexpr uint64_t kBase = 0x10000;
constexpr uint64_t kOther = 0x80000;
constexpr uint64_t kSize = 0x20000;
constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF;

/// The guest, and the front end's copy of it. The ring lies across a page's end.
class LiveCopy {
 public:
  explicit LiveCopy(unsigned seed, bool event_idx) : random_(seed) {
    const std::array<uint64_t, 2> places{kBase, kOther};
    for (const uint64_t place : places) guest_.write(place, pattern(kSize, seed));
    copy_all();
    write_log_.emplace(
        guest_.memory(), log_,
        WriteLog::RingArea{guest_.at(kUsed), spec::used_bytes(kEntries), GuestAddr{kUsed}, true});
    std::memset(guest_.at(kRing), 0, 0x400);
    mark(kRing, 0x400);
    hook_.before = [this] {
      if (random_() % 3 == 0) harvest();
    };
    PeerView view = guest_.view();
    view.set_log(&*write_log_);
    const ring::SplitLayout layout{kEntries, reinterpret_cast<spec::virtq_desc*>(guest_.at(kRing)),
                                   reinterpret_cast<spec::virtq_avail*>(guest_.at(kAvail)),
                                   reinterpret_cast<spec::virtq_used*>(guest_.at(kUsed))};
    Ring ring({layout, 0, false, event_idx}, view, HookedAccess(hook_));
    ring.suppress_notifications();
    tx_.emplace(std::move(ring), kFeatures);
  }

  /// The driver posts buffers of any size and place, the switch sends what it has.
  void round() {
    for (int i = 0; i < 8 && static_cast<uint16_t>(posted_ - used()) < kEntries / 2; ++i) post();
    Burst burst(pool_.cache());
    const unsigned frames = random_() % 4;
    for (unsigned i = 0; i < frames; ++i) {
      burst.push(pool_.packet_of(pattern(60 + random_() % 3000, static_cast<unsigned>(random_()))));
    }
    QueueCounters counters;
    tx_->send(burst, counters);
    burst.clear();
    (void)tx_->publish();
    sent_ += counters.packets.value();
  }

  /// The last look, with the rings stopped.
  void check() {
    harvest();
    for (const uint64_t place : {kBase, kOther}) {
      for (uint64_t at = 0; at < kSize; at += DirtyLog::kPage) {
        const Bytes now = guest_.read(place + at, DirtyLog::kPage);
        ASSERT_EQ(std::memcmp(now.data(), &copy_[place + at], now.size()), 0)
            << "page at " << std::hex << place + at;
      }
    }
    EXPECT_FALSE(log_->incomplete());
    EXPECT_GT(sent_, 0u);
  }

 private:
  static constexpr uint64_t kRing = kBase + 0xf00;
  static constexpr uint64_t kAvail = kRing + 16 * kEntries;
  static constexpr uint64_t kUsed = kAvail + 40;

  uint16_t used() { return test::get_le<uint16_t>(guest_.at(kUsed + 2)); }

  /// What the guest's own CPU writes is tracked by somebody else, exactly.
  void mark(uint64_t addr, uint64_t size) { log_->mark(addr, size); }

  void post() {
    const uint16_t slot = posted_ % kEntries;
    const uint64_t region = random_() % 2 == 0 ? kBase + 0x2000 : kOther;
    const auto size = static_cast<uint32_t>(64 + random_() % 2000);
    const uint64_t addr = region + random_() % (kSize - 0x2000 - size);
    test::DriverImage::put_desc(guest_.at(kRing), slot, addr, size, kWrite, 0);
    mark(kRing + 16 * slot, 16);
    put_le(guest_.at(kAvail + 4 + 2 * slot), slot);
    put_le(guest_.at(kAvail + 2), ++posted_);
    mark(kAvail, 6 + 2 * kEntries);
  }

  void copy_all() {
    for (const uint64_t place : {kBase, kOther}) {
      const Bytes now = guest_.read(place, kSize);
      std::memcpy(&copy_[place], now.data(), now.size());
    }
  }

  void harvest() {
    for (size_t i = 0; i < bits_.size(); ++i) {
      const auto byte = std::to_integer<unsigned>(std::exchange(bits_[i], std::byte{}));
      for (unsigned bit = 0; bit < 8; ++bit) {
        if ((byte & (1U << bit)) == 0) continue;
        const uint64_t page = (8 * i + bit) * DirtyLog::kPage;
        const Bytes now = guest_.read(page, DirtyLog::kPage);
        std::memcpy(&copy_[page], now.data(), now.size());
      }
    }
  }

  std::minstd_rand random_;
  Guest guest_{{{kBase, kSize}, {kOther, kSize}}};
  std::vector<std::byte> copy_ = std::vector<std::byte>(kOther + kSize);
  std::vector<std::byte> bits_ = std::vector<std::byte>((kOther + kSize) / DirtyLog::kPage / 8);
  std::shared_ptr<DirtyLog> log_ = std::make_shared<DirtyLog>(std::span(bits_));
  std::optional<WriteLog> write_log_;
  HookedAccess::Hook hook_;
  test::LeakChecked pool_;
  std::optional<virtio::NetDeviceTx<Ring>> tx_;
  uint16_t posted_ = 0;
  uint64_t sent_ = 0;
};

TEST(LiveCopyOfAGuest, EndsWithTheSamePages) {
  for (unsigned seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    LiveCopy copy(seed, seed % 2 == 0);
    for (int round = 0; round < 50; ++round) copy.round();
    copy.check();
    if (testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace pollux
