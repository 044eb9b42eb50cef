// SPDX-License-Identifier: Apache-2.0
// The control server over a real socket, with a stand-in behind it.
#include "pollux/control/server.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "pollux/base/fd.hpp"
#include "pollux/control/client.hpp"
#include "pollux/control/config.hpp"
#include "tests/unit/control/sample.hpp"

namespace pollux::control {
namespace {

/// Remembers what it was asked to change.
class FakeTarget final : public Target {
 public:
  Result<SwitchSnapshot> snapshot() override {
    if (!stopping) return sample_snapshot();
    return fail(ErrorCode::kDisconnected, "the switch is stopping");
  }
  Result<std::vector<FdbRow>> fdb() override {
    return std::vector<FdbRow>{{"52:54:00:00:00:01", 7, "v0", 4}};
  }
  Status add_port(const NamedPortSpec& port) override {
    const std::lock_guard lock(mutex);
    if (port.name == "v0") return fail(ErrorCode::kAlreadyExists, "there is a port v0 already");
    changes.push_back("add " + port.name + " " + port.spec.to_string());
    return {};
  }
  Status hand_over(const std::string& socket, uint32_t version) override {
    const std::lock_guard lock(mutex);
    if (version != 1) return fail(ErrorCode::kUnsupported, "version 1 is handed over");
    changes.push_back("hand over to " + socket);
    return {};
  }
  Status remove_port(const std::string& name) override {
    const std::lock_guard lock(mutex);
    if (name == "nobody") return fail(ErrorCode::kNotFound, "there is no port 'nobody'");
    changes.push_back("del " + name);
    return {};
  }
  Status set_queue_mode(const std::string& port, std::optional<unsigned> queue,
                        QueueMode mode) override {
    const std::lock_guard lock(mutex);
    if (port == "nobody") return fail(ErrorCode::kNotFound, "there is no port 'nobody'");
    changes.push_back("mode " + port + (queue ? "/rx" + std::to_string(*queue) : "") + " " +
                      std::string(queue_mode_name(mode)));
    return {};
  }

  bool stopping = false;
  std::mutex mutex;
  std::vector<std::string> changes;
};

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    char pattern[] = "/tmp/pollux-server-XXXXXX";
    directory_ = mkdtemp(pattern);
    path_ = directory_ + "/c.sock";
    start();
  }
  ~ServerTest() override {
    server_.reset();
    EXPECT_NE(access(path_.c_str(), F_OK), 0) << "the socket is removed";
    rmdir(directory_.c_str());
  }

  void start(mode_t mode = 0600) {
    server_.reset();
    auto bound = Server::bind(path_, mode, target_, Log());
    ASSERT_TRUE(bound) << bound.error().what;
    server_ = std::move(*bound);
    server_->start();
  }

  /// Sends `bytes` as they are; everything that comes back until the server hangs up.
  std::string raw(const std::string& bytes) {
    const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    (void)!send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    std::string answer;
    char buffer[4096];
    for (ssize_t n = 0; (n = read(fd.get(), buffer, sizeof buffer)) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
    return answer;
  }

  std::string request(const std::string& line, const std::string& body = "") {
    return raw(line + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
               std::to_string(body.size()) + "\r\n\r\n" + body);
  }

  static int status_of(const std::string& answer) {
    return answer.starts_with("HTTP/1.1 ") ? std::stoi(answer.substr(9, 3)) : 0;
  }
  static nlohmann::json body_of(const std::string& answer) {
    const size_t end = answer.find("\r\n\r\n");
    return end == std::string::npos ? nlohmann::json()
                                    : nlohmann::json::parse(answer.substr(end + 4), nullptr, false);
  }

  FakeTarget target_;
  std::string directory_;
  std::string path_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, AnswersWhatIsRead) {
  EXPECT_EQ(body_of(request("GET /v1/stats"))["pid"], 4711);
  EXPECT_EQ(body_of(request("GET /v1/ports"))["ports"].size(), 2u);
  const auto one = body_of(request("GET /v1/ports/sink"));
  ASSERT_EQ(one["ports"].size(), 1u);
  EXPECT_EQ(one["ports"][0]["name"], "sink");
  EXPECT_EQ(body_of(request("GET /v1/workers"))["workers"][0]["packets"], 1010);
  EXPECT_EQ(body_of(request("GET /v1/fdb"))["entries"][0]["vlan"], 7);
  EXPECT_EQ(body_of(request("GET /v1/drop-reasons"))["drop_reasons"].size(), kDropReasonCount);
}

TEST_F(ServerTest, AddsAndRemovesPorts) {
  const std::string added =
      request("POST /v1/ports", R"({"name": "v9", "spec": "vhost-user:/run/v9.sock,queues=2"})");
  EXPECT_EQ(status_of(added), 201) << added;
  EXPECT_EQ(status_of(request("DELETE /v1/ports/v9")), 200);
  EXPECT_EQ(target_.changes,
            (std::vector<std::string>{"add v9 vhost-user:/run/v9.sock,queues=2", "del v9"}));
}

TEST_F(ServerTest, SetsHowQueuesAreWatched) {
  EXPECT_EQ(status_of(request("PATCH /v1/ports/v0", R"({"mode": "poll"})")), 200);
  EXPECT_TRUE(Client(path_).set_queue_mode("v0", 3, QueueMode::kAdaptive));
  EXPECT_EQ(target_.changes, (std::vector<std::string>{"mode v0 poll", "mode v0/rx3 adaptive"}));
  EXPECT_EQ(status_of(request("PATCH /v1/ports/nobody", R"({"mode": "poll"})")), 404);
  for (const char* body :
       {"", "{}", R"({"mode": 1})", R"({"mode": "fast"})", R"({"mode": "poll", "queue": -1})",
        R"({"mode": "poll", "queue": 70000})", R"({"mode": "poll", "more": 1})"}) {
    EXPECT_EQ(status_of(request("PATCH /v1/ports/v0", body)), 400) << body;
  }
  EXPECT_EQ(target_.changes.size(), 2u);
}

TEST_F(ServerTest, TellsErrorsByStatusAndSentence) {
  const std::string taken = request("POST /v1/ports", R"({"name": "v0", "spec": "null:"})");
  EXPECT_EQ(status_of(taken), 409);
  EXPECT_EQ(body_of(taken)["error"], "there is a port v0 already");
  EXPECT_EQ(status_of(request("DELETE /v1/ports/nobody")), 404);
  EXPECT_EQ(status_of(request("GET /v1/ports/nobody")), 404);
  const std::string unknown = request("GET /v2/stats");
  EXPECT_EQ(status_of(unknown), 404);
  EXPECT_NE(body_of(unknown)["error"].get<std::string>().find("/v1/stats"), std::string::npos);
  EXPECT_EQ(status_of(request("DELETE /v1/stats")), 404);
  target_.stopping = true;
  EXPECT_EQ(status_of(request("GET /v1/stats")), 503);
}

TEST_F(ServerTest, RefusesBodiesThatAreNotExactlyAPort) {
  for (const char* body :
       {"", "null", "[]", "{", "{}", R"({"name": "x"})", R"({"spec": "null:"})",
        R"({"name": 5, "spec": "null:"})", R"({"name": "x", "spec": ["null:"]})",
        R"({"name": "x", "spec": "null:", "more": 1})", R"({"name": "", "spec": "null:"})",
        R"({"name": "a=b", "spec": "null:"})", R"({"name": "a/b", "spec": "null:"})",
        R"({"name": "x", "spec": ""})", R"({"name": "x", "spec": "null:,=1"})",
        "{\"name\": \"x\xff\", \"spec\": \"null:\"}"}) {
    const std::string answer = request("POST /v1/ports", body);
    EXPECT_EQ(status_of(answer), 400) << body << answer;
    EXPECT_TRUE(body_of(answer)["error"].is_string()) << body;
  }
  EXPECT_TRUE(target_.changes.empty());
}

TEST_F(ServerTest, BoundsTheSizeOfRequests) {
  const std::string huge(100'000, ' ');
  const int by_length = status_of(request("POST /v1/ports", huge));
  EXPECT_TRUE(by_length == 413 || by_length == 400) << by_length;
  const int by_chunks = status_of(
      raw("POST /v1/ports HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked"
          "\r\n\r\n186A0\r\n" +
          huge + "\r\n0\r\n\r\n"));
  EXPECT_TRUE(by_chunks == 413 || by_chunks == 400) << by_chunks;
  EXPECT_EQ(status_of(request("GET /" + std::string(20'000, 'a'))), 414);
  EXPECT_EQ(
      status_of(raw("POST /v1/ports HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: "
                    "multipart/form-data; boundary=b\r\nContent-Length: 5\r\n\r\nhello")),
      400);
  EXPECT_EQ(status_of(request("GET /v1/stats")), 200) << "and goes on";
}

TEST_F(ServerTest, SurvivesNonsense) {
  for (const std::string& bytes :
       {std::string("\r\n\r\n"), std::string("GET\r\n\r\n"), std::string(5000, '\0'),
        std::string("GET /v1/stats HTTP/9.9\r\n\r\n"), std::string(70'000, 'A'),
        std::string(
            "POST /v1/ports HTTP/1.1\r\nContent-Length: -5\r\nConnection: close\r\n\r\n")}) {
    const int status = status_of(raw(bytes));
    EXPECT_TRUE(status == 0 || (status >= 400 && status < 600)) << status;
  }
  EXPECT_EQ(status_of(request("GET /v1/stats")), 200);
}

TEST_F(ServerTest, SocketHasTheModeThatWasAskedFor) {
  const mode_t mask = umask(0);
  struct stat st{};
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  start(0660);
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0660u);
  umask(mask);
}

TEST_F(ServerTest, DoesNotTakeAPathThatIsInUse) {
  const auto second = Server::bind(path_, 0600, target_, Log());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(status_of(request("GET /v1/stats")), 200) << "the first one goes on";
}

TEST_F(ServerTest, RefusesPathsThatAreTooLong) {
  const auto bound = Server::bind("/tmp/" + std::string(200, 'x'), 0600, target_, Log());
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(ServerTest, MayBeDestroyedBeforeItAnswers) {
  auto other = Server::bind(path_ + "2", 0600, target_, Log());
  ASSERT_TRUE(other);
  other->reset();
  EXPECT_NE(access((path_ + "2").c_str(), F_OK), 0);
}

TEST_F(ServerTest, ManyClientsAtOnce) {
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([this] {
      for (int k = 0; k < 5; ++k) {
        const auto stats = Client(path_).stats();
        EXPECT_TRUE(stats) << stats.error().what;
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(ServerTest, ClientSeesWhatTheTargetSays) {
  const Client client(path_);
  const auto stats = client.stats();
  ASSERT_TRUE(stats) << stats.error().what;
  EXPECT_EQ(stats->ports[0].name, "v0");
  const auto rows = client.fdb();
  ASSERT_TRUE(rows);
  EXPECT_EQ((*rows)[0].port, "v0");
  EXPECT_TRUE(client.add_port("x", "ring:a"));
  EXPECT_TRUE(client.remove_port("x"));
  const Status taken = client.add_port("v0", "null:");
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(taken.error().what, "there is a port v0 already");
  EXPECT_FALSE(client.remove_port("../stats"));
  EXPECT_TRUE(client.hand_over("/tmp/new", 1));
  EXPECT_EQ(target_.changes.back(), "hand over to /tmp/new");
  const Status other = client.hand_over("/tmp/new", 2);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::kUnsupported);
}

TEST(Client, SaysWhatToDoWhenNobodyAnswers) {
  const auto nobody = Client("/tmp/pollux-no-such-socket").stats();
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, ErrorCode::kNotFound);
  EXPECT_NE(nobody.error().what.find("--control"), std::string::npos);
  const auto too_long = Client("/tmp/" + std::string(200, 'x')).stats();
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace pollux::control
