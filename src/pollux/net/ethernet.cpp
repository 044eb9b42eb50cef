// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/ethernet.hpp"

#include <fmt/format.h>

#include <charconv>

namespace pollux::net {

Result<MacAddress> MacAddress::from_text(std::string_view text) {
  constexpr size_t kTextSize = 17;
  std::array<uint8_t, kSize> bytes{};
  bool good = text.size() == kTextSize;
  for (size_t i = 0; good && i < kSize; ++i) {
    const char* digits = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(digits, digits + 2, bytes[i], 16);
    const bool separated = i == kSize - 1 || digits[2] == ':' || digits[2] == '-';
    good = error == std::errc{} && end == digits + 2 && separated;
  }
  if (good) return MacAddress(bytes);
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("'{}' is no MAC address: write it as 52:54:00:12:34:56", text));
}

std::string MacAddress::to_text() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes_[0], bytes_[1], bytes_[2],
                     bytes_[3], bytes_[4], bytes_[5]);
}

}  // namespace pollux::net
