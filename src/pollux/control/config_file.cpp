// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include <toml++/toml.h>

#include "pollux/control/config.hpp"

namespace pollux::control {
namespace {

constexpr size_t kMaxFileSize = size_t{1} << 20;

/// Reads one table of the file. Like SpecReader: it remembers the first error, and which keys it
/// was asked for; finish() reports either the error or a key that nobody asked for.
class TableReader {
 public:
  TableReader(const toml::table& table, const std::string& file, std::string prefix)
      : table_(table), file_(file), prefix_(std::move(prefix)) {}

  /// Calls `take(std::string)` with the value of a string key; `take` returns a Status.
  template <typename Take>
  void text(std::string_view key, Take take) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const auto value = node->value_exact<std::string>();
    if (!value) return fail_at(*node, key, "is to be a string, in quotes");
    if (Status ok = take(*value); !ok) fail_at(*node, key, ok.error().what);
  }

  template <typename T>
  void number(std::string_view key, uint64_t min, uint64_t max, T& out) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const auto value = node->value_exact<int64_t>();
    if (!value || *value < 0 || static_cast<uint64_t>(*value) < min ||
        static_cast<uint64_t>(*value) > max) {
      return fail_at(*node, key, fmt::format("is to be a whole number from {} to {}", min, max));
    }
    out = static_cast<T>(*value);
  }

  /// The table of that name, or null.
  const toml::table* table(std::string_view key) {
    const toml::node* node = find(key);
    if (node == nullptr) return nullptr;
    if (!node->is_table()) fail_at(*node, key, "is to be a table: write [" + name(key) + "]");
    return node->as_table();
  }

  void fail_at(const toml::node& node, std::string_view key, std::string_view what) {
    fail_at(node.source().begin.line, key, what);
  }

  [[nodiscard]] Status finish() {
    for (const auto& [key, node] : table_) {
      if (std::ranges::find(known_, key.str()) != known_.end()) continue;
      const std::string_view nearest = nearest_word(key.str(), known_);
      fail_at(key.source().begin.line, key.str(),
              fmt::format("there is no such key{}; there are: {}",
                          nearest.empty() ? "" : fmt::format(", did you mean '{}'?", nearest),
                          fmt::join(known_, ", ")));
    }
    if (error_) return fail(ErrorCode::kInvalidArgument, *error_);
    return {};
  }

 private:
  const toml::node* find(std::string_view key) {
    known_.push_back(key);
    return table_.get(key);
  }
  [[nodiscard]] std::string name(std::string_view key) const {
    return prefix_.empty() ? std::string(key) : fmt::format("{}.{}", prefix_, key);
  }
  void fail_at(toml::source_index line, std::string_view key, std::string_view what) {
    if (!error_) error_ = fmt::format("{}:{}: {}: {}", file_, line, name(key), what);
  }

  const toml::table& table_;
  const std::string& file_;
  std::string prefix_;
  std::vector<std::string_view> known_;
  std::optional<std::string> error_;
};

/// Leaves the value of a Result in `out`.
template <typename T>
Status store(Result<T> result, T& out) {
  if (!result) return forward(result);
  out = std::move(*result);
  return {};
}

Status read_pool(const toml::table& table, const std::string& file, PoolConfig& pool) {
  TableReader read(table, file, "pool");
  read.number("packets", 1, 1u << 24, pool.packets);
  read.number("buffers", 1, 1u << 24, pool.buffers);
  read.number("buffer-size", 64, 65536, pool.buffer_size);
  read.text("huge-pages",
            [&](const std::string& text) { return store(parse_huge_pages(text), pool.pages); });
  return read.finish();
}

Status read_fdb(const toml::table& table, const std::string& file, SwitchConfig& config) {
  TableReader read(table, file, "fdb");
  read.number("capacity", 4, 1u << 24, config.engine.fdb.capacity);
  read.number("max-age", 1, 1'000'000, config.engine.fdb.max_age_s);
  uint64_t seed = 0;
  read.number("seed", 0, std::numeric_limits<int64_t>::max(), seed);
  if (table.contains("seed")) config.seed = seed;
  return read.finish();
}

Status read_ports(const toml::table& table, const std::string& file, SwitchConfig& config) {
  // The table is sorted by name; ports are added in the order in which they were written.
  std::vector<std::pair<toml::source_position, std::string>> order;
  for (const auto& [key, node] : table) {
    order.emplace_back(key.source().begin, std::string(key.str()));
  }
  std::ranges::sort(order);
  TableReader read(table, file, "ports");
  for (const auto& [position, name] : order) {
    read.text(name, [&](const std::string& spec) -> Status {
      auto port = NamedPortSpec::parse(fmt::format("{}={}", name, spec));
      if (!port) return forward(port);
      if (port->name != name) {  // a quoted key with '=' in it, or an empty one
        return fail(ErrorCode::kInvalidArgument, "is no name for a port: use letters, digits, '-'");
      }
      set_port(config, std::move(*port));
      return {};
    });
  }
  return read.finish();
}

Status read_root(const toml::table& root, const std::string& file, SwitchConfig& config) {
  TableReader read(root, file, "");
  read.text("cpus",
            [&](const std::string& text) { return store(parse_cpus(text), config.engine.cpus); });
  read.text("idle",
            [&](const std::string& text) { return store(parse_idle(text), config.engine.idle); });
  read.text("control", [&](const std::string& path) -> Status {
    config.control_socket = path;
    return {};
  });
  read.text("control-mode",
            [&](const std::string& text) { return store(parse_mode(text), config.control_mode); });
  read.text("state", [&](const std::string& path) -> Status {
    config.state_dir = path;
    return {};
  });
  const toml::table* pool = read.table("pool");
  const toml::table* fdb = read.table("fdb");
  const toml::table* ports = read.table("ports");
  if (Status ok = read.finish(); !ok) return ok;
  if (pool != nullptr) {
    if (Status ok = read_pool(*pool, file, config.pool); !ok) return ok;
  }
  if (fdb != nullptr) {
    if (Status ok = read_fdb(*fdb, file, config); !ok) return ok;
  }
  return ports == nullptr ? Status{} : read_ports(*ports, file, config);
}

}  // namespace

Status parse_config(std::string_view text, const std::string& name, SwitchConfig& config) {
  toml::table root;
  try {
    root = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{}:{}: {}", name, error.source().begin.line, error.description()));
  }
  SwitchConfig read = config;
  if (Status ok = read_root(root, name, read); !ok) return ok;
  config = std::move(read);
  return {};
}

Status load_config(const std::string& path, SwitchConfig& config) {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) {
    return fail_errno(errno, fmt::format("can not read the configuration file {}", path));
  }
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) > kMaxFileSize) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} is no configuration file: it is to be a regular file of at most "
                            "1 MiB",
                            path));
  }
  std::ifstream file(path);
  if (!file) {
    return fail_errno(errno, fmt::format("can not read the configuration file {}", path));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return parse_config(text.str(), path, config);
}

}  // namespace pollux::control
