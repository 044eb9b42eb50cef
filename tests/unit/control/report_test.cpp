// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/report.hpp"

#include <gtest/gtest.h>

#include <string>

#include <nlohmann/json.hpp>

#include "tests/unit/control/sample.hpp"

namespace pollux::control {
namespace {

using nlohmann::json;

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(ReportJson, HasTheDocumentedShape) {
  const json all = json::parse(to_json(sample_snapshot()));
  EXPECT_EQ(all["version"], "1.2.3");
  EXPECT_EQ(all["pid"], 4711);
  EXPECT_EQ(all["uptime_s"], 2.5);
  EXPECT_EQ(all["pool"]["huge_pages"], true);
  EXPECT_EQ(all["fdb"]["entries"], 2);

  const json& v0 = all["ports"][0];
  EXPECT_EQ(v0["name"], "v0");
  EXPECT_EQ(v0["kind"], "vhost-user");
  EXPECT_EQ(v0["features"], "0x130008020");
  EXPECT_EQ(v0["mac"], "52:54:00:12:34:56");
  EXPECT_EQ(v0["rings"][0]["size"], 256);
  EXPECT_EQ(v0["rx"]["packets"], 1010) << "the queues added up";
  EXPECT_EQ(v0["rx"]["bytes"], 64640);
  EXPECT_EQ(v0["rx"]["dropped"], 0);
  EXPECT_EQ(v0["rx"]["drops"], json::object());
  EXPECT_EQ(v0["tx"]["dropped"], 3);
  EXPECT_EQ(v0["tx"]["drops"], json({{"receiver_ring_full", 3}}));
  EXPECT_EQ(v0["queues"][1]["name"], "rx1");
  EXPECT_EQ(v0["queues"][1]["worker"], 1);
  EXPECT_EQ(v0["queues"][2]["worker"], nullptr);

  EXPECT_EQ(all["ports"][1]["mac"], nullptr);
  EXPECT_EQ(all["workers"][0]["cpu"], 2);
  EXPECT_EQ(all["workers"][1]["cpu"], nullptr);
}

TEST(ReportJson, ComesBackAsItWent) {
  const std::string text = to_json(sample_snapshot());
  const auto back = snapshot_from_json(text);
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_EQ(to_json(*back), text);
  EXPECT_EQ(full_report(*back), full_report(sample_snapshot())) << "one table on both sides";
}

TEST(ReportJson, SurvivesNamesThatAreNoText) {
  SwitchSnapshot s = sample_snapshot();
  s.ports[0].info.peer = "pid 1 (\xff\xfe\"\n)";
  const auto back = snapshot_from_json(to_json(s));
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_TRUE(contains(back->ports[0].info.peer, "pid 1"));
}

TEST(ReportJson, AnswersOfSomethingElseAreErrors) {
  for (const char* text : {"", "hello", "[]", "5", "{\"ports\": 5}", "{\"pid\": \"x\"}",
                           "{\"ports\": [5]}", "{\"ports\": [{\"rings\": \"x\"}]}"}) {
    const auto read = snapshot_from_json(text);
    ASSERT_FALSE(read) << text;
    EXPECT_EQ(read.error().code, ErrorCode::kProtocol);
  }
  EXPECT_TRUE(snapshot_from_json("{}")) << "an older version: nothing but defaults";
}

TEST(ReportJson, Fdb) {
  const std::vector<FdbRow> rows{{"52:54:00:00:00:01", 0, "v0", 4}};
  const auto back = fdb_from_json(fdb_to_json(rows));
  ASSERT_TRUE(back);
  ASSERT_EQ(back->size(), 1u);
  EXPECT_EQ((*back)[0].mac, rows[0].mac);
  EXPECT_EQ((*back)[0].age_s, 4u);
}

TEST(ReportJson, DropReasonsAreThoseOfTheTable) {
  const json reasons = json::parse(drop_reasons_to_json())["drop_reasons"];
  ASSERT_EQ(reasons.size(), kDropReasonCount);
  EXPECT_EQ(reasons[0]["name"], "receiver_ring_full");
  EXPECT_EQ(reasons[0]["help"], std::string(kDropReasons[0].help));
}

TEST(ReportJson, Errors) {
  EXPECT_EQ(error_to_json("no \"port\""), R"({"error":"no \"port\""})");
  EXPECT_EQ(error_from_json(error_to_json("no \"port\"")), "no \"port\"");
  EXPECT_EQ(error_from_json("Bad Gateway"), "Bad Gateway");
}

TEST(ReportTables, PortsInOneLineEach) {
  EXPECT_EQ(ports_table(sample_snapshot().ports),
            "port  spec                     link  rx packets  rx bytes  rx drops  tx packets  tx "
            "bytes  tx drops  peer\n"
            "v0    vhost-user:/run/v0.sock  up         1,010    64,640         0           7       "
            "448         3  pid 99 (qemu)\n"
            "sink  null:                    up             0         0         0       1,007    "
            "64,448         0  -\n");
  EXPECT_EQ(ports_table({}), "no ports\n");
}

TEST(ReportTables, ABrokenPortSaysWhy) {
  SwitchSnapshot s = sample_snapshot();
  s.ports[0].info.broken = "head 70000 is beyond the ring";
  EXPECT_TRUE(contains(ports_table(s.ports), "broken: head 70000 is beyond the ring"));
  EXPECT_TRUE(contains(port_details(s.ports), "head 70000 is beyond the ring"));
}

TEST(ReportTables, DetailsNameWhatWasNegotiated) {
  const std::string text = port_details(sample_snapshot().ports);
  EXPECT_TRUE(contains(text, "0x130008020: MAC MRG_RXBUF INDIRECT_DESC VERSION_1"));
  EXPECT_TRUE(contains(text, "rx0 256 split, tx0 256 split (disabled)"));
  EXPECT_TRUE(contains(text, "1 region, 512 MiB"));
  EXPECT_TRUE(contains(text, "MQ REPLY_ACK"));
  EXPECT_TRUE(contains(text, "52:54:00:12:34:56"));
}

TEST(ReportTables, DropsHaveTheirSentence) {
  const std::string text = drops_table(sample_snapshot().ports);
  EXPECT_TRUE(contains(text, "v0"));
  EXPECT_TRUE(contains(text, "receiver_ring_full"));
  EXPECT_TRUE(contains(text, "the guest posts them more slowly"));
  EXPECT_EQ(drops_table({}), "no packet was dropped\n");
}

TEST(ReportTables, WorkersWithCyclesAPacket) {
  const std::string text = workers_table(sample_snapshot().workers);
  EXPECT_TRUE(contains(text, "10.1")) << "packets a turn";
  EXPECT_TRUE(contains(text, "100.0")) << "cycles a packet";
  EXPECT_TRUE(contains(text, "25.0 %")) << "busy";
}

TEST(ReportTables, RatesBetweenTwoLooks) {
  const SwitchSnapshot before = sample_snapshot();
  SwitchSnapshot now = sample_snapshot();
  now.uptime = before.uptime + Nanos(500'000'000);
  now.ports[0].queues[0].packets += 500'000;
  now.ports[0].queues[0].bytes += 500'000 * 60;
  const std::string text = rates_table(before, now);
  EXPECT_TRUE(contains(text, "1.00 Mpps"));
  // 60 bytes and 24 of preamble, FCS and gap make the shortest frame: 84 * 8 bits.
  EXPECT_TRUE(contains(text, "672.00 Mbit/s"));
}

TEST(ReportTables, RatesOfAReplacedPortDoNotGoBelowZero) {
  const SwitchSnapshot before = sample_snapshot();
  SwitchSnapshot now = sample_snapshot();
  now.uptime = before.uptime + Nanos(1'000'000'000);
  now.ports[0].queues[0].packets = 5;
  EXPECT_FALSE(contains(rates_table(before, now), "-"));
}

}  // namespace
}  // namespace pollux::control
