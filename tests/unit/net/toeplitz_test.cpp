// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/toeplitz.hpp"

#include <gtest/gtest.h>

#include "tests/support/packets.hpp"

namespace pollux::net {
namespace {

using test::Bytes;
using test::from_hex;
using test::operator+;

/// The key and the sums that Microsoft publishes for checking implementations of RSS.
const Bytes kKey =
    from_hex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa");

uint32_t hash(const Bytes& key, const Bytes& input) {
  return Toeplitz(std::as_bytes(std::span(key))).hash(std::as_bytes(std::span(input)));
}

TEST(Toeplitz, PublishedSumsOfIpv4) {
  const Bytes first = from_hex("420995bb a18e6450");  // 66.9.149.187 to 161.142.100.80
  EXPECT_EQ(hash(kKey, first), 0x323e8fc2u);
  EXPECT_EQ(hash(kKey, first + from_hex("0aea 06e6")), 0x51ccc178u);  // ports 2794 and 1766
  const Bytes second = from_hex("c75c6f02 41458c53");  // 199.92.111.2 to 65.69.140.83
  EXPECT_EQ(hash(kKey, second), 0xd718262au);
  EXPECT_EQ(hash(kKey, second + from_hex("3796 1283")), 0xc626b0eau);  // ports 14230 and 4739
}

TEST(Toeplitz, PublishedSumsOfIpv6) {
  const Bytes input = from_hex("3ffe250102001fff0000000000000007 3ffe2501020000030000000000000001");
  EXPECT_EQ(hash(kKey, input), 0x2cc18cd5u);
  EXPECT_EQ(hash(kKey, input + from_hex("0aea 06e6")), 0x40207d3du);
}

TEST(Toeplitz, KeysAndInputsOfAnyLength) {
  EXPECT_EQ(hash({}, Bytes(36, 0xff)), 0u) << "no key is a key of zeros";
  EXPECT_EQ(hash(kKey, {}), 0u);
  // One bit set at the very end meets the last 32 bits of the key, shifted by nothing:
  // input bit 287 takes key bits 287 to 318.
  Bytes last(36);
  last[35] = 1;
  EXPECT_EQ(hash(kKey, last), (0x3bbeac01'faULL >> 1 & 0xffffffff));
  // What is beyond is not looked at.
  EXPECT_EQ(hash(kKey + Bytes(20, 0xff), last + Bytes(20, 0xff)), hash(kKey, last));
  // A short key goes on with zeros.
  EXPECT_EQ(hash({0x80}, {0x80}), 0x80000000u);
  EXPECT_EQ(hash({0x80}, {0x40}), 0u);
}

}  // namespace
}  // namespace pollux::net
