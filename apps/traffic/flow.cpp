// SPDX-License-Identifier: Apache-2.0
#include "apps/traffic/flow.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "pollux/control/units.hpp"

namespace pollux::apps {

uint64_t Sender::due(uint64_t now) noexcept {
  if (limits_.rate == 0) return Burst::kCapacity;
  // After a pause the rate is kept from now on: what was missed is not made up for in one burst.
  constexpr uint64_t kMostBehind = 10'000'000;
  const auto owed = [&] {
    return static_cast<uint64_t>(limits_.rate * static_cast<double>(now - rate_start_) / 1e9);
  };
  if (rate_start_ == 0) rate_start_ = now;
  const auto most = static_cast<uint64_t>(limits_.rate * kMostBehind / 1e9) + limits_.burst;
  if (owed() > made_ - rate_made_ + most) {
    rate_start_ = now;
    rate_made_ = made_;
  }
  return owed() - std::min(owed(), made_ - rate_made_);
}

size_t Sender::turn(uint64_t now, uint64_t most) noexcept {
  uint64_t wanted = std::min<uint64_t>(most, limits_.burst - pending_.size());
  if (wanted != 0) wanted = std::min(wanted, due(now));
  if (limits_.count) wanted = std::min(wanted, *limits_.count - made_);
  PoolCache& cache = pending_.cache();
  for (; wanted != 0; --wanted) {
    Packet* packet = cache.allocate();
    if (packet == nullptr) break;
    if (!source_.make(*packet, cache, made_, now)) {
      cache.release(packet);
      break;
    }
    pending_.push(packet);
    ++made_;
  }
  const size_t before = pending_.size();
  if (before != 0) (void)queue_.send(queue_.self, pending_);
  return before - pending_.size();
}

void announce(PoolCache& cache, const TxQueue& queue, const std::array<uint8_t, 6>& mac) noexcept {
  Packet* packet = cache.allocate();
  if (packet == nullptr) return;
  auto* frame = reinterpret_cast<uint8_t*>(packet->head());
  std::memset(frame, 0, kMinFrame);
  std::memset(frame, 0xff, 6);
  std::memcpy(frame + 6, mac.data(), 6);
  frame[12] = 0x88;  // local experiments
  frame[13] = 0xb5;
  packet->set_head_size(kMinFrame);
  Burst burst(cache);
  burst.push(packet);
  (void)queue.send(queue.self, burst);
  if (queue.flush != nullptr) queue.flush(queue.self);
}

bool is_announcement(const Packet& packet) noexcept {
  if (packet.size() != kMinFrame || packet.head_size() != kMinFrame) return false;
  const auto* frame = reinterpret_cast<const uint8_t*>(packet.head());
  return frame[12] == 0x88 && frame[13] == 0xb5 &&
         std::all_of(frame + 14, frame + kMinFrame, [](uint8_t byte) { return byte == 0; });
}

void LiveLine::print(uint64_t now, const Totals& totals, bool sends, bool receives) {
  const double seconds = static_cast<double>(now - last_) / 1e9;
  const auto rates = [&](uint64_t packets, uint64_t bytes) {
    return fmt::format("{:>11} {:>13}",
                       control::packet_rate(static_cast<double>(packets) / seconds),
                       control::bit_rate(static_cast<double>(bytes) * 8 / seconds));
  };
  std::string line = fmt::format("{:4.0f} s", static_cast<double>(now - start_) / 1e9);
  if (sends) {
    line += "  sent " + rates(totals.sent - before_.sent, totals.sent_bytes - before_.sent_bytes);
  }
  if (receives) {
    line += "  received " + rates(totals.received - before_.received,
                                  totals.received_bytes - before_.received_bytes);
    line +=
        fmt::format("  lost {}  bad {}", control::count(totals.lost), control::count(totals.bad));
  }
  fmt::print(stderr, "{}\n", line);
  before_ = totals;
  last_ = now;
}

}  // namespace pollux::apps
