// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "pollux/base/clock.hpp"

/// Numbers for people, each with its unit.
namespace pollux::control {

/// "1,234,567"
[[nodiscard]] std::string count(uint64_t n);

/// Packets a second: "12.35 Mpps", "950 pps".
[[nodiscard]] std::string packet_rate(double packets_per_second);

/// Bits a second, by powers of 1000: "9.87 Gbit/s".
[[nodiscard]] std::string bit_rate(double bits_per_second);

/// Bytes, by powers of 1024: "18.0 MiB", "512 B".
[[nodiscard]] std::string byte_size(uint64_t bytes);

/// "850 ns", "12.3 µs", "4.56 ms", "7.89 s", "1 h 02 min".
[[nodiscard]] std::string duration(Nanos t);

/// "12.5 %"; "-" when there is no whole.
[[nodiscard]] std::string percent(double part, double whole);

}  // namespace pollux::control
