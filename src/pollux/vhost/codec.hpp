// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/vhost/message.hpp"

namespace pollux::vhost {

/// Takes whole messages from a stream socket, however the bytes are split. Never reads past the
/// end of a message, so that descriptors stay with the message that they came with. Text:
/// "Header". Not thread-safe.
class MessageReader {
 public:
  /// Reads from the non-blocking `socket` until one message is whole. nullopt: nothing more to
  /// read now, call again when the socket is readable. An error means that the connection is to be
  /// closed: kDisconnected when the peer hung up, kProtocol when what it sent can not be a message
  /// (version, size, descriptors inside a payload or more than any message has), kResource when
  /// descriptors were lost because this process may not open more. Descriptors of an unfinished
  /// message are closed with the reader.
  [[nodiscard]] Result<std::optional<Message>> read(int socket);

  /// True while a part of a message has come and the rest has not.
  [[nodiscard]] bool in_message() const { return header_have_ != 0; }

 private:
  [[nodiscard]] Result<size_t> receive(int socket, std::byte* to, size_t size);
  [[nodiscard]] Status take_header();

  spec::VhostUserHeader header_{};
  size_t header_have_ = 0;
  std::vector<std::byte> payload_;
  size_t payload_have_ = 0;
  std::vector<UniqueFd> fds_;
};

/// Puts messages on a stream socket; what does not fit waits in a bounded queue. Not thread-safe.
class MessageWriter {
 public:
  /// Messages that may wait; a peer that reads none of them is given up.
  static constexpr size_t kMaxQueued = 64;

  /// Sends or queues `message`; its descriptors are closed once they are sent. Errors:
  /// kDisconnected when the peer is gone, kResource when the queue is full. Never raises SIGPIPE.
  [[nodiscard]] Status send(int socket, Message message);

  /// Sends what is queued as far as it goes; call when the socket is writable.
  [[nodiscard]] Status flush(int socket);

  /// True when something waits for the socket to become writable.
  [[nodiscard]] bool pending() const { return !queue_.empty(); }
  /// True when the next `send` would fail with kResource.
  [[nodiscard]] bool full() const { return queue_.size() >= kMaxQueued; }

 private:
  struct Item {
    std::vector<std::byte> bytes;
    size_t sent = 0;
    std::vector<UniqueFd> fds;
  };
  std::deque<Item> queue_;
};

}  // namespace pollux::vhost
