// SPDX-License-Identifier: Apache-2.0
// docs/vhost-user.md says of every message and protocol feature what the code does.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "pollux/ports/vhost_user/device.hpp"
#include "pollux/vhost/backend_session.hpp"
#include "pollux/vhost/request_table.hpp"

namespace pollux::vhost_user {
namespace {

using Row = std::vector<std::string>;

std::string source(const std::string& path) {
  std::ifstream file(std::string(std::getenv("POLLUX_SOURCE_DIR")) + "/" + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// All files of a folder whose names begin with `stem`, as one text.
std::string sources(const std::string& folder, const std::string& stem) {
  std::string all;
  const std::string root = std::getenv("POLLUX_SOURCE_DIR");
  for (const auto& entry : std::filesystem::directory_iterator(root + "/" + folder)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(stem)) all += source(folder + "/" + name);
  }
  return all;
}

/// The rows of the table under a heading, by their first cell.
std::map<std::string, Row> table(const std::string& heading) {
  std::istringstream text(source("docs/vhost-user.md"));
  std::map<std::string, Row> rows;
  std::string line;
  while (std::getline(text, line) && line != "## " + heading) {
  }
  while (std::getline(text, line) && !line.starts_with("## ")) {
    if (!line.starts_with("| ")) continue;
    Row cells;
    std::istringstream in(line.substr(2));
    for (std::string cell; std::getline(in, cell, '|');) {
      const size_t begin = cell.find_first_not_of(' ');
      const size_t end = cell.find_last_not_of(' ');
      cells.push_back(begin == std::string::npos ? "" : cell.substr(begin, end - begin + 1));
    }
    rows[cells.at(0)] = cells;
  }
  rows.erase("---");
  rows.erase("request");
  rows.erase("feature");
  return rows;
}

bool mentions(const std::string& text, const std::string& word) {
  for (size_t at = 0; (at = text.find(word, at)) != std::string::npos; at += word.size()) {
    const char next = at + word.size() < text.size() ? text[at + word.size()] : ' ';
    if (!std::isalnum(static_cast<unsigned char>(next)) && next != '_') return true;
  }
  return false;
}

struct NoWorkers final : Quiescence {
  bool synchronize(Nanos) noexcept override { return true; }
};

class VhostUserDocs : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("POLLUX_SOURCE_DIR") == nullptr) GTEST_SKIP() << "POLLUX_SOURCE_DIR is not set";
  }
};

TEST_F(VhostUserDocs, RequestsOfTheFrontEnd) {
  auto rows = table("Requests of the front end");
  const std::string front_end = sources("src/pollux/vhost", "frontend");
  for (const vhost::RequestRule& rule : vhost::request_rules()) {
    const std::string name(rule.name);
    ASSERT_TRUE(rows.contains(name)) << "docs/vhost-user.md has no row for " << name;
    const Row row = rows.extract(name).mapped();
    ASSERT_EQ(row.size(), 6U) << name;
    EXPECT_EQ(row[1], std::to_string(rule.request)) << name;
    const bool served = vhost::BackendSession::serves(rule.request);
    EXPECT_EQ(row[2] == "yes", served) << name << ": back end";
    if (!served && !rule.why_not.empty()) {
      EXPECT_EQ(row[2], rule.why_not) << name;
    }
    EXPECT_EQ(row[3].starts_with("`"), mentions(front_end, "VHOST_USER_" + name))
        << name << ": front end";
    if (served) {
      EXPECT_FALSE(row[4].empty() || row[5].empty()) << name;
    }
  }
  EXPECT_TRUE(rows.empty()) << rows.begin()->first << " is not in the request table";
}

TEST_F(VhostUserDocs, RequestsOfTheBackEnd) {
  auto rows = table("Requests of the back end");
  const std::string back_end = sources("src/pollux/vhost", "session_");
  const std::string front_end = source("src/pollux/vhost/frontend_channel.cpp");
  for (const vhost::BackendRequestRule& rule : vhost::backend_request_rules()) {
    const std::string name(rule.name);
    ASSERT_TRUE(rows.contains(name)) << "docs/vhost-user.md has no row for " << name;
    const Row row = rows.extract(name).mapped();
    ASSERT_EQ(row.size(), 6U) << name;
    EXPECT_EQ(row[1], std::to_string(rule.request)) << name;
    EXPECT_EQ(row[2].starts_with("yes"), mentions(back_end, "VHOST_USER_" + name)) << name;
    EXPECT_EQ(row[3].starts_with("`"), mentions(front_end, "VHOST_USER_" + name) || rule.has_reply)
        << name;
  }
  EXPECT_TRUE(rows.empty()) << rows.begin()->first << " is not in the request table";
}

TEST_F(VhostUserDocs, ProtocolFeatures) {
  NoWorkers workers;
  const NetDevice device({}, workers, Log());
  const uint64_t library = vhost::BackendSession::kProtocolFeatures;
  const uint64_t net = device.offer().protocol_features;
  auto rows = table("Protocol features");
  for (unsigned n = 0; n < 64; ++n) {
    const std::string name = vhost::protocol_feature_names(spec::bit(n)).front();
    if (name.starts_with("bit ")) continue;
    ASSERT_TRUE(rows.contains(name)) << "docs/vhost-user.md has no row for " << name;
    const Row row = rows.extract(name).mapped();
    ASSERT_EQ(row.size(), 5U) << name;
    EXPECT_EQ(row[1], std::to_string(n)) << name;
    EXPECT_EQ(row[2], (library & spec::bit(n)) != 0 ? "yes" : "no") << name << ": library";
    EXPECT_EQ(row[3], (net & spec::bit(n)) != 0 ? "yes" : "no") << name << ": ports";
    if (row[2] == "no" || row[3] == "no") {
      EXPECT_FALSE(row[4].empty()) << name << ": why not";
    }
  }
  EXPECT_TRUE(rows.empty()) << rows.begin()->first << " is not a protocol feature";
}

}  // namespace
}  // namespace pollux::vhost_user
