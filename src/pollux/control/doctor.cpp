// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/doctor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

#include <nlohmann/json.hpp>

#include "pollux/base/cpu.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/control/table.hpp"
#include "pollux/control/units.hpp"
#include "pollux/mem/shared_region.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::control {
namespace {

using Level = Finding::Level;

constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr int kCapNetAdmin = 12;
/// A vhost-user port of one queue pair holds a listener, a connection, kick, call and memory.
constexpr uint64_t kDescriptorsPerPort = 16;
constexpr uint64_t kEnoughDescriptors = 1024;

/// The first line of a file, or nothing when it can not be read.
std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return file.eof() ? std::optional<std::string>("") : std::nullopt;
  return line;
}

/// The value of a "Key:   value ..." line of a file in /proc.
std::string field(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ':') continue;
    const size_t start = line.find_first_not_of(" \t", key.size() + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return {};
}

uint64_t to_number(const std::string& text, int base = 10) {
  return std::strtoull(text.c_str(), nullptr, base);
}

Finding check_instructions() {
  Finding f{"CPU instructions", Level::kOk, "portable routines on this kind of CPU", ""};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2") == 0 || __builtin_cpu_supports("popcnt") == 0) {
    return {f.subject, Level::kProblem, "less than x86-64-v2",
            "give the guest a newer CPU model (QEMU: -cpu host or -cpu max)"};
  }
  const CpuFeatures cpu = CpuFeatures::detect();
  f.found = fmt::format("x86-64-v2{}{}", cpu.avx2 ? ", AVX2" : "", cpu.avx512 ? ", AVX-512" : "");
  if (!cpu.avx2) f.advice = "fine; with AVX2 copies and checksums are faster";
#endif
  return f;
}

Finding check_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return {"CPUs", Level::kProblem, "can not be asked for", "allow sched_getaffinity"};
  }
  const int cpus = CPU_COUNT(&allowed);
  Finding f{"CPUs", Level::kOk, fmt::format("{} may be used", cpus), ""};
  if (cpus == 1) {
    f.level = Level::kWarning;
    f.advice = "workers share it with guests: keep --idle adaptive, and expect lower rates";
  }
  return f;
}

Finding check_isolation(const std::string& root) {
  const auto isolated = first_line(root + "/sys/devices/system/cpu/isolated");
  if (isolated && !isolated->empty()) {
    return {"isolated CPUs", Level::kOk, *isolated,
            fmt::format("pin workers there: --cpus {}", *isolated)};
  }
  return {"isolated CPUs", Level::kOk, "none",
          "fine; for steady latency boot with isolcpus=LIST nohz_full=LIST and use --cpus LIST"};
}

Finding check_huge_pages(const DoctorConfig& config) {
  const std::string folder = config.root + "/sys/kernel/mm/hugepages/hugepages-2048kB/";
  const auto free_text = first_line(folder + "free_hugepages");
  const uint64_t needed = (config.pool_bytes + kHugePage - 1) / kHugePage;
  const uint64_t total = to_number(first_line(folder + "nr_hugepages").value_or("0"));
  if (!free_text) {
    return {"huge pages", Level::kWarning, "the kernel has none of 2 MiB",
            "works without them, slower"};
  }
  const uint64_t free = to_number(*free_text);
  Finding f{"huge pages", Level::kOk, fmt::format("{} of {} of 2 MiB are free", free, total), ""};
  if (free < needed) {
    f.level = Level::kWarning;
    f.advice = fmt::format(
        "works without them, slower; a default switch takes {}: as root `sysctl -w "
        "vm.nr_hugepages={}` (no mount is needed)",
        needed, total - free + needed);
  }
  return f;
}

Finding check_shared_memory() {
  const auto region = SharedRegion::create("pollux-doctor", kHugePage, HugePages::kNever);
  if (region) return {"shared memory", Level::kOk, "memfd with seals works", ""};
  return {"shared memory", Level::kProblem, region.error().what,
          "allow memfd_create (seccomp profile?) and raise the memory limit"};
}

Finding check_memory(const DoctorConfig& config) {
  const uint64_t available = to_number(field(config.root + "/proc/meminfo", "MemAvailable")) << 10;
  const uint64_t wanted = 2 * config.pool_bytes + (uint64_t{64} << 20);
  Finding f{"memory", Level::kOk, byte_size(available) + " available", ""};
  if (available != 0 && available < wanted) {
    f.level = Level::kWarning;
    f.advice = "start the switch with smaller pools: --pool-packets, --pool-buffers";
  }
  return f;
}

Finding check_memlock() {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  const std::string text =
      limit.rlim_cur == RLIM_INFINITY ? "unlimited" : byte_size(limit.rlim_cur);
  return {"locked memory", Level::kOk, text + " (limit)", "none is needed"};
}

Finding check_descriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::string text = limit.rlim_cur == RLIM_INFINITY ? "unlimited" : count(limit.rlim_cur);
  Finding f{"open files", Level::kOk, text + " (limit)", ""};
  if (limit.rlim_cur < kEnoughDescriptors) {
    f.level = Level::kWarning;
    f.advice = fmt::format("enough for about {} ports; raise it with ulimit -n or LimitNOFILE=",
                           limit.rlim_cur / kDescriptorsPerPort);
  }
  return f;
}

Finding check_device(const DoctorConfig& config, const std::string& device, std::string_view use,
                     std::string_view how_to_get) {
  const UniqueFd fd(open((config.root + device).c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return {device, Level::kOk, "usable", ""};
  if (errno == EACCES || errno == EPERM) {
    return {device, Level::kWarning, "no permission",
            fmt::format("{}: ask for access to {}", use, device)};
  }
  return {device, Level::kWarning, std::strerror(errno), fmt::format("{}: {}", use, how_to_get)};
}

Finding check_net_admin(const DoctorConfig& config) {
  const uint64_t caps = to_number(field(config.root + "/proc/self/status", "CapEff"), 16);
  if ((caps >> kCapNetAdmin & 1) != 0) return {"CAP_NET_ADMIN", Level::kOk, "held", ""};
  return {"CAP_NET_ADMIN", Level::kWarning, "not held",
          "only tap ports need it; without, root makes one for you: ip tuntap add tap0 mode tap "
          "user NAME"};
}

Finding check_kernel() {
  utsname name{};
  uname(&name);
  int major = 0;
  int minor = 0;
  (void)std::sscanf(name.release, "%d.%d", &major, &minor);
  Finding f{"kernel", Level::kOk, name.release, ""};
  if (major < 5 || (major == 5 && minor < 14)) {
    f.level = Level::kWarning;
    f.advice = "tested from 5.14 on: shortage of memory is found out late before";
  }
  return f;
}

bool may_create_in(const std::string& directory) {
  struct stat st{};
  if (stat(directory.c_str(), &st) == 0) return access(directory.c_str(), W_OK | X_OK) == 0;
  const size_t slash = directory.rfind('/');
  const std::string parent =
      slash == 0 || slash == std::string::npos ? "/" : directory.substr(0, slash);
  return access(parent.c_str(), W_OK | X_OK) == 0;
}

Finding check_control_socket(const std::string& path) {
  Finding f{"control socket", Level::kOk, path, ""};
  if (Status ok = vhost::check_socket_path(path); !ok) {
    return {f.subject, Level::kWarning, path, ok.error().what + " (--control PATH)"};
  }
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash);
  if (vhost::connect_unix(path)) {
    f.found += ", a switch answers there";
    f.advice = "a second one needs a path of its own: --control PATH";
  } else if (!may_create_in(directory)) {
    f.level = Level::kWarning;
    f.found += fmt::format(", but {} is not yours to write to", directory);
    f.advice = "name another path with --control";
  }
  return f;
}

std::string_view level_name(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kWarning:
      return "warn";
    case Level::kProblem:
      break;
  }
  return "fail";
}

}  // namespace

std::vector<Finding> examine(const DoctorConfig& config) {
  return {
      check_kernel(),
      check_instructions(),
      check_cpus(),
      check_isolation(config.root),
      check_memory(config),
      check_shared_memory(),
      check_huge_pages(config),
      check_memlock(),
      check_descriptors(),
      check_control_socket(config.control_socket),
      check_net_admin(config),
      check_device(config, "/dev/net/tun", "only tap ports need it",
                   "load the module (modprobe tun), or pass the device into the container"),
      check_device(config, "/dev/kvm", "only guests need it, which run many times slower without",
                   "load kvm_intel or kvm_amd, or enable virtualisation in the firmware")};
}

bool has_problem(std::span<const Finding> findings) {
  return std::ranges::any_of(findings, [](const Finding& f) { return f.level == Level::kProblem; });
}

std::string findings_table(std::span<const Finding> findings) {
  Table table({{""}, {"subject"}, {"found"}, {"what to do"}});
  for (const Finding& f : findings) {
    table.row({std::string(level_name(f.level)), f.subject, f.found, f.advice});
  }
  return table.text();
}

std::string findings_to_json(std::span<const Finding> findings) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Finding& f : findings) {
    rows.push_back({{"subject", f.subject},
                    {"level", std::string(level_name(f.level))},
                    {"found", f.found},
                    {"advice", f.advice}});
  }
  const nlohmann::ordered_json json{{"ok", !has_problem(findings)}, {"findings", std::move(rows)}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace pollux::control
