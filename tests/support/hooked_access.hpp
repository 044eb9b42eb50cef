// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "pollux/mem/shared_access.hpp"

namespace pollux::test {

/// SharedAccess with a peer between any two accesses: `Hook::before` runs before each access that
/// reads or writes memory, and may change that memory.
class HookedAccess {
 public:
  struct Hook {
    std::function<void()> before = [] {};
    uint64_t reads = 0;
    uint64_t writes = 0;
  };

  explicit HookedAccess(Hook& hook) : hook_(&hook) {}

  template <typename T>
  [[nodiscard]] T load(const T* from) const {
    read();
    return access_.load(from);
  }
  template <typename T>
  [[nodiscard]] T load_acquire(const T* from) const {
    read();
    return access_.load_acquire(from);
  }
  template <typename T>
  void store(T* to, T value) const {
    write();
    access_.store(to, value);
  }
  template <typename T>
  void store_release(T* to, T value) const {
    write();
    access_.store_release(to, value);
  }
  template <typename T>
  [[nodiscard]] T snapshot(const void* from) const {
    read();
    return access_.snapshot<T>(from);
  }
  void full_fence() const { access_.full_fence(); }
  void copy_in(void* to, const void* from, size_t size) const {
    read();
    access_.copy_in(to, from, size);
  }
  void copy_out(void* to, const void* from, size_t size) const {
    write();
    access_.copy_out(to, from, size);
  }
  void prefetch_read(const void*) const {}
  void prefetch_write(const void*) const {}

 private:
  void read() const {
    ++hook_->reads;
    hook_->before();
  }
  void write() const {
    ++hook_->writes;
    hook_->before();
  }

  SharedAccess access_;
  Hook* hook_;
};

}  // namespace pollux::test
