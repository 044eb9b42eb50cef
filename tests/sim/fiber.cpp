// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/fiber.hpp"

#include <cstdlib>
#include <utility>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace pollux::sim {
namespace {

// Who runs now, and who ran before: what a fiber finds when it is entered or taken up.
Fiber* g_current = nullptr;
Fiber* g_previous = nullptr;

}  // namespace

void Fiber::start(std::function<void()> body) {
  if (stack_ == nullptr) {
    stack_ = std::make_unique<std::byte[]>(kStackSize);
    bottom_ = stack_.get();
    size_ = kStackSize;
  }
  body_ = std::move(body);
  fake_stack_ = nullptr;
  if (getcontext(&context_) != 0) std::abort();
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackSize;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::enter, 0);
}

void Fiber::enter() {
  Fiber* const self = g_current;
  self->arrived();
  self->body_();
  std::abort();  // a body never returns
}

void Fiber::arrived() {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &size);
  if (g_previous->stack_ == nullptr) {  // only here is it told where the program's stack lies
    g_previous->bottom_ = bottom;
    g_previous->size_ = size;
  }
#endif
}

void Fiber::go(Fiber& from, Fiber& to, bool for_good) {
  g_previous = &from;
  g_current = &to;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack_, to.bottom_, to.size_);
#endif
  (void)for_good;
  if (swapcontext(&from.context_, &to.context_) != 0) std::abort();
  from.arrived();
}

void Fiber::switch_to(Fiber& from, Fiber& to) { go(from, to, false); }
void Fiber::leave_for(Fiber& from, Fiber& to) { go(from, to, true); }

}  // namespace pollux::sim
