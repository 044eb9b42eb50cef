// SPDX-License-Identifier: Apache-2.0
#include "pollux/port/spec.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pollux {
namespace {

using testing::HasSubstr;

PortSpec parsed(std::string_view text) {
  auto spec = PortSpec::parse(text);
  EXPECT_TRUE(spec) << text;
  return spec ? *spec : PortSpec{};
}

std::string refusal(std::string_view text) {
  auto spec = PortSpec::parse(text);
  EXPECT_FALSE(spec) << text;
  return spec ? "" : spec.error().what;
}

TEST(PortSpec, KindTargetAndOptions) {
  const PortSpec spec = parsed("vhost-user:/run/v0.sock,queues=2,queue-size=1024");
  EXPECT_EQ(spec.kind, "vhost-user");
  EXPECT_EQ(spec.target, "/run/v0.sock");
  ASSERT_EQ(spec.options.size(), 2u);
  EXPECT_EQ(*spec.find("queues"), "2");
  EXPECT_EQ(*spec.find("queue-size"), "1024");
  EXPECT_EQ(spec.find("queue"), nullptr);
}

TEST(PortSpec, TargetMayBeEmptyMissingOrHoldColonsAndEquals) {
  EXPECT_EQ(parsed("null").kind, "null");
  EXPECT_EQ(parsed("null:").target, "");
  EXPECT_EQ(*parsed("pcap:,tx=out.pcap").find("tx"), "out.pcap");
  EXPECT_EQ(parsed("pcap:a:b=c.pcap").target, "a:b=c.pcap");
  EXPECT_EQ(*parsed("pcap:,tx=a=b").find("tx"), "a=b");
  EXPECT_EQ(*parsed("pcap:,tx=").find("tx"), "");
}

TEST(PortSpec, EscapesCommasAndBackslashes) {
  const PortSpec spec = parsed(R"(pcap:a\,b\\c.pcap,tx=x\,y)");
  EXPECT_EQ(spec.target, R"(a,b\c.pcap)");
  EXPECT_EQ(*spec.find("tx"), "x,y");
  EXPECT_EQ(spec.to_string(), R"(pcap:a\,b\\c.pcap,tx=x\,y)");
  EXPECT_THAT(refusal(R"(pcap:a\b)"), HasSubstr("backslash"));
  EXPECT_THAT(refusal(R"(pcap:a\)"), HasSubstr("backslash"));
}

TEST(PortSpec, RefusesWhatItCanNotRead) {
  EXPECT_THAT(refusal(""), HasSubstr("KIND[:TARGET]"));
  EXPECT_THAT(refusal(":x"), HasSubstr("KIND[:TARGET]"));
  EXPECT_THAT(refusal("Tap:x"), HasSubstr("KIND[:TARGET]"));
  EXPECT_THAT(refusal("pcap:x,loop"), HasSubstr("'loop' is not an option"));
  EXPECT_THAT(refusal("pcap:x,,loop=on"), HasSubstr("'' is not an option"));
  EXPECT_THAT(refusal("pcap:x,=on"), HasSubstr("not an option"));
  EXPECT_THAT(refusal("pcap:x,loop=on,loop=off"), HasSubstr("twice"));
}

TEST(NamedPortSpec, NameIsOptional) {
  auto named = NamedPortSpec::parse("vm-1=vhost-user:/run/v0.sock,queues=2");
  ASSERT_TRUE(named);
  EXPECT_EQ(named->name, "vm-1");
  EXPECT_EQ(named->spec.target, "/run/v0.sock");
  named = NamedPortSpec::parse("pcap:,tx=out.pcap");
  ASSERT_TRUE(named);
  EXPECT_EQ(named->name, "");
  EXPECT_EQ(named->spec.kind, "pcap");
  EXPECT_FALSE(NamedPortSpec::parse("=null:"));
  EXPECT_FALSE(NamedPortSpec::parse("a b=null:"));
  EXPECT_FALSE(NamedPortSpec::parse(std::string(64, 'a') + "=null:"));
}

TEST(ParseNumber, SuffixesAndLimits) {
  EXPECT_EQ(parse_number("0"), 0u);
  EXPECT_EQ(parse_number("2k"), 2048u);
  EXPECT_EQ(parse_number("3M"), 3u << 20);
  EXPECT_EQ(parse_number("1g"), 1u << 30);
  EXPECT_EQ(parse_number("0x40"), 64u);
  EXPECT_EQ(parse_number("18446744073709551615"), ~uint64_t{0});
  for (const char* wrong :
       {"", "k", "-1", "1.5", "1kk", "0x", " 1", "18446744073709551616", "18014398509481984k"}) {
    EXPECT_EQ(parse_number(wrong), std::nullopt) << wrong;
  }
}

TEST(SpecReader, ReadsTypedOptions) {
  const PortSpec spec =
      parsed("tap:tap0,queues=2,size=2k,offload=off,mode=b,mac=02:00:00:00:00:01");
  SpecReader read(spec);
  EXPECT_EQ(read.get_u32("queues", {.min = 1, .max = 16}, 1), 2u);
  EXPECT_EQ(read.get_u32("size", {.min = 2, .max = 32768, .power_of_two = true}, 256), 2048u);
  EXPECT_FALSE(read.get_bool("offload", true));
  EXPECT_TRUE(read.get_bool("up", true));
  EXPECT_EQ(read.get_choice("mode", {"a", "b"}, 0), 1u);
  EXPECT_EQ(read.get_mac("mac"), net::MacAddress({2, 0, 0, 0, 0, 1}));
  EXPECT_EQ(read.get_string("path", "/x"), "/x");
  EXPECT_FALSE(read.has("nothing"));
  EXPECT_TRUE(read.finish());
}

std::string complaint(const char* text, void (*ask)(SpecReader&)) {
  const PortSpec spec = parsed(text);
  SpecReader read(spec);
  ask(read);
  const Status done = read.finish();
  EXPECT_FALSE(done);
  return done ? "" : done.error().what;
}

TEST(SpecReader, NamesWhatIsWrong) {
  const auto queues = [](SpecReader& read) {
    (void)read.get_u32("queues", {.min = 1, .max = 16}, 1);
  };
  EXPECT_EQ(complaint("tap:t,queues=17", queues),
            "tap port: queues=17: wants a number from 1 to 16");
  EXPECT_EQ(complaint("tap:t,queues=two", queues),
            "tap port: queues=two: wants a number from 1 to 16");
  EXPECT_EQ(complaint("tap:t,size=3",
                      [](SpecReader& read) {
                        (void)read.get_u32("size", {.min = 2, .max = 8, .power_of_two = true}, 2);
                      }),
            "tap port: size=3: wants a power of two from 2 to 8");
  EXPECT_EQ(complaint("tap:t,up=maybe", [](SpecReader& read) { (void)read.get_bool("up", true); }),
            "tap port: up=maybe: wants on or off");
  EXPECT_THAT(complaint("tap:", [](SpecReader& read) { read.require_target("an interface"); }),
              HasSubstr("needs an interface"));
  EXPECT_THAT(complaint("null:x", [](SpecReader& read) { read.refuse_target(); }),
              HasSubstr("takes no target"));
}

TEST(SpecReader, NamesAnUnknownOptionAndTheKnownOnes) {
  EXPECT_EQ(complaint("tap:t,queue=2",
                      [](SpecReader& read) {
                        (void)read.get_u32("queues", {}, 1);
                        (void)read.get_bool("up", true);
                      }),
            "tap port: unknown option 'queue', did you mean 'queues'?; known: queues, up");
  EXPECT_EQ(complaint("null:,x=1", [](SpecReader&) {}),
            "null port: unknown option 'x'; it has no options");
}

TEST(NearestWord, OnlyWhenItIsNear) {
  const std::vector<std::string_view> words{"vhost-user", "virtio-user", "pcap", "tap"};
  EXPECT_EQ(nearest_word("vhostuser", words), "vhost-user");
  EXPECT_EQ(nearest_word("pcpa", words), "pcap");
  EXPECT_EQ(nearest_word("dpdk", words), "");
}

}  // namespace
}  // namespace pollux
