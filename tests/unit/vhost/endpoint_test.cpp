// SPDX-License-Identifier: Apache-2.0
// Both ends over real sockets: listening, connecting, coming and going.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <thread>

#include "pollux/vhost/frontend.hpp"
#include "pollux/vhost/listener.hpp"
#include "pollux/vhost/path_watch.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using namespace spec;
using std::chrono::seconds;
using test::kRingSize;
using test::kSize;
using test::make_event;
using test::make_memory;
using test::open_fds;
using test::RecordingDevice;

/// A directory that goes with its test.
struct Directory {
  std::string path;
  Directory() {
    char name[] = "/tmp/pollux-test-XXXXXX";
    path = mkdtemp(name);
  }
  ~Directory() { std::filesystem::remove_all(path); }
  [[nodiscard]] std::string file(const std::string& name) const { return path + "/" + name; }
};

TEST(UnixListener, RefusesPathsThatCanNotBe) {
  const auto too_long = UnixListener::bind("/tmp/" + std::string(103, 'x'));
  ASSERT_FALSE(too_long);
  EXPECT_NE(too_long.error().what.find("108 bytes and the system takes 107"), std::string::npos)
      << too_long.error().what;
  EXPECT_FALSE(UnixListener::bind(""));
  const auto no_directory = UnixListener::bind("/tmp/pollux-no-such-directory/v0.sock");
  ASSERT_FALSE(no_directory);
  EXPECT_EQ(no_directory.error().code, ErrorCode::kNotFound);
  EXPECT_NE(no_directory.error().what.find("create it"), std::string::npos);
}

TEST(UnixListener, LongestPathWorks) {
  const Directory directory;
  const std::string path = directory.file(std::string(106 - directory.path.size(), 'x'));
  ASSERT_EQ(path.size(), 107U);
  EXPECT_TRUE(UnixListener::bind(path));
}

TEST(UnixListener, LeavesOtherFilesAlone) {
  const Directory directory;
  const std::string path = directory.file("precious");
  UniqueFd(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  const auto refused = UnixListener::bind(path);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST(UnixListener, ReplacesAStaleSocketOnly) {
  const Directory directory;
  const std::string path = directory.file("v0.sock");
  {
    const UniqueFd left_behind(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(bind(left_behind.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(path));
  auto first = UnixListener::bind(path);
  ASSERT_TRUE(first) << first.error().what;
  const auto second = UnixListener::bind(path);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  EXPECT_TRUE(connect_unix(path)) << "the first still listens";
}

TEST(UnixListener, RemovesItsOwnSocketOnly) {
  const Directory directory;
  const std::string path = directory.file("v0.sock");
  {
    auto mine = UnixListener::bind(path);
    ASSERT_TRUE(mine);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  auto mine = UnixListener::bind(path);
  std::filesystem::remove(path);
  auto somebody_elses = UnixListener::bind(path);
  ASSERT_TRUE(somebody_elses);
  mine = fail(ErrorCode::kSystem, "gone");
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST(UnixListener, GivesTheSocketFileItsMode) {
  const Directory directory;
  const std::string path = directory.file("v0.sock");
  auto listener = UnixListener::bind(path, 0600);
  ASSERT_TRUE(listener);
  struct stat st{};
  ASSERT_EQ(lstat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777U, 0600U);
}

TEST(ConnectUnix, SaysWhyNot) {
  EXPECT_EQ(connect_unix("/tmp/pollux-nobody.sock").error().code, ErrorCode::kNotFound);
  const Directory directory;
  auto listener = UnixListener::bind(directory.file("v0.sock"));
  const UniqueFd fd(dup(listener->fd()));
  ASSERT_EQ(shutdown(fd.get(), SHUT_RD), 0);
  EXPECT_EQ(connect_unix(directory.file("v0.sock")).error().code, ErrorCode::kDisconnected);
}

TEST(PeerCredentials, NameThisProcess) {
  const auto [one, other] = test::make_pair();
  const auto peer = peer_credentials(one.get());
  EXPECT_EQ(peer.pid, getpid());
  EXPECT_NE(peer.describe().find("pid "), std::string::npos);
}

TEST(Backoff, DoublesUpToAnEighthOfASecond) {
  Backoff backoff;
  EXPECT_EQ(backoff.next(), std::chrono::milliseconds(1));
  EXPECT_EQ(backoff.next(), std::chrono::milliseconds(2));
  for (int i = 0; i < 10; ++i) (void)backoff.next();
  EXPECT_EQ(backoff.next(), std::chrono::milliseconds(128));
  backoff.reset();
  EXPECT_EQ(backoff.next(), std::chrono::milliseconds(1));
}

TEST(PathWatch, TellsOfItsPathOnly) {
  const Directory directory;
  PathWatch watch(directory.file("v0.sock"));
  ASSERT_GE(watch.fd(), 0);
  EXPECT_FALSE(watch.take());
  const auto other = UnixListener::bind(directory.file("v1.sock"));
  EXPECT_FALSE(watch.take());
  const auto mine = UnixListener::bind(directory.file("v0.sock"));
  EXPECT_TRUE(watch.take());
  EXPECT_FALSE(watch.take()) << "once";
}

TEST(PathWatch, WaitsForItsDirectory) {
  const Directory directory;
  PathWatch watch(directory.file("later/v0.sock"));
  EXPECT_EQ(watch.fd(), -1);
  std::filesystem::create_directory(directory.file("later"));
  watch.renew();
  EXPECT_GE(watch.fd(), 0);
  std::filesystem::remove(directory.file("later"));
  EXPECT_TRUE(watch.take());
  EXPECT_EQ(watch.fd(), -1);
}

// Both find a socket that nobody answers on. Without a lock one of them takes away what the other
// has just bound and not come to listen on.
TEST(UnixListener, OfManyThatStartAtOnceOneListens) {
  const Directory directory;
  const std::string path = directory.file("v0.sock");
  for (int round = 0; round < 100; ++round) {
    {
      const UniqueFd left_behind(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      path.copy(address.sun_path, sizeof(address.sun_path) - 1);
      ASSERT_EQ(bind(left_behind.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    }
    constexpr size_t kStarters = 4;
    std::array<std::optional<UnixListener>, kStarters> listeners;
    std::atomic<size_t> ready{0};
    std::vector<std::thread> threads;
    for (auto& listener : listeners) {
      threads.emplace_back([&] {
        ++ready;
        while (ready != kStarters) std::this_thread::yield();
        auto made = UnixListener::bind(path);
        if (made) {
          listener = std::move(*made);
        } else {
          EXPECT_EQ(made.error().code, ErrorCode::kAlreadyExists) << made.error().what;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(
        std::count_if(listeners.begin(), listeners.end(), [](auto& l) { return l.has_value(); }),
        1);
    EXPECT_TRUE(connect_unix(path)) << "round " << round;
  }
}

/// A back end whose loop runs on a thread of its own; the device is looked at on that thread.
struct BackEnd {
  explicit BackEnd(const std::string& path,
                   BackendEndpoint::Mode mode = BackendEndpoint::Mode::kServer) {
    endpoint = std::move(*BackendEndpoint::start(*loop, path, mode, device, Log(sink)));
    thread = std::thread([this] { EXPECT_TRUE(loop->run()); });
  }
  ~BackEnd() {
    loop->stop();
    thread.join();
  }
  template <typename Look>
  auto look(Look what) {
    decltype(what()) result{};
    loop->call([&] { result = what(); });
    return result;
  }
  template <typename Condition>
  void wait_until(Condition condition) {
    while (!look(condition)) std::this_thread::yield();
  }
  bool logged(const std::string& text) {
    const std::lock_guard lock(mutex);
    return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.find(text) != std::string::npos;
    });
  }

  std::mutex mutex;
  std::vector<std::string> lines;  // under mutex
  Log::Sink sink = [this](LogLevel, std::string_view text) {
    const std::lock_guard lock(mutex);
    lines.emplace_back(text);
  };
  RecordingDevice device;
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<BackendEndpoint> endpoint;
  std::thread thread;
};

struct Ends : testing::Test {
  const size_t fds_before = open_fds();
  Directory directory;
  std::string path = directory.file("v0.sock");
  SteadyClock clock;
  FrontendOptions options{.clock = &clock, .timeout = seconds(20)};

  /// Everything that a driver does up to traffic.
  static void bring_up(Frontend& frontend, int memory) {
    ASSERT_TRUE(frontend.set_owner());
    auto features = frontend.get_features();
    ASSERT_TRUE(features);
    auto protocol = frontend.get_protocol_features();
    ASSERT_TRUE(protocol);
    ASSERT_TRUE(frontend.set_protocol_features(*protocol));
    ASSERT_TRUE(frontend.set_features(*features));
    const auto at = test::region_at(0);
    const SharedMemoryRegion region{GuestAddr{at.guest_phys_addr}, at.memory_size,
                                    UserAddr{at.userspace_addr}, 0, memory};
    ASSERT_TRUE(frontend.share_memory({&region, 1}));
    for (uint16_t i = 0; i < 2; ++i) {
      const auto ring = test::ring_at(i);
      const UniqueFd event = make_event();
      ASSERT_TRUE(frontend.set_vring_num(i, kRingSize));
      ASSERT_TRUE(frontend.set_vring_base(i, 0));
      ASSERT_TRUE(frontend.set_vring_addr(i, {.desc = UserAddr{ring.desc_user_addr},
                                              .used = UserAddr{ring.used_user_addr},
                                              .avail = UserAddr{ring.avail_user_addr}}));
      ASSERT_TRUE(frontend.set_vring_call(i, event.get()));
      ASSERT_TRUE(frontend.set_vring_kick(i, event.get()));
      ASSERT_TRUE(frontend.set_vring_enable(i, true));
    }
  }
};

TEST_F(Ends, ADriverComesGoesAndComesAgain) {
  {
    BackEnd back_end(path);
    const UniqueFd memory = make_memory(kSize);
    for (int round = 0; round < 50; ++round) {
      {
        auto frontend = Frontend::connect(path, options);
        ASSERT_TRUE(frontend) << frontend.error().what;
        ASSERT_NO_FATAL_FAILURE(bring_up(*frontend, memory.get()));
        EXPECT_EQ(back_end.look([&] { return back_end.device.running.size(); }), 2U);
        EXPECT_EQ(frontend->get_vring_base(1), 0U);
        EXPECT_EQ(back_end.look([&] { return back_end.device.running.size(); }), 1U);
      }
      back_end.wait_until([&] { return back_end.endpoint->connection() == nullptr; });
      EXPECT_TRUE(back_end.look([&] { return back_end.device.running.empty(); }));
    }
    EXPECT_EQ(test::mappings_of("peer-memory"), 0U);
    EXPECT_EQ(back_end.look([&] { return back_end.endpoint->attached(); }), 50U);
  }
  EXPECT_EQ(open_fds(), fds_before);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(Ends, ASecondDriverIsTurnedAway) {
  BackEnd back_end(path);
  auto first = Frontend::connect(path, options);
  ASSERT_TRUE(first->get_features());
  auto second = Frontend::connect(path, options);
  ASSERT_TRUE(second);
  auto refused = second->get_features();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kDisconnected);
  EXPECT_TRUE(back_end.logged("turned"));
  EXPECT_TRUE(first->get_features()) << "the first is not disturbed";
}

TEST_F(Ends, ADriverMayComeBackAtOnce) {
  BackEnd back_end(path);
  for (int round = 0; round < 200; ++round) {
    auto frontend = Frontend::connect(path, options);
    ASSERT_TRUE(frontend);
    ASSERT_TRUE(frontend->get_features()) << "round " << round;
  }
}

TEST_F(Ends, ManyRegionsAreSharedOneByOne) {
  for (const uint64_t count : {9, 32, 509}) {
    BackEnd back_end(path);
    auto frontend = Frontend::connect(path, options);
    ASSERT_TRUE(frontend->set_protocol_features(*frontend->get_protocol_features()));
    const UniqueFd memory = make_memory(kSize);
    std::vector<SharedMemoryRegion> regions;
    for (uint64_t i = 0; i < count; ++i) {
      const auto at = test::region_at(i);
      regions.push_back(
          {GuestAddr{at.guest_phys_addr}, kSize, UserAddr{at.userspace_addr}, 0, memory.get()});
    }
    ASSERT_TRUE(frontend->share_memory(regions)) << count;
    EXPECT_EQ(back_end.look([&] {
      return back_end.endpoint->connection()->session().memory()->regions().size();
    }),
              count);
    regions.resize(510, regions[0]);
    EXPECT_FALSE(frontend->share_memory(regions));
  }
}

TEST_F(Ends, ARefusalReachesTheDriver) {
  BackEnd back_end(path);
  auto frontend = Frontend::connect(path, options);
  ASSERT_TRUE(frontend->set_protocol_features(VHOST_USER_PROTOCOL_F_REPLY_ACK));
  const auto refused = frontend->set_vring_num(0, 3);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().what, "the back end refused SET_VRING_NUM");
  EXPECT_TRUE(frontend->get_features()) << "and the connection goes on";
}

TEST_F(Ends, WithoutAcknowledgementARefusalHangsUp) {
  BackEnd back_end(path);
  auto frontend = Frontend::connect(path, options);
  ASSERT_TRUE(frontend->set_vring_num(0, 3));
  EXPECT_EQ(frontend->wait_for_hang_up(seconds(20)).error().code, ErrorCode::kDisconnected);
  back_end.wait_until([&] { return back_end.logged("SET_VRING_NUM: 3 is not a ring size"); });
}

TEST_F(Ends, TheBackEndMayDisconnect) {
  BackEnd back_end(path);
  auto frontend = Frontend::connect(path, options);
  ASSERT_TRUE(frontend->get_features());
  back_end.loop->call([&] { back_end.endpoint->disconnect("its memory went away"); });
  EXPECT_FALSE(frontend->wait_for_hang_up(seconds(20)));
  EXPECT_TRUE(back_end.logged("its memory went away"));
  auto again = Frontend::connect(path, options);
  EXPECT_TRUE(again->get_features());
}

TEST_F(Ends, AClientConnectsWheneverSomebodyListens) {
  BackEnd back_end(path, BackendEndpoint::Mode::kClient);
  back_end.wait_until([&] { return back_end.logged("trying again until it answers"); });
  for (int round = 0; round < 3; ++round) {
    auto listener = UnixListener::bind(path);
    ASSERT_TRUE(listener);
    auto frontend = Frontend::accept(*listener, options);
    ASSERT_TRUE(frontend) << frontend.error().what;
    EXPECT_TRUE(frontend->get_features());
  }
}

struct Heard : BackendRequestHandler {
  std::vector<std::string> told;
  Status config_changed() override { return told.emplace_back("config"), Status(); }
  Status vring_call(uint32_t index) override {
    return told.push_back("call " + std::to_string(index)), Status();
  }
  Status vring_err(uint32_t index) override {
    return told.push_back("err " + std::to_string(index)), Status();
  }
};

TEST_F(Ends, NotificationsGoInBandBothWays) {
  Heard heard;
  BackEnd back_end(path);
  auto frontend = Frontend::connect(path, options);
  ASSERT_TRUE(frontend->set_protocol_features(*frontend->get_protocol_features()));
  ASSERT_TRUE(frontend->open_channel(heard));
  ASSERT_TRUE(frontend->set_features(*frontend->get_features()));
  const UniqueFd memory = make_memory(kSize);
  const auto at = test::region_at(0);
  const SharedMemoryRegion region{GuestAddr{at.guest_phys_addr}, at.memory_size,
                                  UserAddr{at.userspace_addr}, 0, memory.get()};
  ASSERT_TRUE(frontend->share_memory({&region, 1}));
  const auto ring = test::ring_at(1);
  ASSERT_TRUE(frontend->set_vring_num(1, kRingSize));
  ASSERT_TRUE(frontend->set_vring_addr(1, {.desc = UserAddr{ring.desc_user_addr},
                                           .used = UserAddr{ring.used_user_addr},
                                           .avail = UserAddr{ring.avail_user_addr}}));
  ASSERT_TRUE(frontend->set_vring_enable(1, true));
  EXPECT_TRUE(back_end.look([&] { return back_end.device.running.empty(); }));
  ASSERT_TRUE(frontend->vring_kick(1)) << "starts the ring as a descriptor would";
  ASSERT_TRUE(back_end.look([&] { return back_end.device.running.contains(1); }));
  EXPECT_EQ(back_end.look([&] { return back_end.device.calls.back(); }), "kick 1");
  const auto controls = back_end.look([&] { return back_end.device.running[1].controls; });
  ASSERT_TRUE(controls.call);
  ASSERT_TRUE(controls.err);
  const auto hear = [&](const std::string& what) {
    while (heard.told.empty() || heard.told.back() != what) {
      ASSERT_TRUE(frontend->wait_for_hang_up(std::chrono::milliseconds(1)));
    }
  };
  for (int i = 0; i < 3; ++i) {
    heard.told.clear();
    ASSERT_EQ(eventfd_write(controls.call->get(), 1), 0);
    hear("call 1");
    ASSERT_EQ(eventfd_write(controls.err->get(), 1), 0);
    hear("err 1");
    EXPECT_EQ(heard.told, (std::vector<std::string>{"call 1", "err 1"}));
  }
  // A descriptor is preferred, and one that says there is none means polling.
  const UniqueFd event = make_event();
  ASSERT_TRUE(frontend->set_vring_call(1, event.get()));
  ASSERT_TRUE(
      back_end.look([&] { return back_end.device.running[1].controls.call != controls.call; }));
  ASSERT_TRUE(frontend->set_vring_call(1, -1));
  EXPECT_FALSE(back_end.look([&] { return back_end.device.running[1].controls.call; }));
}

TEST_F(Ends, AChangedConfigurationIsTold) {
  Heard heard;
  BackEnd back_end(path);
  auto frontend = Frontend::connect(path, options);
  ASSERT_TRUE(frontend->set_protocol_features(*frontend->get_protocol_features()));
  ASSERT_TRUE(frontend->open_channel(heard));
  back_end.loop->call([&] {
    const_cast<BackendConnection*>(back_end.endpoint->connection())->config_changed().value();
  });
  while (heard.told.empty()) ASSERT_TRUE(frontend->wait_for_hang_up(std::chrono::milliseconds(1)));
  EXPECT_EQ(heard.told.front(), "config");
  EXPECT_TRUE(frontend->get_features());
}

TEST_F(Ends, AStateOfAnySizeMovesFromDeviceToDevice) {
  BackEnd from(path);
  BackEnd to(directory.file("v1.sock"));
  from.device.state.resize(1'000'000);
  for (size_t i = 0; i < from.device.state.size(); ++i) {
    from.device.state[i] = static_cast<std::byte>(i * 7919 >> 8);
  }
  to.device.state.resize(1'000'000);
  auto source = Frontend::connect(path, options);
  auto destination = Frontend::connect(directory.file("v1.sock"), options);
  ASSERT_TRUE(source->set_protocol_features(*source->get_protocol_features()));
  ASSERT_TRUE(destination->set_protocol_features(*destination->get_protocol_features()));
  const auto state = source->save_device_state();
  ASSERT_TRUE(state) << state.error().what;
  const auto loaded = destination->load_device_state(*state);
  ASSERT_TRUE(loaded) << loaded.error().what;
  EXPECT_TRUE(to.look([&] { return to.device.state == from.device.state; }));
  to.device.state.resize(3);
  EXPECT_FALSE(destination->load_device_state(*state)) << "the device does not want it";
}

TEST_F(Ends, WaitingEndsByDeadlineOrByWord) {
  const auto listener = UnixListener::bind(path);
  const UniqueFd stop = make_event();
  options.timeout = Nanos(1);
  auto frontend = Frontend::connect(path, options);
  ASSERT_TRUE(frontend);
  EXPECT_EQ(frontend->get_features().error().code, ErrorCode::kTimeout) << "nobody answers";
  EXPECT_TRUE(frontend->wait_for_hang_up(Nanos(1)));
  options.timeout = seconds(20);
  options.stop_fd = stop.get();
  auto told = Frontend::connect(path, options);
  ASSERT_EQ(eventfd_write(stop.get(), 1), 0);
  EXPECT_EQ(told->get_features().error().code, ErrorCode::kDisconnected);
  EXPECT_EQ(told->wait_for_hang_up(seconds(20)).error().code, ErrorCode::kDisconnected);
}

TEST_F(Ends, ADriverThatReadsNoRepliesIsNotReadFrom) {
  BackEnd back_end(path);
  auto socket = connect_unix(path);
  ASSERT_TRUE(socket);
  const auto question = test::hex("01 00 00 00  01 00 00 00  00 00 00 00");
  size_t asked = 0;
  // Until both directions are full and stay so: the back end neither reads nor piles up replies.
  for (int idle = 0; idle < 50;) {
    if (test::send_raw(socket->get(), question)) {
      ++asked;
      idle = 0;
    } else {
      ++idle;
      (void)back_end.look([] { return 0; });
    }
    ASSERT_LT(asked, 100'000U) << "replies pile up somewhere";
  }
  size_t answered = 0;
  while (answered < asked) answered += test::receive_raw(socket->get()).bytes.size() / 20;
  EXPECT_EQ(answered, asked);
}

}  // namespace
}  // namespace pollux::vhost
