// SPDX-License-Identifier: Apache-2.0
// `pollux switch`: the switch itself, in the foreground.
#include "pollux/control/switch.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "apps/command.hpp"
#include "pollux/control/config.hpp"
#include "pollux/control/default_socket.hpp"
#include "pollux/control/report.hpp"
#include "pollux/control/take_over.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "switch";

/// What the command line said; what it did not say stays empty, for the file or the default.
struct Options {
  std::vector<std::string> ports;
  std::optional<std::string> config;
  std::optional<std::string> cpus;
  std::optional<std::string> idle;
  std::optional<std::string> control;
  std::optional<std::string> control_mode;
  std::optional<std::string> huge_pages;
  std::optional<uint32_t> pool_packets;
  std::optional<uint32_t> pool_buffers;
  std::optional<uint32_t> buffer_size;
  std::optional<uint32_t> fdb_capacity;
  std::optional<uint32_t> fdb_age;
  std::optional<uint64_t> seed;
  std::optional<double> run_for;
  std::optional<std::string> take_over;
  std::optional<std::string> state;
  bool exit_when_finished = false;
  bool json = false;
};

/// Reads `text`, if it was given, by `parse` into `out`; the error names the option.
template <typename T, typename Parse>
Status apply(const char* option, const std::optional<std::string>& text, Parse parse, T& out) {
  if (!text) return {};
  auto value = parse(*text);
  if (!value) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{}: {}", option, value.error().what));
  }
  out = std::move(*value);
  return {};
}

template <typename T>
void apply(const std::optional<T>& value, T& out) {
  if (value) out = *value;
}

Status apply_ports(const Options& options, SwitchConfig& config) {
  std::set<std::string> names;  // of the command line: those of the file may be given anew
  for (const std::string& text : options.ports) {
    auto port = NamedPortSpec::parse(text);
    if (!port) {
      return fail(ErrorCode::kInvalidArgument, fmt::format("--port: {}", port.error().what));
    }
    if (port->name.empty()) {
      config.ports.push_back(std::move(*port));
      continue;
    }
    if (!names.insert(port->name).second) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("--port: there are two ports {}: choose another name", port->name));
    }
    control::set_port(config, std::move(*port));
  }
  return {};
}

Status apply_control(const Options& options, SwitchConfig& config) {
  if (options.control == "none") {
    config.control_socket.clear();
  } else if (options.control) {
    config.control_socket = *options.control;
  } else if (config.control_socket.empty()) {
    config.control_socket = control::default_control_socket();
    return control::make_default_directory();
  }
  return {};
}

void apply_state(const Options& options, SwitchConfig& config) {
  if (options.state == "none") {
    config.state_dir.clear();
  } else if (options.state) {
    config.state_dir = *options.state;
  } else if (config.state_dir.empty()) {
    config.state_dir = control::default_run_directory();
  }
}

/// The file first, then what the command line says instead.
Result<SwitchConfig> read_config(const Options& options) {
  SwitchConfig config;
  if (options.config) {
    if (Status ok = control::load_config(*options.config, config); !ok) return forward(ok);
  }
  Status ok = apply("--cpus", options.cpus, control::parse_cpus, config.engine.cpus);
  if (ok) ok = apply("--idle", options.idle, control::parse_idle, config.engine.idle);
  if (ok)
    ok = apply("--huge-pages", options.huge_pages, control::parse_huge_pages, config.pool.pages);
  if (ok)
    ok = apply("--control-mode", options.control_mode, control::parse_mode, config.control_mode);
  if (ok) ok = apply_ports(options, config);
  if (ok) ok = apply_control(options, config);
  if (!ok) return forward(ok);
  apply_state(options, config);
  apply(options.pool_packets, config.pool.packets);
  apply(options.pool_buffers, config.pool.buffers);
  apply(options.buffer_size, config.pool.buffer_size);
  apply(options.fdb_capacity, config.engine.fdb.capacity);
  apply(options.fdb_age, config.engine.fdb.max_age_s);
  if (options.seed) config.seed = options.seed;
  if (config.ports.empty() && config.control_socket.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                "there is no port and no control socket to add one by: give --port NAME=SPEC");
  }
  return config;
}

/// Everything between the options and run(); the switch is ready then.
Result<std::unique_ptr<Switch>> set_up(const Options& options) {
  HeldLog held(stderr_log());
  SteadyClock clock;
  std::optional<control::TakeOver> running;
  if (options.take_over) {
    auto offer = control::TakeOver::ask(*options.take_over, clock);
    if (!offer) return forward(offer);
    running = std::move(*offer);
  }
  auto config = running ? Result<SwitchConfig>(running->config()) : read_config(options);
  if (!config) return forward(config);
  auto made = Switch::create(*config, held.log());
  if (!made) return forward(made);
  Switch& self = **made;
  Status ok = self.stop_on_signals();
  if (ok) ok = running ? self.take_over(*running) : self.start();
  if (ok && options.exit_when_finished) ok = self.stop_when_finished();
  if (ok && options.run_for) {
    ok = self.stop_after(Nanos(static_cast<int64_t>(*options.run_for * 1e9)));
  }
  if (!ok) return forward(ok);
  held.release();
  return std::move(*made);
}

int run_switch(const Options& options) {
  auto made = set_up(options);
  if (!made) return complain(kName, made.error());
  Switch& self = **made;
  fmt::print("ready\n");
  std::fflush(stdout);
  if (Status ok = self.run(); !ok) return complain(kName, ok.error(), kFailed);
  const SwitchSnapshot last = self.snapshot();
  fmt::print("{}", options.json ? control::to_json(last) + "\n" : control::full_report(last));
  return std::fflush(stdout) == 0 ? 0 : complain(kName, "the report could not be written", kFailed);
}

void add_memory_options(CLI::App& app, Options& o) {
  const auto group = "Memory";
  app.add_option("--huge-pages", o.huge_pages,
                 "huge pages for packet buffers: try, never or require (try)")
      ->type_name("WORD")
      ->group(group);
  app.add_option("--pool-packets", o.pool_packets, "packets on their way at once (16384)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 24, "range"))
      ->group(group);
  app.add_option("--pool-buffers", o.pool_buffers, "buffers for packets that must be kept (16384)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 24, "range"))
      ->group(group);
  app.add_option("--buffer-size", o.buffer_size, "bytes in a buffer, 64 to 65536 (2048)")
      ->type_name("BYTES")
      ->check(CLI::Range(64, 65536, "range"))
      ->group(group);
}

void add_learning_options(CLI::App& app, Options& o) {
  const auto group = "Learning";
  app.add_option("--fdb-capacity", o.fdb_capacity,
                 "most addresses remembered, a power of two (131072)")
      ->type_name("N")
      ->check(CLI::Range(4, 1 << 24, "range"))
      ->group(group);
  app.add_option("--fdb-age", o.fdb_age, "seconds after which a silent address is forgotten (300)")
      ->type_name("SECONDS")
      ->check(CLI::Range(1, 1000000, "range"))
      ->group(group);
  app.add_option("--seed", o.seed, "secret of the address table; for repeatable tests (random)")
      ->type_name("N")
      ->group(group);
}

void add_running_options(CLI::App& app, Options& o) {
  app.add_option(
         "--take-over", o.take_over,
         "take the place of the switch with this control socket, with its ports, peers and\n"
         "counters; it ends, and no packet is lost")
      ->type_name("SOCKET");
  app.add_option("--control", o.control,
                 "path of the control socket, or none (" + control::default_control_socket() + ")")
      ->type_name("SOCKET");
  app.add_option("--state", o.state,
                 "directory where packed rings note how far they are, to go on after a crash, or\n"
                 "none (" +
                     control::default_run_directory() + ")")
      ->type_name("DIR");
  app.add_option("--control-mode", o.control_mode, "its permissions, in octal (0600)")
      ->type_name("MODE");
  app.add_option("--run-for", o.run_for, "end after that time")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 1e9, "range"));
  app.add_flag("--exit-when-finished", o.exit_when_finished,
               "end when every capture file has been read to its end");
  app.add_flag("--json", o.json, "the last report as one JSON object");
}

}  // namespace

void setup_switch(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description(
      "Carries packets between ports, learning which address is behind which. Runs in the\n"
      "foreground: prints `ready` once every port listens, and a last report when SIGINT or\n"
      "SIGTERM ends it.");
  app.add_option("--port", o->ports,
                 "a port, by name and SPEC (see below); may be given many times")
      ->type_name("NAME=SPEC")
      ->allow_extra_args(false);
  app.add_option("--config", o->config, "TOML file; what the command line says goes first")
      ->type_name("FILE");
  app.add_option("--cpus", o->cpus,
                 "one worker on each of these CPUs, like 0,2-3 (one worker on any CPU)")
      ->type_name("LIST");
  app.add_option("--idle", o->idle,
                 "what idle workers do: poll (a whole CPU each, lowest latency), yield or "
                 "adaptive: sleep until a queue is kicked, then poll again (adaptive)")
      ->type_name("WORD");
  add_running_options(app, *o);
  add_memory_options(app, *o);
  add_learning_options(app, *o);
  app.footer(port_spec_help() +
             "\nExample: a switch between two VMs\n"
             "  pollux switch --port v0=vhost-user:/tmp/v0.sock --port v1=vhost-user:/tmp/v1.sock");
  app.callback([o, &status] { status = run_switch(*o); });
}

}  // namespace pollux::apps
