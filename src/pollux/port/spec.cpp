// SPDX-License-Identifier: Apache-2.0
#include "pollux/port/spec.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>

namespace pollux {
namespace {

constexpr size_t kMaxNameLength = 63;

bool is_word_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

bool is_name_char(char c) { return is_word_char(c) || (c >= 'A' && c <= 'Z') || c == '.'; }

template <typename Predicate>
bool all_of(std::string_view text, Predicate predicate) {
  return !text.empty() && std::ranges::all_of(text, predicate);
}

/// Splits at commas that no backslash precedes, and takes the backslashes away.
Result<std::vector<std::string>> split_fields(std::string_view text) {
  std::vector<std::string> fields(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ',') {
      fields.emplace_back();
    } else if (text[i] != '\\') {
      fields.back() += text[i];
    } else if (++i < text.size() && (text[i] == ',' || text[i] == '\\')) {
      fields.back() += text[i];
    } else {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("port '{}': a backslash must be followed by ',' or '\\'", text));
    }
  }
  return fields;
}

Result<PortSpec::Option> parse_option(std::string_view text, const std::string& field) {
  const size_t equals = field.find('=');
  if (equals == std::string::npos || !all_of(field.substr(0, equals), is_word_char)) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("port '{}': '{}' is not an option: write key=value", text, field));
  }
  return PortSpec::Option{field.substr(0, equals), field.substr(equals + 1)};
}

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ',' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

Result<PortSpec> PortSpec::parse(std::string_view text) {
  auto fields = split_fields(text);
  if (!fields) return forward(fields);
  PortSpec spec;
  const std::string& first = fields->front();
  const size_t colon = first.find(':');
  spec.kind = first.substr(0, colon);
  if (colon != std::string::npos) spec.target = first.substr(colon + 1);
  if (!all_of(spec.kind, is_word_char)) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("port '{}': write KIND[:TARGET][,key=value...], e.g. "
                            "vhost-user:/run/v0.sock,queues=2",
                            text));
  }
  for (size_t i = 1; i < fields->size(); ++i) {
    auto option = parse_option(text, (*fields)[i]);
    if (!option) return forward(option);
    if (spec.find(option->key) != nullptr) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("port '{}': option '{}' is given twice", text, option->key));
    }
    spec.options.push_back(std::move(*option));
  }
  return spec;
}

const std::string* PortSpec::find(std::string_view key) const {
  for (const Option& option : options) {
    if (option.key == key) return &option.value;
  }
  return nullptr;
}

std::string PortSpec::to_string() const {
  std::string out = kind + ":" + escape(target);
  for (const Option& option : options) out += "," + option.key + "=" + escape(option.value);
  return out;
}

Result<NamedPortSpec> NamedPortSpec::parse(std::string_view text) {
  NamedPortSpec named;
  const size_t equals = text.find('=');
  // A '=' behind a ':' or ',' belongs to the spec's own target or options.
  if (equals != std::string_view::npos && equals < text.find_first_of(":,")) {
    named.name = text.substr(0, equals);
    if (!all_of(named.name, is_name_char) || named.name.size() > kMaxNameLength) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("port name '{}': use 1 to {} letters, digits, '-', '_' or '.'",
                              named.name, kMaxNameLength));
    }
    text.remove_prefix(equals + 1);
  }
  auto spec = PortSpec::parse(text);
  if (!spec) return forward(spec);
  named.spec = std::move(*spec);
  return named;
}

std::optional<uint64_t> parse_number(std::string_view text) {
  unsigned shift = 0;
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  } else if (!text.empty()) {
    const size_t suffix = std::string_view("kmg").find(static_cast<char>(text.back() | 0x20));
    if (suffix != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(suffix) + 1);
      text.remove_suffix(1);
    }
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (value > std::numeric_limits<uint64_t>::max() >> shift) return std::nullopt;
  return value << shift;
}

std::string_view nearest_word(std::string_view text, const std::vector<std::string_view>& words) {
  std::string_view best;
  size_t best_distance = text.size() / 3 + 1;  // further off is no misspelling
  for (const std::string_view word : words) {
    const size_t distance = edit_distance(text, word);
    if (distance > best_distance || (distance == best_distance && !best.empty())) continue;
    best = word;
    best_distance = distance;
  }
  return best;
}

const std::string* SpecReader::take(std::string_view key) {
  if (std::ranges::find(known_, key) == known_.end()) known_.push_back(key);
  return spec_.find(key);
}

bool SpecReader::has(std::string_view key) { return take(key) != nullptr; }

void SpecReader::fail_with(std::string what) {
  if (!error_) error_ = std::move(what);
}

void SpecReader::fail_value(std::string_view key, std::string_view value, std::string_view wanted) {
  fail_with(fmt::format("{}={}: wants {}", key, value, wanted));
}

uint64_t SpecReader::get_u64(std::string_view key, Range range, uint64_t otherwise) {
  const std::string* text = take(key);
  if (text == nullptr) return otherwise;
  const auto value = parse_number(*text);
  if (value && *value >= range.min && *value <= range.max &&
      (!range.power_of_two || std::has_single_bit(*value))) {
    return *value;
  }
  fail_value(key, *text,
             fmt::format("{} from {} to {}", range.power_of_two ? "a power of two" : "a number",
                         range.min, range.max));
  return otherwise;
}

uint32_t SpecReader::get_u32(std::string_view key, Range range, uint32_t otherwise) {
  range.max = std::min<uint64_t>(range.max, std::numeric_limits<uint32_t>::max());
  return static_cast<uint32_t>(get_u64(key, range, otherwise));
}

bool SpecReader::get_bool(std::string_view key, bool otherwise) {
  const std::string* text = take(key);
  if (text == nullptr) return otherwise;
  for (const std::string_view word : {"on", "yes", "true", "1"}) {
    if (*text == word) return true;
  }
  for (const std::string_view word : {"off", "no", "false", "0"}) {
    if (*text == word) return false;
  }
  fail_value(key, *text, "on or off");
  return otherwise;
}

std::string SpecReader::get_string(std::string_view key, std::string_view otherwise) {
  const std::string* text = take(key);
  return text == nullptr ? std::string(otherwise) : *text;
}

size_t SpecReader::get_choice(std::string_view key, std::initializer_list<std::string_view> words,
                              size_t otherwise) {
  const std::string* text = take(key);
  if (text == nullptr) return otherwise;
  const auto* at = std::ranges::find(words, std::string_view(*text));
  if (at != words.end()) return static_cast<size_t>(at - words.begin());
  fail_value(key, *text, fmt::format("one of {}", fmt::join(words, ", ")));
  return otherwise;
}

std::optional<net::MacAddress> SpecReader::get_mac(std::string_view key) {
  const std::string* text = take(key);
  if (text == nullptr) return std::nullopt;
  if (const auto mac = net::MacAddress::from_text(*text)) return *mac;
  fail_value(key, *text, "a MAC address such as 52:54:00:12:34:56");
  return std::nullopt;
}

void SpecReader::require_target(std::string_view what) {
  if (spec_.target.empty()) {
    fail_with(fmt::format("needs {} behind the colon, as in {}:TARGET", what, spec_.kind));
  }
}

void SpecReader::refuse_target() {
  if (!spec_.target.empty()) {
    fail_with(fmt::format("takes no target: leave '{}' out", spec_.target));
  }
}

Status SpecReader::finish() {
  // An unknown key first: a misspelt option is the likeliest cause of any other complaint.
  for (const PortSpec::Option& option : spec_.options) {
    if (std::ranges::find(known_, option.key) != known_.end()) continue;
    const std::string_view nearest = nearest_word(option.key, known_);
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} port: unknown option '{}'{}; {}", spec_.kind, option.key,
                            nearest.empty() ? "" : fmt::format(", did you mean '{}'?", nearest),
                            known_.empty() ? std::string("it has no options")
                                           : fmt::format("known: {}", fmt::join(known_, ", "))));
  }
  if (error_) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} port: {}", spec_.kind, *error_));
  }
  return {};
}

}  // namespace pollux
