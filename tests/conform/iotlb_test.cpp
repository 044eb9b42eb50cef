// SPDX-License-Identifier: Apache-2.0
// IOTLB messages byte for byte, worked out by hand from the vhost-user text: "An IOTLB message"
// (iova, size, user address: 64 bits each; permissions and type: 8 bits each, padded to 32 bytes).
#include "tests/support/iommu_session.hpp"

namespace pollux::test {
namespace {

struct IotlbBytes : IommuSession {
  std::string say_bytes(std::string_view bytes) {
    EXPECT_TRUE(send_raw(main.get(), hex(bytes)));
    connection->poll();
    return to_hex(receive_raw(main.get()).bytes);
  }
};

// request 21 (SET_BACKEND_REQ_FD), version 1 and need_reply, no payload, one descriptor.
TEST_F(IotlbBytes, SetBackendReqFd) {
  negotiate();
  auto [near, far] = make_pair();
  ASSERT_TRUE(send_raw(main.get(), hex("15 00 00 00  09 00 00 00  00 00 00 00"), {near.get()}));
  connection->poll();
  EXPECT_EQ(to_hex(receive_raw(main.get()).bytes),
            "15 00 00 00 05 00 00 00 08 00 00 00 00 00 00 00 00 00 00 00");
}

// A miss is request 1 of the back end's own: need_reply, 32 bytes, type 1, access 1 (read) or 3.
// The ring: 64 entries at 0x40000000, used ring at 0x40000800.
TEST_F(IotlbBytes, MissUpdateInvalidate) {
  bring_up();
  EXPECT_EQ(to_hex(receive_raw(back.get()).bytes),
            "01 00 00 00 09 00 00 00 20 00 00 00 "  // header
            "00 00 00 40 00 00 00 00 00 00 00 00 00 00 00 00 "
            "00 00 00 00 00 00 00 00 01 01 00 00 00 00 00 00 "
            "01 00 00 00 09 00 00 00 20 00 00 00 "
            "00 08 00 40 00 00 00 00 00 00 00 00 00 00 00 00 "
            "00 00 00 00 00 00 00 00 03 01 00 00 00 00 00 00");
  // Request 22 with type 2: 0x1000 bytes at 0x40000000 are at 0x7f0000000000, to read and write.
  // Answered with a u64 of 0, need_reply or not.
  EXPECT_EQ(say_bytes("16 00 00 00  09 00 00 00  20 00 00 00"
                      "00 00 00 40 00 00 00 00  00 10 00 00 00 00 00 00"
                      "00 00 00 00 00 7f 00 00  03 02 00 00 00 00 00 00"),
            "16 00 00 00 05 00 00 00 08 00 00 00 00 00 00 00 00 00 00 00");
  EXPECT_TRUE(runs(0)) << why(0);
  // Type 3: taken back.
  EXPECT_EQ(say_bytes("16 00 00 00  01 00 00 00  20 00 00 00"
                      "00 00 00 40 00 00 00 00  00 10 00 00 00 00 00 00"
                      "00 00 00 00 00 00 00 00  00 03 00 00 00 00 00 00"),
            "16 00 00 00 05 00 00 00 08 00 00 00 00 00 00 00 00 00 00 00");
  EXPECT_FALSE(runs(0));
  // An update of memory that is not shared: non-zero.
  EXPECT_EQ(say_bytes("16 00 00 00  09 00 00 00  20 00 00 00"
                      "00 00 00 40 00 00 00 00  00 10 00 00 00 00 00 00"
                      "00 00 00 00 00 11 00 00  03 02 00 00 00 00 00 00"),
            "16 00 00 00 05 00 00 00 08 00 00 00 01 00 00 00 00 00 00 00");
}

// Request 2 of the back end's own, without payload.
TEST_F(IotlbBytes, ConfigChange) {
  negotiate(kIommuProtocol | VHOST_USER_PROTOCOL_F_CONFIG);
  give_channel();
  ASSERT_TRUE(connection->config_changed());
  EXPECT_EQ(to_hex(receive_raw(back.get()).bytes), "02 00 00 00 01 00 00 00 00 00 00 00");
}

}  // namespace
}  // namespace pollux::test
