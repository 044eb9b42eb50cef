// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "pollux/base/clock.hpp"
#include "pollux/base/result.hpp"

struct sd_event;
struct sd_event_source;

namespace pollux {

/// The control thread's loop: descriptors, timers, signals and work handed over by other threads.
/// A thin layer over sd-event. Everything but `post` and `stop` belongs to the thread that runs
/// the loop (or that will, before it runs). Callbacks may destroy their own Watch.
class EventLoop {
 public:
  /// A registration; ends when it is destroyed. Movable.
  class Watch {
   public:
    Watch() = default;
    [[nodiscard]] bool active() const { return static_cast<bool>(state_); }
    void reset() { state_.reset(); }

   private:
    friend class EventLoop;
    struct State;
    explicit Watch(std::unique_ptr<State> state);
    struct Deleter {
      void operator()(State* state) const;
    };
    std::unique_ptr<State, Deleter> state_;
  };

  [[nodiscard]] static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  /// Calls `ready(events)` while any of `events` (EPOLLIN, EPOLLOUT, ...) holds on `fd`. The
  /// descriptor stays the caller's and must outlive the Watch.
  [[nodiscard]] Result<Watch> watch_fd(int fd, uint32_t events,
                                       std::function<void(uint32_t events)> ready);

  /// Calls `fire` once after `delay`.
  [[nodiscard]] Result<Watch> after(Nanos delay, std::function<void()> fire);

  /// Calls `fire` every `period`, first after one period.
  [[nodiscard]] Result<Watch> every(Nanos period, std::function<void()> fire);

  /// Calls `caught(signal)` for a signal that every thread of the process blocks.
  [[nodiscard]] Result<Watch> on_signal(int signal, std::function<void(int)> caught);

  /// Runs `work` on the loop's thread soon, in order of posting. Any thread.
  void post(std::function<void()> work);

  /// Runs `work` on the loop's thread and waits for it; runs it at once when already there, or when
  /// the loop is not running. Any thread.
  void call(const std::function<void()>& work);

  /// Dispatches until stop(). Errors: the system's, from epoll.
  [[nodiscard]] Status run();

  /// Dispatches what is ready, waiting at most `timeout` for something; true if anything was.
  [[nodiscard]] Result<bool> run_once(Nanos timeout);

  /// Makes run() return. Any thread.
  void stop();

 private:
  struct Impl;
  explicit EventLoop(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pollux
