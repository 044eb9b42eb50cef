// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"

namespace pollux {

/// The descriptors that go along with a state from one process to another; the state names them
/// by number. Either lent for giving, or owned after taking.
class FdParcel {
 public:
  /// Nothing, where a state may name a descriptor or none.
  static constexpr int64_t kNone = -1;

  /// For giving. Descriptors stay whose they are, open until the parcel was sent.
  FdParcel() = default;
  /// As it was received.
  explicit FdParcel(std::vector<UniqueFd> received) : received_(std::move(received)) {}

  /// Adds a descriptor; its number, or kNone for a negative one.
  [[nodiscard]] int64_t lend(int fd) {
    if (fd < 0) return kNone;
    lent_.push_back(fd);
    return static_cast<int64_t>(lent_.size()) - 1;
  }
  [[nodiscard]] std::span<const int> lent() const { return lent_; }

  /// Takes out what was lent under `number`; an invalid descriptor for kNone. Errors: kProtocol
  /// when there is no such number, or when it was taken before.
  [[nodiscard]] Result<UniqueFd> take(int64_t number) {
    if (number == kNone) return UniqueFd();
    if (number < 0 || static_cast<size_t>(number) >= received_.size() ||
        !received_[static_cast<size_t>(number)]) {
      return fail(ErrorCode::kProtocol, "a descriptor that the state names did not come with it");
    }
    return std::move(received_[static_cast<size_t>(number)]);
  }

 private:
  std::vector<int> lent_;
  std::vector<UniqueFd> received_;
};

}  // namespace pollux
