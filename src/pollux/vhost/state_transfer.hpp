// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux::vhost {

/// A device's state on its way through a channel that the front end opened; text: "Migrating
/// back-end state". Goes as far as the channel takes it or has it, and never waits. Move-only; one
/// thread.
class StateTransfer {
 public:
  /// The largest state taken from a front end, in bytes.
  static constexpr size_t kMaxState = size_t{1} << 20;

  /// Sends `state`, then closes the channel. kProtocol when `channel` is neither a pipe nor a
  /// stream socket open in this direction.
  [[nodiscard]] static Result<StateTransfer> save(UniqueFd channel, std::vector<std::byte> state);
  /// Receives a state up to the end of the file. Errors as for save.
  [[nodiscard]] static Result<StateTransfer> load(UniqueFd channel);

  /// Transfers what can be transferred now. True once it is over, one way or the other.
  bool advance();

  [[nodiscard]] bool over() const { return over_; }
  [[nodiscard]] bool saving() const { return saving_; }
  /// Whether all of it went through; meaningful once it is over.
  [[nodiscard]] const Status& outcome() const { return outcome_; }
  /// What was received, or is being sent.
  [[nodiscard]] std::span<const std::byte> state() const { return state_; }

  /// To wait on until advance() is worth a call; -1 once it is over.
  [[nodiscard]] int fd() const { return channel_.get(); }
  /// EPOLLIN or EPOLLOUT.
  [[nodiscard]] uint32_t events() const;

 private:
  StateTransfer(UniqueFd channel, bool is_socket, bool saving)
      : channel_(std::move(channel)), is_socket_(is_socket), saving_(saving) {}
  [[nodiscard]] static Result<StateTransfer> open(UniqueFd channel, bool saving);
  bool advance_save();
  bool advance_load();
  bool finish(Status outcome);

  UniqueFd channel_;
  bool is_socket_ = false;
  bool saving_ = false;
  bool over_ = false;
  size_t sent_ = 0;
  std::vector<std::byte> state_;
  Status outcome_;
};

}  // namespace pollux::vhost
