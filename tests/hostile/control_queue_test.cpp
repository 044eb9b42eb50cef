// SPDX-License-Identifier: Apache-2.0
// Drivers that lie in their control queue, on rings of both formats: what must come of each lie,
// and that a good command behind it is carried out. All guest memory lies between pages that nobody
// may touch.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "pollux/ring/packed_device_ring.hpp"
#include "pollux/ring/split_device_ring.hpp"
#include "pollux/virtio/net_control.hpp"
#include "pollux/virtio/net_device_control.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/packed_image.hpp"

namespace pollux {
namespace {

using test::Bytes;
using test::DriverImage;
using test::Guest;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::PackedImage;

constexpr uint32_t kSize = 16;
// The first two regions are adjacent; nothing lies behind the second.
constexpr uint64_t kFirst = 0x10000;
constexpr uint64_t kSecond = 0x50000;
constexpr uint64_t kEnd = 0x60000;
constexpr uint64_t kNowhere = 0x70000000;

constexpr uint8_t kOk = 0;
constexpr uint8_t kErr = 1;
constexpr uint8_t kUntouched = 0xee;

using Element = PackedImage::Element;
using Chain = std::vector<Element>;
using Execute = std::function<bool(std::span<const std::byte>)>;

Bytes bytes_of(std::initializer_list<int> values, size_t zeros = 0) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  bytes.resize(bytes.size() + zeros);
  return bytes;
}

/// A control queue of either format, both ends.
class Queue {
 public:
  virtual ~Queue() = default;
  /// Makes a chain available.
  virtual void offer(const Chain& chain) = 0;
  /// A table of these entries at `at`, for an INDIRECT descriptor.
  virtual void put_table(std::byte* at, const Chain& entries) = 0;
  virtual void serve(const Execute& execute) = 0;
  /// What the device says that it wrote to each chain that it returned.
  [[nodiscard]] virtual std::vector<uint32_t> used() const = 0;
  [[nodiscard]] virtual ring::RingError error() const = 0;
};

class SplitQueue final : public Queue {
 public:
  explicit SplitQueue(const Guest& guest)
      : control_(ring::SplitDeviceRing<>(
            {.layout = image_.layout(), .next_avail = 0, .indirect = true, .event_idx = false},
            guest.view())) {}

  void offer(const Chain& chain) override {
    const auto head = static_cast<uint16_t>(next_);
    for (size_t i = 0; i < chain.size(); ++i, ++next_) {
      const bool last = i + 1 == chain.size();
      image_.desc(next_, chain[i].addr, chain[i].len,
                  static_cast<uint16_t>(chain[i].flags | (last ? 0 : kNext)),
                  static_cast<uint16_t>(next_ + 1));
    }
    image_.offer(head);
  }
  void put_table(std::byte* at, const Chain& entries) override {
    for (uint16_t i = 0; i < entries.size(); ++i) {
      const bool last = size_t{i} + 1 == entries.size();
      DriverImage::put_desc(at, i, entries[i].addr, entries[i].len,
                            static_cast<uint16_t>(entries[i].flags | (last ? 0 : kNext)),
                            static_cast<uint16_t>(i + 1));
    }
  }
  void serve(const Execute& execute) override { (void)control_.serve(64, execute); }
  [[nodiscard]] std::vector<uint32_t> used() const override {
    std::vector<uint32_t> lens;
    for (uint32_t i = 0; i < image_.used_idx(); ++i) lens.push_back(image_.used_len(i));
    return lens;
  }
  [[nodiscard]] ring::RingError error() const override { return control_.ring().error(); }
  [[nodiscard]] DriverImage& image() { return image_; }

 private:
  DriverImage image_{kSize};
  uint32_t next_ = 0;
  virtio::NetDeviceControl<ring::SplitDeviceRing<>> control_;
};

class PackedQueue final : public Queue {
 public:
  explicit PackedQueue(const Guest& guest)
      : control_(ring::PackedDeviceRing<>(
            {.layout = image_.layout(), .next = {}, .indirect = true, .event_idx = false},
            guest.view())) {}

  void offer(const Chain& chain) override {
    firsts_.push_back(image_.next);
    image_.offer(chain, static_cast<uint16_t>(firsts_.size()));
  }
  void put_table(std::byte* at, const Chain& entries) override {
    for (uint32_t i = 0; i < entries.size(); ++i) {
      PackedImage::put_desc(at, i, entries[i].addr, entries[i].len, 0, entries[i].flags);
    }
  }
  void serve(const Execute& execute) override { (void)control_.serve(64, execute); }
  [[nodiscard]] std::vector<uint32_t> used() const override {
    std::vector<uint32_t> lens;
    for (const uint32_t first : firsts_) {
      if (image_.used(first)) lens.push_back(image_.len(first));
    }
    return lens;
  }
  [[nodiscard]] ring::RingError error() const override { return control_.ring().error(); }

 private:
  PackedImage image_{kSize};
  std::vector<uint32_t> firsts_;
  virtio::NetDeviceControl<ring::PackedDeviceRing<>> control_;
};

enum class Format : uint8_t { kSplit, kPacked };

/// A driver, its memory and its control queue.
struct Driver {
  explicit Driver(Format format) {
    if (format == Format::kSplit) {
      queue = std::make_unique<SplitQueue>(guest);
    } else {
      queue = std::make_unique<PackedQueue>(guest);
    }
  }

  Element in(const Bytes& bytes) {
    return {guest.place(bytes), static_cast<uint32_t>(bytes.size())};
  }
  Element ack(uint32_t len = 1) {
    answer = guest.place(Bytes(std::max(len, 1U), std::byte{kUntouched}));
    return {answer, len, kWrite};
  }
  Element table(const Chain& entries) {
    const uint64_t at = guest.allocate(16 * entries.size());
    queue->put_table(guest.at(at), entries);
    return {at, static_cast<uint32_t>(16 * entries.size()), kIndirect};
  }
  [[nodiscard]] uint8_t answered() const { return std::to_integer<uint8_t>(*guest.at(answer)); }

  Guest guest{{{kFirst, kSecond - kFirst}, {kSecond, kEnd - kSecond}}};
  std::unique_ptr<Queue> queue;
  uint64_t answer = 0;  // where the last acknowledgement goes
};

/// PROMISC off: something that a good command changes, and a bad one does not.
const Bytes kPromiscOff = bytes_of({0, 0, 0});

struct Lie {
  std::string name;
  std::function<Chain(Driver&)> chain;
  uint8_t ack = kErr;
  uint32_t written = 1;
  bool carried_out = false;  // PROMISC is off afterwards
};

/// A command in one descriptor, with room for the answer behind it.
std::function<Chain(Driver&)> command(Bytes bytes) {
  return [bytes = std::move(bytes)](Driver& d) { return Chain{d.in(bytes), d.ack()}; };
}

const std::vector<Lie>& lies() {
  static const std::vector<Lie> table{
      // What is said.
      {"class_alone", command(bytes_of({0}))},
      {"truncated_command", command(bytes_of({0, 0}))},
      {"command_too_long_by_one", command(bytes_of({0, 0, 0, 0}))},
      {"unknown_class", command(bytes_of({9, 0, 0}))},
      {"unknown_command", command(bytes_of({0, 9, 0}))},
      {"mac_table_with_more_entries_than_bytes", command(bytes_of({1, 0, 3, 0, 0, 0}, 2 * 6 + 4))},
      {"mac_table_of_4294967295", command(bytes_of({1, 0, 255, 255, 255, 255}, 10))},
      // 0x2aaaaaab entries of 6 bytes are 2 bytes in 32 bits.
      {"mac_table_whose_size_wraps", command(bytes_of({1, 0, 0xab, 0xaa, 0xaa, 0x2a}, 6))},
      {"second_mac_table_missing", command(bytes_of({1, 0, 0, 0, 0, 0}))},
      {"second_mac_table_lies", command(bytes_of({1, 0, 0, 0, 0, 0, 2, 0, 0, 0}, 6))},
      {"more_macs_than_are_kept", command(bytes_of({1, 0, 1, 1, 0, 0}, 257 * 6 + 4)), kOk},
      {"longest_command_and_one", command(bytes_of({1, 0}, virtio::NetControl::kMaxCommand - 1))},
      // How it is said.
      {"split_at_every_byte",
       [](Driver& d) {
         Chain chain;
         for (const std::byte byte : kPromiscOff) chain.push_back(d.in({byte}));
         chain.push_back(d.ack());
         return chain;
       },
       kOk, 1, true},
      {"empty_pieces_between",
       [](Driver& d) {
         return Chain{
             {kNowhere, 0}, d.in(kPromiscOff), {kNowhere, 0}, {kNowhere, 0, kWrite}, d.ack()};
       },
       kOk, 1, true},
      {"room_for_more_than_the_answer",
       [](Driver& d) { return Chain{d.in(kPromiscOff), d.ack(100)}; }, kOk, 1, true},
      {"in_a_table", [](Driver& d) { return Chain{d.table({d.in(kPromiscOff), d.ack()})}; }, kOk, 1,
       true},
      {"across_two_regions",
       [](Driver& d) {
         d.guest.write(kSecond - 2, kPromiscOff);
         return Chain{{kSecond - 2, 3}, d.ack()};
       },
       kOk, 1, true},
      // No answer can be given: it is returned, and not carried out.
      {"no_room_for_the_answer", [](Driver& d) { return Chain{d.in(kPromiscOff)}; }, kUntouched, 0},
      {"answer_of_no_bytes", [](Driver& d) { return Chain{d.in(kPromiscOff), d.ack(0)}; },
       kUntouched, 0},
      {"answer_nowhere", [](Driver& d) { return Chain{d.in(kPromiscOff), {kNowhere, 1, kWrite}}; },
       kUntouched, 0},
      {"answer_that_wraps",
       [](Driver& d) { return Chain{d.in(kPromiscOff), {UINT64_MAX, 2, kWrite}}; }, kUntouched, 0},
      {"command_nowhere", [](Driver& d) { return Chain{{kNowhere, 3}, d.ack()}; }, kUntouched, 0},
      {"command_one_byte_past_the_end", [](Driver& d) { return Chain{{kEnd - 2, 3}, d.ack()}; },
       kUntouched, 0},
      {"command_where_the_device_writes",
       [](Driver& d) {
         Element wrong = d.in(kPromiscOff);
         const Element ack = d.ack();
         return Chain{{ack.addr, 0, kWrite}, wrong, ack};
       },
       kUntouched, 0},
      {"nothing_to_read", [](Driver& d) { return Chain{d.ack()}; }, kErr},
      {"table_in_a_table",
       [](Driver& d) { return Chain{d.table({d.table({d.in(kPromiscOff), d.ack()})})}; },
       kUntouched, 0},
      {"table_of_15_bytes",
       [](Driver& d) {
         Element element = d.table({d.in(kPromiscOff), d.ack()});
         element.len = 15;
         return Chain{element};
       },
       kUntouched, 0},
      {"table_of_no_bytes",
       [](Driver& d) {
         Element element = d.table({d.in(kPromiscOff), d.ack()});
         element.len = 0;
         return Chain{element};
       },
       kUntouched, 0},
      {"table_nowhere", [](Driver&) { return Chain{{kNowhere, 32, kIndirect}}; }, kUntouched, 0},
  };
  return table;
}

struct Case {
  Format format;
  Lie lie;

  friend void PrintTo(const Case& c, std::ostream* os) {
    *os << (c.lie.ack == kOk    ? "carried out"
            : c.lie.ack == kErr ? "refused"
                                : "returned, neither carried out nor answered");
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Format format : {Format::kSplit, Format::kPacked}) {
    for (const Lie& lie : lies()) all.push_back({format, lie});
  }
  return all;
}

class LyingControl : public testing::TestWithParam<Case> {
 protected:
  Execute execute() {
    return [this](std::span<const std::byte> bytes) { return control_.apply(bytes).has_value(); };
  }
  void expect_good_command(Driver& driver) {
    const size_t before = driver.queue->used().size();
    driver.queue->offer({driver.in(bytes_of({0, 1, 1})), driver.ack()});
    driver.queue->serve(execute());
    ASSERT_EQ(driver.queue->used().size(), before + 1);
    EXPECT_EQ(driver.queue->used().back(), 1u);
    EXPECT_EQ(driver.answered(), kOk);
    EXPECT_TRUE(control_.state().filter.allmulti);
  }

  virtio::NetControl control_{
      {.features = spec::VIRTIO_NET_F_CTRL_VQ | spec::VIRTIO_NET_F_CTRL_RX, .mac = {}}};
};

TEST_P(LyingControl, GetsWhatItDeservesAndNothingElse) {
  const auto& [format, lie] = GetParam();
  Driver driver(format);
  driver.queue->offer(lie.chain(driver));
  driver.queue->serve(execute());
  EXPECT_EQ(driver.queue->used(), std::vector<uint32_t>{lie.written});
  if (driver.answer != 0) {
    EXPECT_EQ(driver.answered(), lie.ack);
  }
  EXPECT_EQ(control_.state().filter.promisc, !lie.carried_out);
  EXPECT_EQ(driver.queue->error(), ring::RingError::none);
  expect_good_command(driver);
}

INSTANTIATE_TEST_SUITE_P(Hostile, LyingControl, testing::ValuesIn(cases()), [](const auto& c) {
  return (c.param.format == Format::kSplit ? "Split_" : "Packed_") + c.param.lie.name;
});

/// A chain that ends nowhere costs one walk of bounded length.
TEST(LyingControlChain, LoopIsReturned) {
  Guest guest;
  SplitQueue queue(guest);
  queue.image().desc(0, guest.allocate(1), 1, kNext, 0);
  queue.image().offer(0);
  queue.serve([](std::span<const std::byte>) { return true; });
  EXPECT_EQ(queue.used(), std::vector<uint32_t>{0});
}

/// More commands than one turn serves: the rest waits for the next.
TEST(LyingControlChain, CommandsWithoutEndLeaveTheLoopToOthers) {
  Guest guest;
  DriverImage image(kSize);
  virtio::NetDeviceControl<ring::SplitDeviceRing<>> control(ring::SplitDeviceRing<>(
      {.layout = image.layout(), .next_avail = 0, .indirect = false, .event_idx = false},
      guest.view()));
  const uint64_t at = guest.place(kPromiscOff);
  image.desc(0, at, 3, kNext, 1);
  image.desc(1, guest.allocate(1), 1, kWrite);
  for (int i = 0; i < 10; ++i) image.offer(0);
  size_t served = 0;
  const auto count = [&](std::span<const std::byte>) { return ++served != 0; };
  (void)control.serve(4, count);
  EXPECT_EQ(served, 4u);
  (void)control.serve(64, count);
  EXPECT_EQ(served, 10u);
}

}  // namespace
}  // namespace pollux
