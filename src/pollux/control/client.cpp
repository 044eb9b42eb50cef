// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/client.hpp"

#include <fmt/format.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "pollux/control/config.hpp"
#include "pollux/control/report.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::control {
namespace {

constexpr time_t kAnswerSeconds = 15;  // a port that does not come to rest takes the switch 5

ErrorCode code_of(int status) {
  switch (status) {
    case 400:
      return ErrorCode::kInvalidArgument;
    case 403:
      return ErrorCode::kPermission;
    case 404:
      return ErrorCode::kNotFound;
    case 409:
      return ErrorCode::kAlreadyExists;
    case 501:
      return ErrorCode::kUnsupported;
    case 503:
      return ErrorCode::kResource;
    case 504:
      return ErrorCode::kTimeout;
    default:
      return ErrorCode::kSystem;
  }
}

/// Why nobody can be asked on `path`.
std::unexpected<Error> not_reached(const std::string& path) {
  const auto connected = vhost::connect_unix(path);
  if (connected) {
    return fail(ErrorCode::kTimeout, fmt::format("the switch behind {} does not answer", path));
  }
  Error error = connected.error();
  error.what = error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kPermission
                   ? error.what
                   : fmt::format(
                         "no switch answers on {}: start `pollux switch`, or name its "
                         "socket with --control",
                         path);
  return std::unexpected(std::move(error));
}

/// What goes into a URL.
Status check_port_name(const std::string& name) {
  if (!name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                              "0123456789._-") == std::string::npos) {
    return {};
  }
  return fail(
      ErrorCode::kInvalidArgument,
      fmt::format("'{}' is no port name: they are of letters, digits, '-', '_' and '.'", name));
}

}  // namespace

Result<std::string> Client::request(const std::string& method, const std::string& endpoint,
                                    const std::string& body) const {
  // The HTTP client would cut a path that is too long.
  if (Status ok = vhost::check_socket_path(path_); !ok) return forward(ok);
  httplib::Client http(path_);
  http.set_address_family(AF_UNIX);
  http.set_read_timeout(kAnswerSeconds);
  http.set_default_headers({{"Host", "localhost"}});
  httplib::Request request;
  request.method = method;
  request.path = endpoint;
  request.body = body;
  if (!body.empty()) request.headers.emplace("Content-Type", "application/json");
  const auto result = http.send(request);
  if (!result) return not_reached(path_);
  if (result->status < 200 || result->status >= 300) {
    return fail(code_of(result->status), error_from_json(result->body));
  }
  return result->body;
}

Result<std::string> Client::get(const std::string& endpoint) const {
  return request("GET", endpoint, {});
}

Result<SwitchSnapshot> Client::stats() const {
  const auto text = get("/v1/stats");
  if (!text) return forward(text);
  return snapshot_from_json(*text);
}

Result<std::vector<FdbRow>> Client::fdb() const {
  const auto text = get("/v1/fdb");
  if (!text) return forward(text);
  return fdb_from_json(*text);
}

Status Client::add_port(const std::string& name, const std::string& spec) const {
  const nlohmann::json body{{"name", name}, {"spec", spec}};
  const auto done = request("POST", "/v1/ports",
                            body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  if (!done) return forward(done);
  return {};
}

Status Client::hand_over(const std::string& socket, uint32_t version) const {
  const nlohmann::json body{{"socket", socket}, {"version", version}};
  const auto done = request("POST", "/v1/hand-over",
                            body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  if (!done) return forward(done);
  return {};
}

Status Client::remove_port(const std::string& name) const {
  if (Status ok = check_port_name(name); !ok) return ok;
  const auto done = request("DELETE", "/v1/ports/" + name, {});
  if (!done) return forward(done);
  return {};
}

Status Client::set_queue_mode(const std::string& port, std::optional<unsigned> queue,
                              QueueMode mode) const {
  if (Status ok = check_port_name(port); !ok) return ok;
  nlohmann::json body{{"mode", queue_mode_name(mode)}};
  if (queue) body["queue"] = *queue;
  const auto done = request("PATCH", "/v1/ports/" + port, body.dump());
  if (!done) return forward(done);
  return {};
}

}  // namespace pollux::control
