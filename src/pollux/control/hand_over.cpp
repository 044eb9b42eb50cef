// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/hand_over.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include <nlohmann/json.hpp>

#include "pollux/control/report.hpp"
#include "pollux/port/parcel.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::control {
namespace {

using std::chrono::seconds;

constexpr auto kOfferPatience = seconds(2);
/// For the other process to make its memory, which may be much.
constexpr auto kReadyPatience = seconds(60);
/// While the workers rest.
constexpr auto kStepPatience = seconds(5);

}  // namespace

Status HandOver::begin(const std::string& socket, uint32_t version) {
  if (version != ParcelChannel::kVersion) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("this switch hands over in version {} of the hand-over, and version {} "
                            "was asked for: use a program of a version between the two",
                            ParcelChannel::kVersion, version));
  }
  if (channel_) return fail(ErrorCode::kAlreadyExists, "a hand-over is on its way already");
  if (auto ok = check_ports(); !ok) return ok;
  auto connected = vhost::connect_unix(socket);
  if (!connected) return forward(connected);
  if (auto ok = check_peer(connected->get()); !ok) return ok;
  auto channel = std::make_unique<ParcelChannel>(std::move(*connected), self_.clock);
  const nlohmann::json offer{{"version", ParcelChannel::kVersion},
                             {"pid", ::getpid()},
                             {"config", pack_config(self_.config, ports())}};
  if (auto ok = channel->send(HandOverStep::kOffer, offer, FdParcel(), kOfferPatience); !ok)
    return ok;
  auto answer = self_.loop.watch_fd(channel->fd(), EPOLLIN, [this](uint32_t) { on_answer(); });
  if (!answer) return forward(answer);
  auto deadline = self_.loop.after(kReadyPatience, [this] {
    self_.log.warn("hand-over: the new process was not ready in time; going on");
    end();
  });
  if (!deadline) return forward(deadline);
  channel_ = std::move(channel);
  answer_ = std::move(*answer);
  deadline_ = std::move(*deadline);
  self_.log.info("hand-over: another process prepares to take over");
  return {};
}

Status HandOver::check_ports() const {
  Status ok;
  self_.engine.for_each_port([&](PortIndex, const std::string& name, Port& port) {
    if (!ok) return;
    if (auto can = port.can_hand_over(); !can) {
      ok = fail(can.error().code, fmt::format("port {}: {}", name, can.error().what));
    }
  });
  return ok;
}

/// Guests' memory goes to nobody but ourselves and root, whoever may use the control socket.
Status HandOver::check_peer(int socket) const {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return fail_errno(errno, "can not tell who wants to take over");
  }
  if (credentials.uid == ::geteuid() || credentials.uid == 0) return {};
  return fail(ErrorCode::kPermission,
              fmt::format("only user {}, whose this switch is, may take it over", ::geteuid()));
}

std::vector<NumberedPort> HandOver::ports() const {
  std::vector<NumberedPort> list;
  self_.engine.for_each_port([&](PortIndex index, const std::string& name, Port&) {
    list.push_back({index, {name, self_.specs.at(name)}});
  });
  return list;
}

/// The other process is ready, or has gone.
void HandOver::on_answer() {
  deadline_.reset();
  answer_.reset();
  if (auto ready = channel_->expect(HandOverStep::kReady, kOfferPatience); !ready) {
    self_.log.warn(fmt::format("hand-over: {}; going on", ready.error().what));
    return end();
  }
  // Ports may have been added meanwhile.
  if (auto ok = check_ports(); !ok) {
    (void)channel_->send(HandOverStep::kAbort, {{"error", ok.error().what}}, FdParcel(),
                         kOfferPatience);
    return end();
  }
  give(self_.clock.now());
}

void HandOver::give(Nanos paused_at) {
  self_.engine.pause();
  if (auto ok = hand(paused_at); !ok) return take_back(ok.error());
  self_.engine.for_each_port([](PortIndex, const std::string&, Port& port) { port.release(); });
  self_.log.info("hand-over: another process is the switch now");
  end();
  self_.handed_over();
}

Status HandOver::hand(Nanos paused_at) {
  FdParcel fds;
  nlohmann::json list = nlohmann::json::array();
  Status ok;
  self_.engine.for_each_port([&](PortIndex index, const std::string& name, Port& port) {
    if (!ok) return;
    nlohmann::json values = nlohmann::json::object();
    PortParcel parcel{values, fds};
    ok = port.save(parcel);
    list.push_back({{"index", index}, {"name", name}, {"state", std::move(values)}});
  });
  if (!ok) return ok;
  const nlohmann::json state{{"ports", std::move(list)},
                             {"snapshot", to_json(self_.snapshot())},
                             {"addresses", pack_addresses(self_.engine.fdb().snapshot())},
                             {"paused_at", paused_at.count()}};
  ok = channel_->send(HandOverStep::kState, state, fds, kStepPatience);
  if (!ok) return ok;
  return wait_until_taken();
}

Status HandOver::wait_until_taken() {
  auto taken = channel_->expect(HandOverStep::kTaken, kStepPatience);
  if (!taken && taken.error().code == ErrorCode::kTimeout) {
    // One of the two must be the switch, and both must know which: what is not here now can not
    // come any more.
    channel_->close_receiving();
    if (channel_->expect(HandOverStep::kTaken, Nanos::zero())) return {};
  }
  if (!taken) return forward(taken);
  return {};
}

void HandOver::take_back(const Error& error) {
  (void)channel_->send(HandOverStep::kAbort, {{"error", error.what}}, FdParcel(), kOfferPatience);
  self_.engine.for_each_port([](PortIndex, const std::string&, Port& port) { port.resume(); });
  if (auto ok = self_.engine.start(); !ok) self_.log.error(ok.error().what);
  self_.log.warn(fmt::format("hand-over: {}; going on", error.what));
  end();
}

void HandOver::end() {
  deadline_.reset();
  answer_.reset();
  channel_.reset();
}

}  // namespace pollux::control
