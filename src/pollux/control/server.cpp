// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/server.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <httplib.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <exception>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "pollux/base/quiet_thread.hpp"
#include "pollux/control/config.hpp"
#include "pollux/control/report.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::control {
namespace {

constexpr size_t kMaxBody = 16384;
constexpr size_t kThreads = 4;
constexpr size_t kMaxRequestsPerConnection = 1000;
constexpr time_t kIoSeconds = 2;  // stopping waits for a client that stands still
constexpr time_t kKeepAliveSeconds = 1;

constexpr auto kJson = "application/json";
constexpr std::string_view kEndpoints =
    "GET /v1/stats, /v1/ports, /v1/ports/NAME, /v1/workers, /v1/fdb, /v1/drop-reasons; POST "
    "/v1/ports; PATCH, DELETE /v1/ports/NAME; POST /v1/hand-over";

/// An HTTP server on a listening socket that somebody else has made.
class AdoptingServer final : public httplib::Server {
 public:
  void adopt(int fd) { svr_sock_ = fd; }
};

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return 400;
    case ErrorCode::kPermission:
      return 403;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kAlreadyExists:
      return 409;
    case ErrorCode::kUnsupported:
      return 501;
    case ErrorCode::kResource:
    case ErrorCode::kDisconnected:
      return 503;
    case ErrorCode::kTimeout:
      return 504;
    case ErrorCode::kProtocol:
    case ErrorCode::kSystem:
      break;
  }
  return 500;
}

void answer(httplib::Response& response, const std::string& json, int status = 200) {
  response.status = status;
  response.set_content(json + "\n", kJson);
}

void answer_error(httplib::Response& response, int status, std::string_view sentence) {
  answer(response, error_to_json(sentence), status);
}

void answer_error(httplib::Response& response, const Error& error) {
  answer_error(response, http_status(error.code), error.what);
}

/// The body, or an error when it is longer than anybody needs.
Result<std::string> read_body(const httplib::Request& request,
                              const httplib::ContentReader& reader) {
  if (request.is_multipart_form_data()) {
    return fail(ErrorCode::kInvalidArgument, "send JSON, not a form");
  }
  std::string body;
  const bool whole = reader([&](const char* data, size_t size) {
    if (body.size() + size > kMaxBody) return false;
    body.append(data, size);
    return true;
  });
  if (!whole) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the request's body is broken off or longer than {} bytes", kMaxBody));
  }
  return body;
}

/// {"name": NAME, "spec": SPEC} and nothing else.
Result<NamedPortSpec> parse_new_port(const std::string& body) {
  constexpr std::string_view kShape =
      R"(the body is to be {"name": "NAME", "spec": "KIND:TARGET,key=value"})";
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object() || json.size() != 2)
    return fail(ErrorCode::kInvalidArgument, std::string(kShape));
  const auto name = json.find("name");
  const auto spec = json.find("spec");
  if (name == json.end() || spec == json.end() || !name->is_string() || !spec->is_string()) {
    return fail(ErrorCode::kInvalidArgument, std::string(kShape));
  }
  const auto& wanted = name->get_ref<const std::string&>();
  auto port =
      NamedPortSpec::parse(fmt::format("{}={}", wanted, spec->get_ref<const std::string&>()));
  if (port && port->name != wanted) {
    return fail(ErrorCode::kInvalidArgument, "a port's name is of letters, digits, '-', '_', '.'");
  }
  return port;
}

struct NewMode {
  std::optional<unsigned> queue;
  QueueMode mode = QueueMode::kAdaptive;
};

/// {"mode": MODE} or {"mode": MODE, "queue": N}.
Result<NewMode> parse_new_mode(const std::string& body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  const auto wrong = [] {
    return fail(
        ErrorCode::kInvalidArgument,
        R"(the body is to be {"mode": "poll" or "adaptive"}, with "queue": N for one queue)");
  };
  if (!json.is_object()) return wrong();
  const auto mode = json.find("mode");
  if (mode == json.end() || !mode->is_string()) return wrong();
  NewMode wanted;
  auto parsed = parse_queue_mode(mode->get_ref<const std::string&>());
  if (!parsed) return forward(parsed);
  wanted.mode = *parsed;
  const auto queue = json.find("queue");
  if (queue != json.end()) {
    if (!queue->is_number_unsigned() || queue->get<uint64_t>() > UINT16_MAX) return wrong();
    wanted.queue = queue->get<unsigned>();
  }
  if (json.size() != (wanted.queue ? 2 : 1)) return wrong();
  return wanted;
}

}  // namespace

struct Server::Impl {
  Impl(vhost::UnixListener bound, Target& asked, Log sink)
      : listener(std::move(bound)), target(asked), log(std::move(sink)) {}

  vhost::UnixListener listener;
  Target& target;
  Log log;
  AdoptingServer http;
  std::thread thread;

  void configure();
  void add_reading_routes();
  void add_changing_routes();
  void get_ports(const httplib::Request& request, httplib::Response& response) const;
  void patch_port(const httplib::Request& request, httplib::Response& response,
                  const httplib::ContentReader& reader) const;
  void post_port(const httplib::Request& request, httplib::Response& response,
                 const httplib::ContentReader& reader) const;
  void post_hand_over(const httplib::Request& request, httplib::Response& response,
                      const httplib::ContentReader& reader) const;
};

void Server::Impl::configure() {
  http.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  http.set_payload_max_length(kMaxBody);
  http.set_read_timeout(kIoSeconds);
  http.set_write_timeout(kIoSeconds);
  http.set_keep_alive_timeout(kKeepAliveSeconds);
  http.set_keep_alive_max_count(kMaxRequestsPerConnection);
  http.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;  // ours already
    if (response.status == 404) {
      answer_error(response, 404,
                   fmt::format("there is no {} {}; there are: {}", request.method, request.path,
                               kEndpoints));
    } else {
      answer_error(response, response.status, "the request is not one that can be answered");
    }
  });
  http.set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, const std::exception_ptr&) {
        answer_error(response, 500, "the request could not be answered: out of memory?");
      });
  add_reading_routes();
  add_changing_routes();
}

void Server::Impl::add_reading_routes() {
  http.Get("/v1/stats", [this](const httplib::Request&, httplib::Response& response) {
    const auto snapshot = target.snapshot();
    snapshot ? answer(response, to_json(*snapshot)) : answer_error(response, snapshot.error());
  });
  http.Get("/v1/workers", [this](const httplib::Request&, httplib::Response& response) {
    const auto snapshot = target.snapshot();
    snapshot ? answer(response, workers_to_json(snapshot->workers))
             : answer_error(response, snapshot.error());
  });
  http.Get("/v1/fdb", [this](const httplib::Request&, httplib::Response& response) {
    const auto rows = target.fdb();
    rows ? answer(response, fdb_to_json(*rows)) : answer_error(response, rows.error());
  });
  http.Get("/v1/drop-reasons", [](const httplib::Request&, httplib::Response& response) {
    answer(response, drop_reasons_to_json());
  });
  const auto ports = [this](const httplib::Request& request, httplib::Response& response) {
    get_ports(request, response);
  };
  http.Get("/v1/ports", ports);
  http.Get("/v1/ports/([A-Za-z0-9._-]+)", ports);
}

void Server::Impl::get_ports(const httplib::Request& request, httplib::Response& response) const {
  const auto snapshot = target.snapshot();
  if (!snapshot) return answer_error(response, snapshot.error());
  if (request.matches.size() < 2) return answer(response, ports_to_json(snapshot->ports));
  const std::string name = request.matches[1];
  for (const PortStats& port : snapshot->ports) {
    if (port.name == name) return answer(response, ports_to_json({&port, 1}));
  }
  answer_error(response, 404, fmt::format("there is no port '{}'", name));
}

void Server::Impl::add_changing_routes() {
  http.Post("/v1/ports",
            [this](const httplib::Request& request, httplib::Response& response,
                   const httplib::ContentReader& reader) { post_port(request, response, reader); });
  http.Post("/v1/hand-over", [this](const httplib::Request& request, httplib::Response& response,
                                    const httplib::ContentReader& reader) {
    post_hand_over(request, response, reader);
  });
  http.Patch(
      "/v1/ports/([A-Za-z0-9._-]+)",
      [this](const httplib::Request& request, httplib::Response& response,
             const httplib::ContentReader& reader) { patch_port(request, response, reader); });
  http.Delete("/v1/ports/([A-Za-z0-9._-]+)",
              [this](const httplib::Request& request, httplib::Response& response) {
                const std::string name = request.matches[1];
                const Status removed = target.remove_port(name);
                log.info(fmt::format("port {} removed by request{}", name,
                                     removed ? "" : ": " + removed.error().what));
                removed ? answer(response, "{}") : answer_error(response, removed.error());
              });
}

/// {"socket": PATH, "version": N} and nothing else.
void Server::Impl::post_hand_over(const httplib::Request& request, httplib::Response& response,
                                  const httplib::ContentReader& reader) const {
  const auto body = read_body(request, reader);
  if (!body) return answer_error(response, body.error());
  const auto json = nlohmann::json::parse(*body, nullptr, false);
  const auto field = [&](const char* name) {
    return json.is_object() && json.contains(name) ? json[name] : nlohmann::json();
  };
  const auto socket = field("socket");
  const auto version = field("version");
  if (!socket.is_string() || !version.is_number_unsigned()) {
    return answer_error(response, 400, R"(the body is to be {"socket": "PATH", "version": N})");
  }
  const Status begun = target.hand_over(socket.get<std::string>(), version.get<uint32_t>());
  if (!begun) return answer_error(response, begun.error());
  answer(response, "{}", 202);
}

void Server::Impl::post_port(const httplib::Request& request, httplib::Response& response,
                             const httplib::ContentReader& reader) const {
  const auto body = read_body(request, reader);
  if (!body) return answer_error(response, body.error());
  const auto port = parse_new_port(*body);
  if (!port) return answer_error(response, port.error());
  const Status added = target.add_port(*port);
  if (!added) return answer_error(response, added.error());
  log.info(fmt::format("port {}={} added by request", port->name, port->spec.to_string()));
  answer(response, "{}", 201);
}

void Server::Impl::patch_port(const httplib::Request& request, httplib::Response& response,
                              const httplib::ContentReader& reader) const {
  const auto body = read_body(request, reader);
  if (!body) return answer_error(response, body.error());
  const auto wanted = parse_new_mode(*body);
  if (!wanted) return answer_error(response, wanted.error());
  const std::string name = request.matches[1];
  const Status done = target.set_queue_mode(name, wanted->queue, wanted->mode);
  if (!done) return answer_error(response, done.error());
  log.info(fmt::format("port {}: {} is {} by request", name,
                       wanted->queue ? fmt::format("rx{}", *wanted->queue) : "every queue",
                       wanted->mode == QueueMode::kPoll ? "polled" : "adaptive"));
  answer(response, "{}");
}

Result<std::unique_ptr<Server>> Server::bind(const std::string& path, mode_t mode, Target& target,
                                             Log log) {
  auto listener = vhost::UnixListener::bind(path, mode);
  if (!listener) return forward(listener);
  auto impl = std::make_unique<Impl>(std::move(*listener), target, std::move(log));
  impl->configure();
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

void Server::start() {
  // The HTTP server closes its descriptor by itself and waits in accept(): a blocking copy.
  const int fd = fcntl(impl_->listener.fd(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0 || fcntl(fd, F_SETFL, 0) != 0) {
    impl_->log.error("the control socket can not be answered: out of descriptors");
    return;
  }
  impl_->http.adopt(fd);
  impl_->thread =
      start_quiet_thread([impl = impl_.get()] { (void)impl->http.listen_after_bind(); });
  // stop() has no effect on a server that does not run yet.
  while (!impl_->http.is_running()) std::this_thread::yield();
}

Server::~Server() {
  if (!impl_->thread.joinable()) return;
  impl_->http.stop();
  impl_->thread.join();
}

Status Server::move_to(const std::string& path) { return impl_->listener.move_to(path); }

void Server::disown() { impl_->listener.disown(); }

const std::string& Server::path() const { return impl_->listener.path(); }

}  // namespace pollux::control
