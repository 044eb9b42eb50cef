// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace pollux {

/// What kind of failure an Error is; callers branch on this, people read the sentence.
enum class ErrorCode {
  kInvalidArgument,  ///< the caller or the user asked for something that can not be meant
  kNotFound,         ///< a file, port or feature that is named does not exist
  kAlreadyExists,    ///< a name, address or path is taken
  kPermission,       ///< the operating system refused; the sentence names what is missing
  kResource,         ///< out of memory, descriptors, hugepages, table room
  kTimeout,          ///< a deadline passed
  kProtocol,         ///< a peer broke the rules of its protocol
  kDisconnected,     ///< the peer is gone
  kUnsupported,      ///< legal, but not offered here
  kSystem,           ///< any other failed system call; see sys_errno
};

/// A failure on a control path. `what` is one sentence: what is wrong and what to do about it.
struct Error {
  ErrorCode code = ErrorCode::kSystem;
  int sys_errno = 0;  ///< errno when a system call failed, else 0
  std::string what;
};

/// Value or Error; every control-path function that can fail returns one.
template <typename T>
using Result = std::expected<T, Error>;

/// Result of an operation with nothing to return.
using Status = Result<void>;

/// Makes a failed Result: `return fail(ErrorCode::kNotFound, "…")`.
[[nodiscard]] inline std::unexpected<Error> fail(ErrorCode code, std::string what) {
  return std::unexpected(Error{code, 0, std::move(what)});
}

/// Makes a failed Result from a saved errno; permission and missing-file errors keep their code.
/// The errno's text is appended to `what`.
[[nodiscard]] inline std::unexpected<Error> fail_errno(int err, const std::string& what) {
  ErrorCode code = ErrorCode::kSystem;
  if (err == EACCES || err == EPERM) code = ErrorCode::kPermission;
  if (err == ENOENT || err == ENODEV) code = ErrorCode::kNotFound;
  if (err == EEXIST || err == EADDRINUSE) code = ErrorCode::kAlreadyExists;
  if (err == ENOMEM || err == EMFILE || err == ENFILE || err == ENOSPC) code = ErrorCode::kResource;
  return std::unexpected(Error{code, err, what + ": " + std::strerror(err)});
}

/// Passes a failure on to the caller: `if (!r) return forward(r);`.
template <typename T>
[[nodiscard]] std::unexpected<Error> forward(Result<T>& failed) {
  return std::unexpected(std::move(failed.error()));
}
template <typename T>
[[nodiscard]] std::unexpected<Error> forward(const Result<T>& failed) {
  return std::unexpected(failed.error());
}
template <typename T>
[[nodiscard]] std::unexpected<Error> forward(Result<T>&& failed) {
  return std::unexpected(std::move(failed.error()));
}

}  // namespace pollux
