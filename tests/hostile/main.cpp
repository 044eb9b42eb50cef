// SPDX-License-Identifier: Apache-2.0
// The hostile cases, as a test program like any other, or as a table: who sends what, what must
// come of it, and whether it did. `./run hostile` is the way to call it.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace {

constexpr const char* kHelp = R"(usage: hostile [--table | --list | --json] [NAME..]
Plays bad inputs and judges what comes of them; only the cases whose names hold one of the NAMEs.
  --table  a line a case (without any of these: GoogleTest's own output and options)
  --list   only says what there is
  --json   the table as JSON
Exit status 0 only if all that ran held.
)";

/// Where a suite belongs, and what holds for all of its cases.
struct Suite {
  std::string_view name;  // a part of the suite's name
  const char* area;
  const char* sender;
  const char* always;
};
constexpr std::array kSuites{
    Suite{"VhostMessages", "messages", "front end", "no leak; its rings undisturbed"},
    Suite{"VhostSession", "messages", "front end", "no crash, no leak of a descriptor or mapping"},
    Suite{"LyingControl", "control", "guest", "the next command is carried out"},
    Suite{"Offloads/", "offloads", "guest", "its memory unwritten, the others served"},
    Suite{"RacingFrontEnd", "races", "front end", "both guests served on, all accounts hold"},
    Suite{"RacingReceiver", "races", "guest", "the others served, nothing returned twice"},
    Suite{"Racing", "races", "guest", "the others served, all accounts hold"},
    Suite{"Changing", "races", "back end", "what was checked is what is used"},
    Suite{"Frames", "frames", "guest", "the others served, all accounts hold"},
    Suite{"Addresses", "frames", "guest", "the table bounded, the others served"},
    Suite{"SendingLiar", "rings", "guest", "its memory unwritten, the others served"},
    Suite{"ReceivingLiar", "rings", "guest", "the others served, all accounts hold"},
    Suite{"NetDevice", "rings", "back end", "every buffer back in the pool"},
    Suite{"Device", "rings", "back end", "nothing freed twice, nothing lost"},
    Suite{"", "other", "peer", "no crash, no hang, no leak"},
};

struct Row {
  std::string name;
  const Suite* suite;
  std::string sent;
  std::string must;
  const char* result = "listed";
};

const Suite& suite_of(const testing::TestInfo& test) {
  const std::string_view name = test.test_suite_name();
  return *std::find_if(kSuites.begin(), kSuites.end(), [&](const Suite& suite) {
    return name.find(suite.name) != std::string_view::npos;
  });
}

std::string full_name(const testing::TestInfo& test) {
  return std::string(test.test_suite_name()) + "." + test.name();
}

/// "TheSameOnTwoPorts" and "the_same_on_two_ports" as words.
std::string words(std::string_view name) {
  std::string text;
  for (const char c : name) {
    const bool upper = c >= 'A' && c <= 'Z';
    if (upper && !text.empty() && text.back() >= 'a' && text.back() <= 'z') text += ' ';
    text += c == '_' ? ' ' : c;
  }
  return text;
}

Row row_of(const testing::TestInfo& test) {
  Row row{full_name(test), &suite_of(test), "", ""};
  const std::string_view name = test.name();
  const size_t slash = name.find('/');
  if (slash == std::string_view::npos) {
    row.sent = words(name);
    row.must = row.suite->always;
    return row;
  }
  row.sent = words(name.substr(slash + 1)) + " (" + words(name.substr(0, slash)) + ")";
  row.must = std::string(test.value_param() != nullptr ? test.value_param() : "");
  row.must += (row.must.empty() ? "" : "; ") + std::string(row.suite->always);
  return row;
}

void print(const Row& row) {
  std::printf("%-8s  %-9s  %s\n%-8s  %9s  must: %s\n", row.result, row.suite->area,
              (std::string(row.suite->sender) + ": " + row.sent).c_str(), "", "", row.must.c_str());
}

/// Collects a row for each case that ran; prints it when asked to.
class Table final : public testing::EmptyTestEventListener {
 public:
  explicit Table(bool prints) : prints_(prints) {}
  [[nodiscard]] const std::vector<Row>& rows() const { return rows_; }

 private:
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (part.failed()) {
      (void)std::fprintf(stderr, "%s:%d: %s\n", part.file_name(), part.line_number(),
                         part.message());
    }
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    Row row = row_of(test);
    row.result = test.result()->Skipped() ? "skipped" : test.result()->Passed() ? "ok" : "FAILED";
    if (prints_) print(row);
    rows_.push_back(std::move(row));
  }

  bool prints_;
  std::vector<Row> rows_;
};

std::vector<Row> all_rows(const std::vector<std::string>& names) {
  std::vector<Row> rows;
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int s = 0; s < all.total_test_suite_count(); ++s) {
    const testing::TestSuite& suite = *all.GetTestSuite(s);
    for (int t = 0; t < suite.total_test_count(); ++t) {
      Row row = row_of(*suite.GetTestInfo(t));
      const bool wanted = names.empty() || std::any_of(names.begin(), names.end(), [&](auto& n) {
                            return row.name.find(n) != std::string::npos;
                          });
      if (wanted) rows.push_back(std::move(row));
    }
  }
  return rows;
}

void print_json(const std::vector<Row>& rows) {
  nlohmann::json all = nlohmann::json::array();
  for (const Row& row : rows) {
    all.push_back({{"case", row.name},
                   {"area", row.suite->area},
                   {"sender", row.suite->sender},
                   {"sent", row.sent},
                   {"must", row.must},
                   {"result", row.result}});
  }
  std::printf("%s\n", all.dump(2).c_str());
}

int play(bool json, const std::vector<std::string>& names) {
  std::string filter;
  for (const std::string& name : names) filter += (filter.empty() ? "*" : ":*") + name + "*";
  if (!filter.empty()) testing::GTEST_FLAG(filter) = filter;
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  auto* const table = new Table(!json);  // the listeners own it
  listeners.Append(table);
  const int status = RUN_ALL_TESTS();
  const std::vector<Row>& rows = table->rows();
  if (json) print_json(rows);
  const auto bad = std::count_if(rows.begin(), rows.end(), [](const Row& row) {
    return std::string_view(row.result) == "FAILED";
  });
  if (!json) std::printf("%zu cases, %td FAILED\n", rows.size(), bad);
  if (rows.empty()) {
    (void)std::fprintf(stderr, "hostile: no case has such a name; --list says what there is\n");
    return 2;
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  bool table = false;
  bool list = false;
  bool json = false;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--table") {
      table = true;
    } else if (arg == "--list") {
      list = true;
    } else if (arg == "--json") {
      json = true;
    } else if (arg.starts_with("-")) {
      (void)std::fprintf(arg == "--help" ? stdout : stderr, "%s", kHelp);
      return arg == "--help" ? 0 : 2;
    } else {
      names.push_back(arg);
    }
  }
  if (list) {
    const std::vector<Row> rows = all_rows(names);
    if (json) {
      print_json(rows);
    } else {
      for (const Row& row : rows) print(row);
      std::printf("%zu cases\n", rows.size());
    }
    return 0;
  }
  if (table || json || !names.empty()) return play(json, names);
  return RUN_ALL_TESTS();
}
