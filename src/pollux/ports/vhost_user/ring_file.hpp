// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/mem/peer_memory.hpp"
#include "pollux/ring/packed_journal.hpp"

namespace pollux::vhost_user {

/// The file in which a port's packed rings keep how far they are, so that the process that comes
/// after this one can go on with them: a record for each ring, mapped and shared, which outlives
/// whoever wrote it. Its contents are ours, but may be of another time: what is found there is
/// checked against the ring.
///
/// One process at a time has it open; a hand-over passes the descriptor on. Control thread only,
/// but for the journals.
class RingFile {
 public:
  /// Opens or makes the file `path`, and the last directory of the path, for `rings` rings. Errors:
  /// kAlreadyExists when another process has it open, kPermission when it is not ours, the
  /// system's.
  [[nodiscard]] static Result<std::unique_ptr<RingFile>> open(const std::string& path,
                                                              uint16_t rings);
  /// The same from the descriptor of a process that has it open.
  [[nodiscard]] static Result<std::unique_ptr<RingFile>> adopt(UniqueFd fd, uint16_t rings);
  ~RingFile();
  RingFile(const RingFile&) = delete;
  RingFile& operator=(const RingFile&) = delete;

  [[nodiscard]] int fd() const { return fd_.get(); }

  /// The journal for ring `index`, whose descriptors lie at `place`, of `size` entries; it holds
  /// what was written for that very ring, or nothing yet (`recall` finds nothing then). Good as
  /// long as this lives. Errors: kResource when the file system is full.
  [[nodiscard]] Result<ring::PackedJournal> journal(uint16_t index, const FilePlace& place,
                                                    uint32_t size);

  /// What was written for ring `index` means nothing any more.
  void forget(uint16_t index) noexcept;

 private:
  struct Head;
  struct Record;

  RingFile(UniqueFd fd, std::byte* base, uint16_t rings)
      : fd_(std::move(fd)), base_(base), rings_(rings) {}
  [[nodiscard]] static Result<std::unique_ptr<RingFile>> map(UniqueFd fd, uint16_t rings);
  [[nodiscard]] Record& record(uint16_t index) const;

  UniqueFd fd_;
  std::byte* base_;
  uint16_t rings_;
};

}  // namespace pollux::vhost_user
