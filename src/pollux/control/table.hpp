// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace pollux::control {

/// Text in columns that line up, for everything that Pollux prints for people:
///
///     Table table({{"port"}, {"packets", Table::kRight}});
///     table.row({"v0", count(1234567)});
///     fmt::print("{}", table.text());
///
/// A character counts as one column wide; lines end without spaces.
class Table {
 public:
  enum Align { kLeft, kRight };
  struct Column {
    std::string head;
    Align align = kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// Adds a line; missing cells are empty, surplus ones are left out.
  Table& row(std::vector<std::string> cells);

  /// Adds a line of dashes, e.g. before totals.
  Table& rule();

  [[nodiscard]] bool empty() const { return rows_.empty(); }

  /// The table with its head, each line after `indent` spaces and with a line feed at its end.
  [[nodiscard]] std::string text(size_t indent = 0) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // a rule is a row without cells
};

}  // namespace pollux::control
