// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace pollux::sim {

/// A function with a stack of its own, which another fiber or the program itself can put aside and
/// take up again at any call. One thread for all of them.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes this fiber ready to run `body` from the start. The body ends by switching elsewhere for
  /// good: it does not return.
  void start(std::function<void()> body);

  /// Goes on in `to` and puts `from` aside, until someone switches back to it.
  static void switch_to(Fiber& from, Fiber& to);
  /// The same, and `from` is never taken up again before its next start.
  static void leave_for(Fiber& from, Fiber& to);

 private:
  static constexpr size_t kStackSize = 256 * 1024;

  static void enter();
  static void go(Fiber& from, Fiber& to, bool for_good);
  void arrived();

  ucontext_t context_{};
  std::unique_ptr<std::byte[]> stack_;  // none: the program's own stack
  std::function<void()> body_;
  void* fake_stack_ = nullptr;  // AddressSanitizer's, while put aside
  const void* bottom_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pollux::sim
