// SPDX-License-Identifier: Apache-2.0
// What the documentation says twice is the same both times.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "pollux/base/drop_reason.hpp"

namespace pollux {
namespace {

std::string read(const std::string& path) {
  const char* source = std::getenv("POLLUX_SOURCE_DIR");
  if (source == nullptr) return {};
  std::ifstream file(std::string(source) + "/" + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class Docs : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("POLLUX_SOURCE_DIR") == nullptr) GTEST_SKIP() << "POLLUX_SOURCE_DIR is not set";
  }
};

TEST_F(Docs, EveryDropReasonIsExplained) {
  std::string rows;
  for (const DropReasonInfo& reason : kDropReasons) {
    rows += "| `" + std::string(reason.name) + "` | " + std::string(reason.help) + " |\n";
  }
  EXPECT_NE(read("docs/drops.md").find("| --- | --- |\n" + rows + "\n"), std::string::npos)
      << "the table in docs/drops.md is to be:\n"
      << rows;
}

TEST_F(Docs, TheReadmesProgramIsTheExample) {
  const std::string example = read("examples/two_ports/main.cpp");
  const std::string program = example.substr(example.find("int main()"));
  EXPECT_NE(read("README.md").find("```cpp\n" + program + "```"), std::string::npos)
      << "the program in README.md is to be that of examples/two_ports/main.cpp:\n"
      << program;
}

}  // namespace
}  // namespace pollux
