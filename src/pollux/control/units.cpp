// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/units.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <string_view>

namespace pollux::control {
namespace {

/// Three or four digits: 1.23, 12.3, 123.
std::string digits(double value) {
  if (value >= 99.95) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}", value, value >= 9.995 ? 1 : 2);
}

/// Four digits even for large values: rates are compared.
std::string rate(double value, std::string_view unit) {
  static constexpr std::array<std::string_view, 4> kPrefixes{"", "k", "M", "G"};
  size_t prefix = 0;
  while (value >= 999.995 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  if (prefix == 0) return fmt::format("{:.0f} {}", value, unit);
  return fmt::format("{:.2f} {}{}", value, kPrefixes[prefix], unit);
}

}  // namespace

std::string count(uint64_t n) {
  const std::string plain = fmt::format("{}", n);
  std::string out;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (i != 0 && (plain.size() - i) % 3 == 0) out += ',';
    out += plain[i];
  }
  return out;
}

std::string packet_rate(double packets_per_second) { return rate(packets_per_second, "pps"); }

std::string bit_rate(double bits_per_second) { return rate(bits_per_second, "bit/s"); }

std::string byte_size(uint64_t bytes) {
  static constexpr std::array<std::string_view, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string duration(Nanos t) {
  const auto ns = static_cast<double>(t.count());
  if (ns < 999.5) return fmt::format("{:.0f} ns", ns);
  if (ns < 999.5e3) return digits(ns / 1e3) + " µs";
  if (ns < 999.5e6) return digits(ns / 1e6) + " ms";
  const auto s = std::chrono::duration_cast<std::chrono::seconds>(t).count();
  if (s < 60) return digits(ns / 1e9) + " s";
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

std::string percent(double part, double whole) {
  if (whole <= 0) return "-";
  return fmt::format("{:.1f} %", 100 * part / whole);
}

}  // namespace pollux::control
