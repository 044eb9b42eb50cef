// SPDX-License-Identifier: Apache-2.0
// `pollux doctor`: whether this machine has what Pollux needs.
#include "pollux/control/doctor.hpp"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/command.hpp"
#include "pollux/control/default_socket.hpp"
#include "pollux/packet/pool.hpp"

namespace pollux::apps {
namespace {

struct Options {
  std::string control;
  bool json = false;
};

int run_doctor(const Options& options) {
  const PoolConfig pool;
  const control::DoctorConfig config{
      .root = "",
      .control_socket = options.control,
      .pool_bytes = uint64_t{pool.buffers} * (pool.buffer_size + Pool::kBufferHeadRoom + 64)};
  const auto findings = control::examine(config);
  fmt::print("{}", options.json ? control::findings_to_json(findings) + "\n"
                                : control::findings_table(findings));
  return control::has_problem(findings) ? kFailed : 0;
}

}  // namespace

void setup_doctor(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  o->control = control::default_control_socket();
  app.description(
      "Checks at once what Pollux uses of this machine, and says what to do about what is "
      "missing.\n"
      "Exit status 1 when something is missing that nothing works without; warnings leave it 0.");
  app.add_option("--control", o->control, "control socket to look at (" + o->control + ")")
      ->type_name("SOCKET");
  app.add_flag("--json", o->json, "as one JSON object");
  app.callback([o, &status] { status = run_doctor(*o); });
}

}  // namespace pollux::apps
