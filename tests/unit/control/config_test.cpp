// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/config.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pollux::control {
namespace {

/// The error of a configuration text, which must have one.
std::string error_of(std::string_view text) {
  SwitchConfig config;
  const Status read = parse_config(text, "s.toml", config);
  if (read) return "no error";
  EXPECT_EQ(read.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(read.error().what.find('\n'), std::string::npos) << "one line";
  return read.error().what;
}

TEST(Config, ReadsEveryKey) {
  SwitchConfig config;
  const Status read = parse_config(R"(
cpus = "1,3-4"
idle = "poll"
control = "/run/x.sock"
control-mode = "0660"
state = "/run/x"

[pool]
packets = 4096
buffers = 2048
buffer-size = 1024
huge-pages = "never"

[fdb]
capacity = 1024
max-age = 60
seed = 7

[ports]
zebra = "null:"
ant = "ring:a,size=64"
)",
                                   "s.toml", config);
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_EQ(config.engine.cpus, (std::vector<int>{1, 3, 4}));
  EXPECT_EQ(config.engine.idle, IdlePolicy::kPoll);
  EXPECT_EQ(config.control_socket, "/run/x.sock");
  EXPECT_EQ(config.control_mode, 0660u);
  EXPECT_EQ(config.state_dir, "/run/x");
  EXPECT_EQ(config.pool.packets, 4096u);
  EXPECT_EQ(config.pool.buffers, 2048u);
  EXPECT_EQ(config.pool.buffer_size, 1024u);
  EXPECT_EQ(config.pool.pages, HugePages::kNever);
  EXPECT_EQ(config.engine.fdb.capacity, 1024u);
  EXPECT_EQ(config.engine.fdb.max_age_s, 60u);
  EXPECT_EQ(config.seed, 7u);
  ASSERT_EQ(config.ports.size(), 2u);
  EXPECT_EQ(config.ports[0].name, "zebra") << "in the order of the file";
  EXPECT_EQ(config.ports[1].name, "ant");
  EXPECT_EQ(config.ports[1].spec.to_string(), "ring:a,size=64");
}

TEST(Config, LeavesWhatTheFileDoesNotName) {
  SwitchConfig config;
  config.engine.idle = IdlePolicy::kYield;
  config.pool.packets = 99;
  ASSERT_TRUE(parse_config("[pool]\nbuffers = 5\n", "s.toml", config));
  EXPECT_EQ(config.engine.idle, IdlePolicy::kYield);
  EXPECT_EQ(config.pool.packets, 99u);
  EXPECT_EQ(config.pool.buffers, 5u);
  EXPECT_FALSE(config.seed);
  EXPECT_TRUE(parse_config("", "s.toml", config)) << "an empty file says nothing";
}

TEST(Config, ErrorsNameFileLineKeyAndWhatToWrite) {
  EXPECT_EQ(error_of("\nidle = \"sleep\"\n"),
            "s.toml:2: idle: 'sleep' is not one of poll, yield, adaptive");
  EXPECT_EQ(error_of("[pool]\npackets = 0\n"),
            "s.toml:2: pool.packets: is to be a whole number from 1 to 16777216");
  EXPECT_EQ(error_of("[pool]\npackets = \"many\"\n"),
            "s.toml:2: pool.packets: is to be a whole number from 1 to 16777216");
  EXPECT_EQ(error_of("cpus = 3\n"), "s.toml:1: cpus: is to be a string, in quotes");
  EXPECT_EQ(error_of("pool = 3\n"), "s.toml:1: pool: is to be a table: write [pool]");
}

TEST(Config, UnknownKeysAreErrorsAndGuessedAt) {
  EXPECT_EQ(error_of("idel = \"adaptive\"\n"),
            "s.toml:1: idel: there is no such key, did you mean 'idle'?; there are: cpus, idle, "
            "control, control-mode, state, pool, fdb, ports");
  EXPECT_TRUE(error_of("[fdb]\nwings = 2\n").starts_with("s.toml:2: fdb.wings: there is no such"));
}

TEST(Config, WrongPortsNameTheirLine) {
  EXPECT_TRUE(error_of("[ports]\na = \"null:\"\nb = \"\"\n").starts_with("s.toml:3: ports.b: "));
  EXPECT_TRUE(error_of("[ports]\n\"a=b\" = \"null:\"\n").starts_with("s.toml:2: ports.a=b: "));
  EXPECT_TRUE(error_of("[ports]\n\"\" = \"null:\"\n").starts_with("s.toml:2: ports"));
  EXPECT_TRUE(error_of("[ports]\na = 5\n").starts_with("s.toml:2: ports.a: "));
}

TEST(Config, BrokenTomlNamesItsLine) {
  EXPECT_TRUE(error_of("idle = \"adaptive\"\ncpus = \n").starts_with("s.toml:2: "));
  EXPECT_TRUE(error_of("[ports]\na = \"null:\"\na = \"null:\"\n").starts_with("s.toml:3: "))
      << "a key given twice";
}

TEST(Config, AFailedFileChangesNothing) {
  SwitchConfig config;
  ASSERT_FALSE(parse_config("idle = \"poll\"\n[ports]\na = \"null:\"\nb = 5\n", "s.toml", config));
  EXPECT_EQ(config.engine.idle, IdlePolicy::kAdaptive);
  EXPECT_TRUE(config.ports.empty());
}

TEST(Config, FilesThatCanNotBeRead) {
  SwitchConfig config;
  const Status missing = load_config("/nonexistent/s.toml", config);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_NE(missing.error().what.find("/nonexistent/s.toml"), std::string::npos);
  ASSERT_FALSE(load_config("/", config)) << "a directory";
  ASSERT_FALSE(load_config("/dev/zero", config)) << "a file without end";
}

TEST(Config, LaterPortsReplaceEarlierOnesOfTheirName) {
  SwitchConfig config;
  set_port(config, *NamedPortSpec::parse("a=null:"));
  set_port(config, *NamedPortSpec::parse("b=null:"));
  set_port(config, *NamedPortSpec::parse("a=ring:x"));
  ASSERT_EQ(config.ports.size(), 2u);
  EXPECT_EQ(config.ports[0].spec.kind, "ring");
}

TEST(Cpus, ListsAndRanges) {
  EXPECT_EQ(*parse_cpus("0"), std::vector<int>{0});
  EXPECT_EQ(*parse_cpus("0,2-4,7"), (std::vector<int>{0, 2, 3, 4, 7}));
  EXPECT_EQ(*parse_cpus("5-5"), std::vector<int>{5});
  EXPECT_EQ(format_cpus({0, 2, 3, 4, 7}), "0,2-4,7");
  EXPECT_EQ(format_cpus({}), "");
}

TEST(Cpus, WhatIsNoList) {
  for (const char* text : {"", ",", "1,", "a", "1-", "-1", "3-1", "1--2", "1 2", "4096", "0x1",
                           "99999999999", "1,1", "0-3,2"}) {
    const auto cpus = parse_cpus(text);
    ASSERT_FALSE(cpus) << text;
    EXPECT_EQ(cpus.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(Mode, OctalWithTheOwnersBits) {
  EXPECT_EQ(*parse_mode("600"), 0600u);
  EXPECT_EQ(*parse_mode("0660"), 0660u);
  for (const char* text : {"", "0", "66", "0888", "1777", "rw-"})
    EXPECT_FALSE(parse_mode(text)) << text;
}

TEST(Words, IdleAndHugePages) {
  EXPECT_EQ(*parse_idle("yield"), IdlePolicy::kYield);
  EXPECT_EQ(idle_name(IdlePolicy::kYield), "yield");
  EXPECT_FALSE(parse_idle("Yield"));
  EXPECT_EQ(*parse_huge_pages("require"), HugePages::kRequire);
  EXPECT_FALSE(parse_huge_pages(""));
}

}  // namespace
}  // namespace pollux::control
