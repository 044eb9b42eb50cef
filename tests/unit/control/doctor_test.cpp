// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/doctor.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#include "pollux/control/default_socket.hpp"

namespace pollux::control {
namespace {

/// A made-up machine: files below a folder of its own.
class DoctorTest : public testing::Test {
 protected:
  DoctorTest() {
    char pattern[] = "/tmp/pollux-doctor-XXXXXX";
    config_.root = mkdtemp(pattern);
    config_.control_socket = config_.root + "/c.sock";
    config_.pool_bytes = uint64_t{40} << 20;
  }
  ~DoctorTest() override { std::filesystem::remove_all(config_.root); }

  void file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(config_.root + path).parent_path());
    std::ofstream(config_.root + path) << text;
  }
  void huge_pages(const std::string& free, const std::string& total) {
    const std::string folder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
    file(folder + "free_hugepages", free + "\n");
    file(folder + "nr_hugepages", total + "\n");
  }

  Finding find(const std::string& subject) {
    for (Finding& finding : findings_ = examine(config_)) {
      if (finding.subject == subject) return finding;
    }
    ADD_FAILURE() << "nothing was said about " << subject;
    return {};
  }

  DoctorConfig config_;
  std::vector<Finding> findings_;
};

TEST_F(DoctorTest, HugePages) {
  EXPECT_EQ(find("huge pages").level, Finding::Level::kWarning) << "a kernel without";
  huge_pages("20", "64");
  EXPECT_EQ(find("huge pages").level, Finding::Level::kOk);
  huge_pages("5", "64");
  const Finding few = find("huge pages");
  EXPECT_EQ(few.level, Finding::Level::kWarning);
  // 40 MiB are 20 pages; 59 are in use.
  EXPECT_NE(few.advice.find("vm.nr_hugepages=79"), std::string::npos) << few.advice;
}

TEST_F(DoctorTest, CapabilitiesAndDevices) {
  file("/proc/self/status", "Name:\tx\nCapEff:\t0000000000001000\n");
  EXPECT_EQ(find("CAP_NET_ADMIN").level, Finding::Level::kOk) << "bit 12";
  file("/proc/self/status", "Name:\tx\nCapEff:\t0000000000002000\n");
  EXPECT_EQ(find("CAP_NET_ADMIN").level, Finding::Level::kWarning);
  EXPECT_EQ(find("/dev/net/tun").level, Finding::Level::kWarning);
  file("/dev/net/tun", "");
  EXPECT_EQ(find("/dev/net/tun").level, Finding::Level::kOk);
}

TEST_F(DoctorTest, IsolatedCpusAndMemory) {
  file("/sys/devices/system/cpu/isolated", "2-3\n");
  EXPECT_NE(find("isolated CPUs").advice.find("--cpus 2-3"), std::string::npos);
  file("/sys/devices/system/cpu/isolated", "\n");
  EXPECT_EQ(find("isolated CPUs").found, "none");
  file("/proc/meminfo", "MemTotal: 100 kB\nMemAvailable:  20480 kB\n");
  EXPECT_EQ(find("memory").level, Finding::Level::kWarning);
  file("/proc/meminfo", "MemTotal: 100 kB\nMemAvailable:  2048000 kB\n");
  EXPECT_EQ(find("memory").level, Finding::Level::kOk);
}

TEST_F(DoctorTest, ControlSocket) {
  EXPECT_EQ(find("control socket").level, Finding::Level::kOk);
  config_.control_socket = "/tmp/" + std::string(200, 'x');
  EXPECT_EQ(find("control socket").level, Finding::Level::kWarning);
}

TEST_F(DoctorTest, ThisMachineRunsTests) { EXPECT_FALSE(has_problem(examine(config_))); }

TEST_F(DoctorTest, TableAndJsonSayTheSame) {
  const auto findings = examine(config_);
  const auto json = nlohmann::json::parse(findings_to_json(findings));
  EXPECT_EQ(json["ok"], true);
  ASSERT_EQ(json["findings"].size(), findings.size());
  const std::string table = findings_table(findings);
  for (const auto& row : json["findings"]) {
    EXPECT_NE(table.find(row["found"].get<std::string>()), std::string::npos);
  }
  const Finding broken{"x", Finding::Level::kProblem, "gone", "bring it back"};
  EXPECT_TRUE(has_problem({&broken, 1}));
  EXPECT_EQ(nlohmann::json::parse(findings_to_json({&broken, 1}))["ok"], false);
}

TEST(DefaultSocket, IsWhereTheUserMayWrite) {
  EXPECT_EQ(default_control_socket(0, "/run/user/0"), "/run/pollux/control.sock");
  EXPECT_EQ(default_control_socket(1000, "/run/user/1000"), "/run/user/1000/pollux/control.sock");
  EXPECT_EQ(default_control_socket(1000, ""), "/tmp/pollux-1000/control.sock");
  EXPECT_EQ(default_control_socket(1000, "relative"), "/tmp/pollux-1000/control.sock");
}

}  // namespace
}  // namespace pollux::control
