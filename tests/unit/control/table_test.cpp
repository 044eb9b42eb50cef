// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/table.hpp"

#include <gtest/gtest.h>

#include "pollux/control/units.hpp"

namespace pollux::control {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(Table, ColumnsLineUp) {
  Table table({{"port"}, {"packets", Table::kRight}, {"peer"}});
  table.row({"v0", "1,234,567", "qemu"}).row({"a-long-name", "5", ""}).rule().row({"all"});
  EXPECT_EQ(table.text(),
            "port           packets  peer\n"
            "v0           1,234,567  qemu\n"
            "a-long-name          5\n"
            "-----------  ---------  ----\n"
            "all\n");
}

TEST(Table, IndentsAndCountsCharactersNotBytes) {
  Table table({{"p99", Table::kRight}, {"x"}});
  table.row({"1.5 µs", "|"}).row({"20 µs", "|"});
  EXPECT_EQ(table.text(2),
            "     p99  x\n"
            "  1.5 µs  |\n"
            "   20 µs  |\n");
}

TEST(Table, IgnoresSurplusCells) {
  Table table({{"a"}});
  EXPECT_TRUE(table.empty());
  table.row({"1", "2"});
  EXPECT_FALSE(table.empty());
  EXPECT_EQ(table.text(), "a\n1\n");
}

TEST(Units, Counts) {
  EXPECT_EQ(count(0), "0");
  EXPECT_EQ(count(999), "999");
  EXPECT_EQ(count(1000), "1,000");
  EXPECT_EQ(count(18446744073709551615u), "18,446,744,073,709,551,615");
}

TEST(Units, Rates) {
  EXPECT_EQ(packet_rate(0), "0 pps");
  EXPECT_EQ(packet_rate(950.4), "950 pps");
  EXPECT_EQ(packet_rate(14'880'952), "14.88 Mpps");
  EXPECT_EQ(bit_rate(9.87e9), "9.87 Gbit/s");
  EXPECT_EQ(bit_rate(999'999), "1.00 Mbit/s") << "never 1000.00 kbit/s";
  EXPECT_EQ(bit_rate(1.5e13), "15000.00 Gbit/s");
}

TEST(Units, Sizes) {
  EXPECT_EQ(byte_size(0), "0 B");
  EXPECT_EQ(byte_size(1023), "1023 B");
  EXPECT_EQ(byte_size(1536), "1.5 KiB");
  EXPECT_EQ(byte_size(uint64_t{18} << 20), "18.0 MiB");
}

TEST(Units, Times) {
  EXPECT_EQ(duration(Nanos(850)), "850 ns");
  EXPECT_EQ(duration(Nanos(1234)), "1.23 µs");
  EXPECT_EQ(duration(Nanos(12'345'678)), "12.3 ms");
  EXPECT_EQ(duration(Nanos(2'500'000'000)), "2.50 s");
  EXPECT_EQ(duration(minutes(2) + seconds(5)), "2 min 05 s");
  EXPECT_EQ(duration(hours(25) + minutes(3)), "25 h 03 min");
}

TEST(Units, Percentages) {
  EXPECT_EQ(percent(1, 8), "12.5 %");
  EXPECT_EQ(percent(0, 0), "-");
}

}  // namespace
}  // namespace pollux::control
