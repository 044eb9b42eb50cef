// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/net/ethernet.hpp"

namespace pollux {

/// A port as people write it, the same on the command line, in a file and in a program:
///
///     KIND[:TARGET][,key=value...]      vhost-user:/run/v0.sock,queues=2    pcap:,tx=out.pcap
///
/// The target may hold ':' and '='; a ',' or '\' in a target or value is written "\," or "\\".
struct PortSpec {
  struct Option {
    std::string key;
    std::string value;
  };

  std::string kind;             ///< lower-case letters, digits and '-'; checked against no table
  std::string target;           ///< empty when there is none
  std::vector<Option> options;  ///< in the order given; no key twice

  /// Errors: kInvalidArgument, naming the part that can not be read.
  [[nodiscard]] static Result<PortSpec> parse(std::string_view text);

  /// The value of `key`, or null.
  [[nodiscard]] const std::string* find(std::string_view key) const;

  /// The spec as text that parse() reads back to the same value.
  [[nodiscard]] std::string to_string() const;
};

/// A port with the name that it has in one program: "NAME=SPEC".
struct NamedPortSpec {
  std::string name;
  PortSpec spec;

  /// Names are 1 to 63 letters, digits, '-', '_' and '.'. Without "NAME=" the name is left empty
  /// for the caller to make one up. Errors: kInvalidArgument.
  [[nodiscard]] static Result<NamedPortSpec> parse(std::string_view text);
};

/// A whole number as people write it: decimal or 0x..., with k, m or g for powers of 1024.
/// Nothing when it is not one or does not fit.
[[nodiscard]] std::optional<uint64_t> parse_number(std::string_view text);

/// The word of `words` that `text` is most likely a misspelling of, or an empty one.
[[nodiscard]] std::string_view nearest_word(std::string_view text,
                                            const std::vector<std::string_view>& words);

/// Reads a PortSpec's options by type. Every function returns a usable value (the default when
/// the option is missing or wrong) and remembers the first error; finish() reports it, or an
/// option that nobody asked for. So a port kind asks for all its options, then calls finish() once:
///
///     SpecReader read(spec);
///     const uint32_t queues = read.get_u32("queues", {.min = 1, .max = 128}, 1);
///     const bool offload = read.get_bool("offload", true);
///     read.require_target("the path of a socket");
///     if (Status done = read.finish(); !done) return forward(done);
class SpecReader {
 public:
  struct Range {
    uint64_t min = 0;
    uint64_t max = std::numeric_limits<uint32_t>::max();
    bool power_of_two = false;
  };

  /// `spec` must outlive the reader.
  explicit SpecReader(const PortSpec& spec) : spec_(spec) {}

  /// Whether the option was given at all; counts as asking for it.
  [[nodiscard]] bool has(std::string_view key);

  [[nodiscard]] uint32_t get_u32(std::string_view key, Range range, uint32_t otherwise);
  [[nodiscard]] uint64_t get_u64(std::string_view key, Range range, uint64_t otherwise);
  /// on/off, yes/no, true/false, 1/0.
  [[nodiscard]] bool get_bool(std::string_view key, bool otherwise);
  [[nodiscard]] std::string get_string(std::string_view key, std::string_view otherwise = {});
  /// One word of a short list; its position in `words`.
  [[nodiscard]] size_t get_choice(std::string_view key,
                                  std::initializer_list<std::string_view> words, size_t otherwise);
  [[nodiscard]] std::optional<net::MacAddress> get_mac(std::string_view key);

  /// Notes an error when there is no target; `what` says what it has to be ("a socket path").
  void require_target(std::string_view what);
  /// Notes an error when there is a target.
  void refuse_target();
  /// Notes an error of the caller's own finding. Only the first error of a reader is reported.
  void fail_with(std::string what);

  /// The first error, with the spec's kind before it, or the first option that was not asked for
  /// together with those that were. All errors are kInvalidArgument and one line.
  [[nodiscard]] Status finish();

 private:
  const std::string* take(std::string_view key);
  void fail_value(std::string_view key, std::string_view value, std::string_view wanted);

  const PortSpec& spec_;
  std::vector<std::string_view> known_;
  std::optional<std::string> error_;
};

}  // namespace pollux
