// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/take_over.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include <nlohmann/json.hpp>

#include "pollux/control/client.hpp"
#include "pollux/control/config_parcel.hpp"
#include "pollux/control/parcel_channel.hpp"
#include "pollux/control/report.hpp"
#include "pollux/port/parcel.hpp"
#include "pollux/vhost/unix_socket.hpp"

namespace pollux::control {
namespace {

using std::chrono::seconds;

constexpr auto kAnswerPatience = seconds(5);
constexpr auto kStatePatience = seconds(10);

/// Runs `read` on what the other process sent; the JSON library's exceptions end here.
template <typename Read>
auto reading(Read read) -> decltype(read()) {
  try {
    return read();
  } catch (const nlohmann::json::exception& error) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the running switch's state can not be read ({}): is it of another "
                            "version?",
                            error.what()));
  }
}

Result<UniqueFd> wait_for_connection(const vhost::UnixListener& listener) {
  pollfd fd{listener.fd(), POLLIN, 0};
  const auto ms = std::chrono::milliseconds(kAnswerPatience).count();
  if (::poll(&fd, 1, static_cast<int>(ms)) <= 0) {
    return fail(ErrorCode::kTimeout, "the running switch agreed to hand over, but does not come");
  }
  return listener.accept();
}

}  // namespace

struct TakeOver::Impl {
  Impl(UniqueFd socket, const Clock& clock) : channel(std::move(socket), clock) {}

  ParcelChannel channel;
  pid_t from = 0;
  SwitchConfig config;
  std::vector<Seat> ports;
  HandOverMessage state;
  SwitchSnapshot snapshot;

  Status take_offer() {
    auto offer = channel.expect(HandOverStep::kOffer, kAnswerPatience);
    if (!offer) return forward(offer);
    return reading([&]() -> Status {
      if (const uint32_t version = offer->values.at("version");
          version != ParcelChannel::kVersion) {
        return fail(ErrorCode::kUnsupported,
                    fmt::format("the running switch hands over in version {}, this program takes "
                                "version {}",
                                version, ParcelChannel::kVersion));
      }
      from = offer->values.at("pid");
      auto unpacked = unpack_config(offer->values.at("config"));
      if (!unpacked) return forward(unpacked);
      config = std::move(unpacked->config);
      for (NumberedPort& port : unpacked->ports) {
        ports.push_back({port.index, std::move(port.port)});
      }
      return {};
    });
  }
};

Result<TakeOver> TakeOver::ask(const std::string& control_socket, const Clock& clock) {
  const std::string path = fmt::format("{}.{}", control_socket, ::getpid());
  auto listener = vhost::UnixListener::bind(path, 0600);
  if (!listener) return forward(listener);
  if (auto ok = Client(control_socket).hand_over(path, ParcelChannel::kVersion); !ok)
    return forward(ok);
  auto socket = wait_for_connection(*listener);
  if (!socket) return forward(socket);
  auto impl = std::make_unique<Impl>(std::move(*socket), clock);
  if (auto ok = impl->take_offer(); !ok) return forward(ok);
  return TakeOver(std::move(impl));
}

TakeOver::TakeOver(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TakeOver::~TakeOver() = default;
TakeOver::TakeOver(TakeOver&& other) noexcept = default;
TakeOver& TakeOver::operator=(TakeOver&& other) noexcept = default;

const SwitchConfig& TakeOver::config() const { return impl_->config; }
const std::vector<TakeOver::Seat>& TakeOver::ports() const { return impl_->ports; }
pid_t TakeOver::from() const { return impl_->from; }
const SwitchSnapshot& TakeOver::snapshot() const { return impl_->snapshot; }

Status TakeOver::take_state() {
  if (auto ok = impl_->channel.send(HandOverStep::kReady, kAnswerPatience); !ok) return ok;
  auto state = impl_->channel.expect(HandOverStep::kState, kStatePatience);
  if (!state) return forward(state);
  impl_->state = std::move(*state);
  return reading([&]() -> Status {
    auto snapshot =
        snapshot_from_json(impl_->state.values.at("snapshot").get_ref<const std::string&>());
    if (!snapshot) return forward(snapshot);
    impl_->snapshot = std::move(*snapshot);
    (void)impl_->state.values.at("paused_at").get<int64_t>();
    (void)impl_->state.values.at("addresses").get_binary();
    return {};
  });
}

Status TakeOver::adopt(const std::string& name, Port& port) {
  return reading([&]() -> Status {
    for (nlohmann::json& entry : impl_->state.values.at("ports")) {
      if (entry.at("name").get_ref<const std::string&>() != name) continue;
      PortParcel parcel{entry.at("state"), impl_->state.fds};
      return port.adopt(parcel);
    }
    return fail(ErrorCode::kProtocol, "the running switch did not hand it over: try again");
  });
}

std::vector<stage::FdbEntry> TakeOver::addresses() const {
  return unpack_addresses(impl_->state.values.at("addresses"));
}

Nanos TakeOver::paused_at() const {
  return Nanos(impl_->state.values.at("paused_at").get<int64_t>());
}

Status TakeOver::take() {
  ParcelChannel& channel = impl_->channel;
  auto said = channel.send(HandOverStep::kTaken, kAnswerPatience);
  if (said || said.error().code != ErrorCode::kDisconnected) return said;
  // One that took itself back says so; a connection that just ends is one whose process died.
  auto word = channel.expect(HandOverStep::kTaken, kAnswerPatience);
  if (!word && word.error().code == ErrorCode::kDisconnected) return {};
  return forward(word);
}

}  // namespace pollux::control
