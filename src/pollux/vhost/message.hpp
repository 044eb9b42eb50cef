// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/spec/vhost_user.hpp"

namespace pollux::vhost {

/// The largest payload of any message in the text; more is not read.
inline constexpr uint32_t kMaxPayload = sizeof(spec::VhostUserShMemConfig);

/// One vhost-user message with the descriptors that came or go with it. Owns them: what a handler
/// does not take is closed with the message. Move-only.
struct Message {
  uint32_t request = 0;
  uint32_t flags = spec::VHOST_USER_VERSION;
  std::vector<std::byte> payload;
  std::vector<UniqueFd> fds;

  [[nodiscard]] bool is_reply() const { return (flags & spec::VHOST_USER_REPLY_MASK) != 0; }
  [[nodiscard]] bool needs_reply() const { return (flags & spec::VHOST_USER_NEED_REPLY_MASK) != 0; }

  /// The payload's bytes from `offset` on as a wire structure; nullopt when it is too short.
  template <typename T>
  [[nodiscard]] std::optional<T> get(size_t offset = 0) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (offset > payload.size() || payload.size() - offset < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, payload.data() + offset, sizeof(T));
    return value;
  }

  /// Appends a wire structure to the payload.
  template <typename T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    payload.insert(payload.end(), bytes, bytes + sizeof(T));
  }
};

/// A request with nothing in it.
[[nodiscard]] inline Message make_request(uint32_t request) {
  Message message;
  message.request = request;
  return message;
}

/// A request with one structure as payload.
template <typename T>
[[nodiscard]] Message make_request(uint32_t request, const T& payload) {
  Message message = make_request(request);
  message.put(payload);
  return message;
}

/// The answer to `request` with one structure as payload.
template <typename T>
[[nodiscard]] Message make_reply(uint32_t request, const T& payload) {
  Message message = make_request(request, payload);
  message.flags |= spec::VHOST_USER_REPLY_MASK;
  return message;
}

}  // namespace pollux::vhost
