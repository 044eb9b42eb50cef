// SPDX-License-Identifier: Apache-2.0
#include "apps/traffic/source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "pollux/packet/fill.hpp"
#include "pollux/ports/pcap/capture_file.hpp"

namespace pollux::apps {

Result<CaptureFrames> CaptureFrames::load(const std::string& path) {
  auto reader = CaptureReader::open(path);
  if (!reader) return forward(reader);
  CaptureFrames self;
  for (;;) {
    auto frame = reader->next();
    if (!frame) return forward(frame);
    if (!*frame) break;
    const auto bytes = (*frame)->bytes;
    const char* wrong = nullptr;
    if (bytes.size() < (*frame)->length) wrong = "was cut short by the capture";
    if (bytes.size() < 14) wrong = "is shorter than an Ethernet header";
    if (bytes.size() > kMaxFrame) wrong = "is longer than any frame";
    if (wrong != nullptr) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("capture file '{}': frame {} {}: take it out", path,
                              self.frames_.size() + 1, wrong));
    }
    self.frames_.emplace_back(bytes.begin(), bytes.end());
  }
  if (self.frames_.empty()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("capture file '{}' is empty", path));
  }
  return self;
}

bool CaptureFrames::make(Packet& packet, PoolCache& cache, uint64_t sequence,
                         uint64_t /*time*/) const noexcept {
  return fill(packet, cache, frames_[sequence % frames_.size()]);
}

bool CaptureFrames::equals(const Packet& packet, uint64_t sequence) const noexcept {
  const std::vector<std::byte>& frame = frames_[sequence % frames_.size()];
  if (packet.size() != frame.size()) return false;
  if (std::memcmp(packet.head(), frame.data(), packet.head_size()) != 0) return false;
  const std::byte* expected = frame.data() + packet.head_size();
  return std::ranges::all_of(packet.tail(), [&](const Segment& segment) {
    const std::byte* at = expected;
    expected += segment.len;
    return std::memcmp(segment.data, at, segment.len) == 0;
  });
}

void CaptureChecker::take(const Packet& packet) noexcept {
  for (uint64_t ahead = 0; ahead < kLookAhead; ++ahead) {
    if (!frames_.equals(packet, next_ + ahead)) continue;
    skipped_ += ahead;
    next_ += ahead + 1;
    ++equal_;
    return;
  }
  ++corrupt_;
  ++next_;
}

}  // namespace pollux::apps
