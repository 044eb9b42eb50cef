// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/interruptions.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace pollux::bench {
namespace {

/// Time of a thread so far, in some unit: fields 14 and 15 of /proc/PID/task/TID/stat.
uint64_t time_of(const std::filesystem::path& thread) {
  std::ifstream file(thread / "stat");
  file.ignore(std::numeric_limits<std::streamsize>::max(), ')');
  std::string skipped;
  for (int field = 3; field < 14; ++field) file >> skipped;
  uint64_t user = 0;
  uint64_t system = 0;
  file >> user >> system;
  return user + system;
}

}  // namespace

Result<Interruptions> Interruptions::of_process(int pid) {
  std::error_code none;
  std::filesystem::path busiest;
  uint64_t most = 0;
  for (const auto& thread :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), none)) {
    const uint64_t time = time_of(thread.path());
    if (time < most) continue;
    most = time;
    busiest = thread.path();
  }
  UniqueFd status(::open((busiest / "status").c_str(), O_RDONLY | O_CLOEXEC));
  if (!status) return fail(ErrorCode::kNotFound, fmt::format("no process {} to watch", pid));
  return Interruptions(std::move(status));
}

uint64_t Interruptions::count() const {
  rusage own{};
  ::getrusage(RUSAGE_THREAD, &own);
  auto total = static_cast<uint64_t>(own.ru_nivcsw);
  std::array<char, 4096> text;
  const ssize_t size = ::pread(status_.get(), text.data(), text.size(), 0);
  constexpr std::string_view kName = "nonvoluntary_ctxt_switches:\t";
  const std::string_view all(text.data(), size < 0 ? 0 : static_cast<size_t>(size));
  const size_t at = all.find(kName);
  uint64_t theirs = 0;
  if (at != all.npos) std::from_chars(&all[at + kName.size()], all.data() + all.size(), theirs);
  return total + theirs;
}

}  // namespace pollux::bench
