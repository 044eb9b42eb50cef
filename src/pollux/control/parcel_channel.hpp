// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include <nlohmann/json.hpp>

#include "pollux/base/clock.hpp"
#include "pollux/base/fd.hpp"
#include "pollux/base/fd_parcel.hpp"
#include "pollux/base/result.hpp"

namespace pollux::control {

/// One step of a hand-over, in the order in which they come. From the running switch unless said
/// otherwise.
enum class HandOverStep : uint32_t {
  kOffer = 1,  ///< what the switch is made of; it goes on working meanwhile
  kReady = 2,  ///< from the new one: everything that can be made before is made
  kState = 3,  ///< the switch is at rest, and this is all that it was
  kTaken = 4,  ///< from the new one: everything is in place, it is the switch from here on
  kAbort = 5,  ///< from the running one, which goes on
};

struct HandOverMessage {
  HandOverStep step{};
  nlohmann::json values;
  FdParcel fds;
};

/// Messages between the two processes of a hand-over, over a connected Unix stream socket: a
/// header, descriptors in batches of 253 (what Linux passes at once), and the values as CBOR.
/// Both ends are the same user's, and trust each other. One thread; each call waits, up to its
/// deadline.
class ParcelChannel {
 public:
  /// Version of everything that is said over such channels.
  static constexpr uint32_t kVersion = 2;

  /// Takes a connected stream socket (made non-blocking). `clock` outlives the channel.
  ParcelChannel(UniqueFd socket, const Clock& clock) : socket_(std::move(socket)), clock_(&clock) {}

  [[nodiscard]] int fd() const { return socket_.get(); }

  /// Errors: kDisconnected, kTimeout, the system's.
  [[nodiscard]] Status send(HandOverStep step, const nlohmann::json& values, const FdParcel& fds,
                            Nanos patience);
  [[nodiscard]] Status send(HandOverStep step, Nanos patience) {
    return send(step, nlohmann::json::object(), FdParcel(), patience);
  }

  /// Errors: those of send, kProtocol for what is no message, kResource when descriptors were lost
  /// because this process may not open more.
  [[nodiscard]] Result<HandOverMessage> receive(Nanos patience);

  /// The same, and an error when anything but `step` comes: the other side's own sentence if it is
  /// an abort.
  [[nodiscard]] Result<HandOverMessage> expect(HandOverStep step, Nanos patience);

  /// Nothing more can come: the other side's next send fails. What has come may still be received.
  void close_receiving() noexcept;

 private:
  struct Header {
    uint32_t magic;
    uint32_t step;
    uint64_t bytes;
    uint64_t fds;
  };

  [[nodiscard]] Status wait(short events, Nanos deadline) const;
  [[nodiscard]] Status send_bytes(const void* bytes, size_t size, std::span<const int> fds,
                                  Nanos deadline) const;
  [[nodiscard]] Status receive_bytes(void* to, size_t size, std::vector<UniqueFd>* fds,
                                     Nanos deadline) const;

  UniqueFd socket_;
  const Clock* clock_;
};

}  // namespace pollux::control
