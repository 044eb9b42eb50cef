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
#include "pollux/ring/packed_device_ring.hpp"
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
using test::kWrite;
using test::pattern;
using test::put_le;

constexpr uint32_t kEntries = 16;
constexpr uint64_t kBase = 0x10000;
constexpr uint64_t kOther = 0x80000;
constexpr uint64_t kSize = 0x20000;
constexpr uint64_t kFeatures = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_NET_F_MRG_RXBUF;

/// A driver's side of a ring in `guest`, from `at` on; it tells `wrote` of each place that it
/// writes.
class SplitDriver {
 public:
  using Ring = ring::SplitDeviceRing<HookedAccess>;
  static constexpr uint64_t kSize = 16 * kEntries + 40 + 8 * kEntries + 6;

  SplitDriver(Guest& guest, uint64_t at) : guest_(guest), desc_(at) {}

  [[nodiscard]] Ring make(PeerView view, bool event_idx, HookedAccess access) const {
    const ring::SplitLayout layout{kEntries, reinterpret_cast<spec::virtq_desc*>(guest_.at(desc_)),
                                   reinterpret_cast<spec::virtq_avail*>(guest_.at(avail())),
                                   reinterpret_cast<spec::virtq_used*>(guest_.at(used()))};
    return Ring({.layout = layout, .event_idx = event_idx}, view, access);
  }
  [[nodiscard]] WriteLog::RingArea area() const {
    return {guest_.at(used()), spec::used_bytes(kEntries), GuestAddr{used()}, true};
  }
  [[nodiscard]] unsigned outstanding() const {
    return static_cast<uint16_t>(posted_ - test::get_le<uint16_t>(guest_.at(used() + 2)));
  }
  template <typename Wrote>
  void post(uint64_t addr, uint32_t size, Wrote&& wrote) {
    const uint16_t slot = posted_ % kEntries;
    test::DriverImage::put_desc(guest_.at(desc_), slot, addr, size, kWrite, 0);
    wrote(desc_ + 16 * slot, 16);
    put_le(guest_.at(avail() + 4 + 2 * slot), slot);
    put_le(guest_.at(avail() + 2), ++posted_);
    wrote(avail(), 6 + 2 * kEntries);
  }

 private:
  [[nodiscard]] uint64_t avail() const { return desc_ + 16 * kEntries; }
  [[nodiscard]] uint64_t used() const { return avail() + 40; }

  Guest& guest_;
  uint64_t desc_;
  uint16_t posted_ = 0;
};

/// 2.8: descriptors of 16 bytes {addr le64, len le32, id le16, flags le16}; AVAIL is bit 7 of the
/// flags, USED bit 15.
class PackedDriver {
 public:
  using Ring = ring::PackedDeviceRing<HookedAccess>;
  static constexpr uint64_t kSize = 16 * kEntries + 8;

  PackedDriver(Guest& guest, uint64_t at) : guest_(guest), desc_(at) {}

  [[nodiscard]] Ring make(PeerView view, bool event_idx, HookedAccess access) const {
    const uint64_t events = desc_ + 16 * kEntries;
    const ring::PackedLayout layout{
        kEntries, reinterpret_cast<spec::pvirtq_desc*>(guest_.at(desc_)),
        reinterpret_cast<spec::pvirtq_event_suppress*>(guest_.at(events)),
        reinterpret_cast<spec::pvirtq_event_suppress*>(guest_.at(events + 4))};
    return Ring({.layout = layout, .next = {}, .event_idx = event_idx}, view, access);
  }
  [[nodiscard]] WriteLog::RingArea area() const {
    const uint64_t device = desc_ + 16 * kEntries + 4;
    return {guest_.at(device), 4, GuestAddr{device}, true};
  }
  [[nodiscard]] unsigned outstanding() {
    for (; taken_back_ != posted_; ++taken_back_) {
      const auto flags = test::get_le<uint16_t>(guest_.at(at(taken_back_) + 14));
      if ((flags & 0x8080) != (lap(taken_back_) ? 0x8080 : 0)) break;
    }
    return posted_ - taken_back_;
  }
  template <typename Wrote>
  void post(uint64_t addr, uint32_t size, Wrote&& wrote) {
    std::byte* desc = guest_.at(at(posted_));
    put_le(desc, addr);
    put_le(desc + 8, size);
    put_le(desc + 12, static_cast<uint16_t>(posted_ % kEntries));
    put_le(desc + 14, static_cast<uint16_t>(kWrite | (lap(posted_) ? 0x80 : 0x8000)));
    wrote(at(posted_), 16);
    ++posted_;
  }

 private:
  [[nodiscard]] uint64_t at(unsigned number) const { return desc_ + 16 * (number % kEntries); }
  static bool lap(unsigned number) { return number / kEntries % 2 == 0; }

  Guest& guest_;
  uint64_t desc_;
  unsigned posted_ = 0;
  unsigned taken_back_ = 0;
};

/// The guest, and the front end's copy of it. The ring lies across a page's end.
template <typename Driver>
class LiveCopy {
 public:
  using Ring = typename Driver::Ring;

  explicit LiveCopy(unsigned seed, bool event_idx) : random_(seed) {
    for (const uint64_t place : {kBase, kOther}) guest_.write(place, pattern(kSize, seed));
    std::memset(guest_.at(kRing), 0, Driver::kSize);
    copy_all();
    write_log_.emplace(guest_.memory(), log_, driver_.area());
    hook_.before = [this] {
      if (random_() % 3 == 0) harvest();
    };
    PeerView view = guest_.view();
    view.set_log(&*write_log_);
    Ring ring = driver_.make(view, event_idx, HookedAccess(hook_));
    ring.suppress_notifications();
    tx_.emplace(std::move(ring), kFeatures);
  }

  /// The driver posts buffers of any size and place, the switch sends what it has.
  void round() {
    for (int i = 0; i < 8 && driver_.outstanding() < kEntries / 2; ++i) {
      const uint64_t region = random_() % 2 == 0 ? kBase + 0x2000 : kOther;
      const auto size = static_cast<uint32_t>(64 + random_() % 2000);
      // What the guest's own CPU writes is tracked by somebody else, exactly.
      driver_.post(region + random_() % (kSize - 0x2000 - size), size,
                   [this](uint64_t addr, uint64_t n) { log_->mark(addr, n); });
    }
    Burst burst(pool_.cache());
    const unsigned frames = random_() % 4;
    for (unsigned i = 0; i < frames; ++i) {
      burst.push(pool_.packet_of(pattern(60 + random_() % 3000, static_cast<unsigned>(random_()))));
    }
    QueueCounters counters;
    tx_->send(burst, counters);
    burst.clear();
    (void)tx_->publish();
    if (random_() % 4 == 0) {
      (void)tx_->ring().request_notifications();
      tx_->ring().suppress_notifications();
    }
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
  static constexpr uint64_t kRing = kBase + 0xf40;

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
  Driver driver_{guest_, kRing};
  std::vector<std::byte> copy_ = std::vector<std::byte>(kOther + kSize);
  std::vector<std::byte> bits_ = std::vector<std::byte>((kOther + kSize) / DirtyLog::kPage / 8);
  std::shared_ptr<DirtyLog> log_ = std::make_shared<DirtyLog>(std::span(bits_));
  std::optional<WriteLog> write_log_;
  HookedAccess::Hook hook_;
  test::LeakChecked pool_;
  std::optional<virtio::NetDeviceTx<Ring>> tx_;
  uint64_t sent_ = 0;
};

template <typename Driver>
void copy_live() {
  for (unsigned seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    LiveCopy<Driver> copy(seed, seed % 2 == 0);
    for (int round = 0; round < 50; ++round) copy.round();
    copy.check();
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(LiveCopyOfAGuest, WithASplitRingEndsWithTheSamePages) { copy_live<SplitDriver>(); }
TEST(LiveCopyOfAGuest, WithAPackedRingEndsWithTheSamePages) { copy_live<PackedDriver>(); }

}  // namespace
}  // namespace pollux
