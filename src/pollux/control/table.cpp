// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/table.hpp"

#include <algorithm>
#include <utility>

namespace pollux::control {
namespace {

constexpr size_t kGap = 2;

/// Characters, not bytes: the continuation bytes of UTF-8 take no room.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void end_line(std::string& out) {
  while (!out.empty() && out.back() == ' ') out.pop_back();
  out += '\n';
}

}  // namespace

Table& Table::row(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
  return *this;
}

Table& Table::rule() {
  rows_.emplace_back();
  return *this;
}

std::string Table::text(size_t indent) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(width_of(column.head));
  for (const auto& cells : rows_) {
    for (size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], width_of(cells[i]));
  }
  std::string out;
  const auto put = [&](size_t i, const std::string& cell) {
    out.append(i == 0 ? indent : kGap, ' ');
    const std::string fill(widths[i] - width_of(cell), ' ');
    out += columns_[i].align == kRight ? fill + cell : cell + fill;
  };
  for (size_t i = 0; i < columns_.size(); ++i) put(i, columns_[i].head);
  end_line(out);
  for (const auto& cells : rows_) {
    for (size_t i = 0; i < widths.size(); ++i) {
      put(i, cells.empty() ? std::string(widths[i], '-') : cells[i]);
    }
    end_line(out);
  }
  return out;
}

}  // namespace pollux::control
