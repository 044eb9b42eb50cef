// SPDX-License-Identifier: Apache-2.0
// What a network device carries to another host by itself (SET_DEVICE_STATE_FD). Next to nothing:
// features, rings and their indices are the front end's to carry, and tables of addresses belong to
// the switch, which learns them anew from the announcement.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "pollux/base/endian.hpp"
#include "pollux/ports/vhost_user/device.hpp"

namespace pollux::vhost_user {
namespace {

/// On the wire; later versions add at the end.
struct State {
  std::array<char, 8> magic;
  Le32 version;
  Le16 mtu;  // NET_SET_MTU; 0: none
  Le16 reserved;
};
static_assert(sizeof(State) == 16);

constexpr std::array<char, 8> kMagic{'p', 'o', 'l', 'l', 'u', 'x', '-', 'n'};
constexpr uint32_t kVersion = 1;

}  // namespace

Result<std::vector<std::byte>> NetDevice::save_state() {
  State state{};
  state.magic = kMagic;
  state.version.set(kVersion);
  state.mtu.set(mtu_);
  std::vector<std::byte> bytes(sizeof(state));
  std::memcpy(bytes.data(), &state, sizeof(state));
  return bytes;
}

Status NetDevice::load_state(std::span<const std::byte> bytes) {
  State state{};
  if (bytes.size() >= sizeof(state)) std::memcpy(&state, bytes.data(), sizeof(state));
  if (state.magic != kMagic) {
    return fail(ErrorCode::kInvalidArgument, "this is not the state of a network device of Pollux");
  }
  if (state.version.value() != kVersion || bytes.size() != sizeof(state)) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the state is of version {}, only {} is known here: update this side",
                            state.version.value(), kVersion));
  }
  const uint16_t mtu = state.mtu.value();
  return mtu == 0 ? Status() : set_mtu(mtu);
}

}  // namespace pollux::vhost_user
