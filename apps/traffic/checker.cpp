// SPDX-License-Identifier: Apache-2.0
#include "apps/traffic/checker.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "apps/traffic/pattern.hpp"

namespace pollux::apps {
namespace {

constexpr size_t kIp = 14;
constexpr size_t kUdp = 34;
constexpr size_t kStart = kHeaders + Stamp::kSize;

uint32_t get16(const uint8_t* from) { return uint32_t{from[0]} << 8 | from[1]; }

bool is_ours(const uint8_t* headers, Stamp& stamp) {
  return get16(headers + 12) == 0x0800 && headers[kIp] == 0x45 && headers[kIp + 9] == 17 &&
         stamp.decode(headers + kHeaders);
}

}  // namespace

SequenceTracker::Verdict SequenceTracker::take(uint64_t sequence) {
  if (!begun_) {
    begun_ = true;
    first_ = next_ = sequence;
  }
  if (sequence >= next_) {
    // What is skipped counts as missing until it comes.
    for (uint64_t s = std::max(next_, sequence - std::min<uint64_t>(sequence, kWindow - 1));
         s < sequence; ++s) {
      mark(s, false);
    }
    mark(sequence, true);
    next_ = sequence + 1;
    ++unique_;
    ++unique_in_range_;
    return Verdict::kInOrder;
  }
  const bool in_window = next_ - sequence <= kWindow;
  if (sequence >= first_ && in_window && seen_[sequence % kWindow]) return Verdict::kDuplicate;
  if (in_window) mark(sequence, true);
  ++unique_;
  if (sequence >= first_) ++unique_in_range_;
  return Verdict::kLate;
}

void Checker::take(const Packet& packet, uint64_t now) noexcept {
  std::array<uint8_t, kStart> headers;
  Stamp stamp;
  if (packet.copy_to(headers.data(), 0, headers.size()) != headers.size() ||
      !is_ours(headers.data(), stamp)) {
    ++results_.foreign;
    return;
  }
  ++results_.frames;
  results_.bytes += packet.size();
  if (!intact(packet, headers.data(), stamp)) {
    ++results_.corrupt;
    return;
  }
  if (last_tracker_ == nullptr || stamp.stream != last_stream_) {
    last_tracker_ = &streams_[stamp.stream];
    last_stream_ = stamp.stream;
  }
  switch (last_tracker_->take(stamp.sequence)) {
    case SequenceTracker::Verdict::kDuplicate:
      ++results_.duplicates;
      return;
    case SequenceTracker::Verdict::kLate:
      ++results_.reordered;
      break;
    case SequenceTracker::Verdict::kInOrder:
      break;
  }
  ++results_.unique;
  latency_.add(now > stamp.time ? now - stamp.time : 0);
}

bool Checker::intact(const Packet& packet, const uint8_t* headers,
                     const Stamp& stamp) const noexcept {
  const uint32_t size = packet.size();
  const uint32_t udp_len = get16(headers + kUdp + 4);
  if (get16(headers + kIp + 2) != size - kIp || udp_len != size - kUdp) return false;
  if (fold(word_sum(headers + kIp, 20)) != 0xffff) return false;
  if (!filled_right(packet, stamp.sequence)) return false;
  const uint64_t sum = word_sum(headers + kIp + 12, 8) + 17 + udp_len +
                       word_sum(headers + kUdp, kStart - kUdp) +
                       filling_.sum(stamp.sequence, size - kStart);
  return fold(sum) == 0xffff;
}

bool Checker::filled_right(const Packet& packet, uint64_t sequence) const noexcept {
  const uint8_t* expected = filling_.window(sequence, packet.size() - kStart).data();
  size_t skip = kStart;
  const auto same = [&](const std::byte* data, size_t size) {
    const size_t skipped = std::min(skip, size);
    skip -= skipped;
    const size_t n = size - skipped;
    const bool equal = std::memcmp(data + skipped, expected, n) == 0;
    expected += n;
    return equal;
  };
  if (!same(packet.head(), packet.head_size())) return false;
  return std::ranges::all_of(packet.tail(), [&](const Segment& s) { return same(s.data, s.len); });
}

uint64_t Checker::missing() const {
  uint64_t missing = 0;
  for (const auto& [stream, tracker] : streams_) missing += tracker.missing();
  return missing;
}

}  // namespace pollux::apps
