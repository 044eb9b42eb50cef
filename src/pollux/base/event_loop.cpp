// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/event_loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include <systemd/sd-event.h>

#include "pollux/base/fd.hpp"

namespace pollux {

// A callback may destroy the Watch that it was called for, so the state is dismantled only after
// the callback has returned.
struct EventLoop::Watch::State {
  sd_event_source* source = nullptr;
  std::function<void(uint32_t)> on_fd;
  std::function<void()> on_time;
  std::function<void(int)> on_signal;
  uint64_t period_us = 0;
  bool calling = false;
  bool dead = false;

  template <typename Call>
  void guarded(Call call) {
    calling = true;
    call();
    calling = false;
    if (dead) delete this;
  }
};

EventLoop::Watch::Watch(std::unique_ptr<State> state) : state_(state.release()) {}

void EventLoop::Watch::Deleter::operator()(State* state) const {
  sd_event_source_disable_unref(std::exchange(state->source, nullptr));
  if (state->calling) {
    state->dead = true;
  } else {
    delete state;
  }
}

struct EventLoop::Impl {
  sd_event* event = nullptr;
  UniqueFd wake;
  Watch wake_watch;
  std::mutex mutex;
  std::deque<std::function<void()>> posted;  // under mutex
  std::thread::id runner;                    // in run(); under mutex

  ~Impl() {
    wake_watch.reset();
    sd_event_unref(event);
  }

  void set_runner(std::thread::id id) {
    const std::lock_guard lock(mutex);
    runner = id;
  }

  void drain() {
    std::deque<std::function<void()>> work;
    {
      const std::lock_guard lock(mutex);
      work.swap(posted);
    }
    for (auto& item : work) item();
  }
};

namespace {

constexpr uint64_t kAccuracyUs = 1000;

uint64_t to_us(Nanos t) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(t).count());
}

}  // namespace

EventLoop::EventLoop(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

EventLoop::~EventLoop() = default;

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  auto impl = std::make_unique<Impl>();
  if (const int r = sd_event_new(&impl->event); r < 0)
    return fail_errno(-r, "can not make an event loop");
  impl->wake.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake) return fail_errno(errno, "can not make an eventfd");
  auto loop = std::unique_ptr<EventLoop>(new EventLoop(std::move(impl)));
  Impl* raw = loop->impl_.get();
  auto watch = loop->watch_fd(raw->wake.get(), EPOLLIN, [raw](uint32_t) {
    eventfd_t count = 0;
    (void)eventfd_read(raw->wake.get(), &count);
    raw->drain();
  });
  if (!watch) return forward(watch);
  raw->wake_watch = std::move(*watch);
  return loop;
}

Result<EventLoop::Watch> EventLoop::watch_fd(int fd, uint32_t events,
                                             std::function<void(uint32_t)> ready) {
  auto state = std::make_unique<Watch::State>();
  state->on_fd = std::move(ready);
  const auto call = [](sd_event_source*, int, uint32_t revents, void* self) {
    auto* s = static_cast<Watch::State*>(self);
    s->guarded([&] { s->on_fd(revents); });
    return 0;
  };
  if (const int r = sd_event_add_io(impl_->event, &state->source, fd, events, call, state.get());
      r < 0)
    return fail_errno(-r, "can not watch a descriptor");
  return Watch(std::move(state));
}

Result<EventLoop::Watch> EventLoop::after(Nanos delay, std::function<void()> fire) {
  auto state = std::make_unique<Watch::State>();
  state->on_time = std::move(fire);
  const auto call = [](sd_event_source*, uint64_t, void* self) {
    auto* s = static_cast<Watch::State*>(self);
    s->guarded([&] { s->on_time(); });
    return 0;
  };
  if (const int r = sd_event_add_time_relative(impl_->event, &state->source, CLOCK_MONOTONIC,
                                               to_us(delay), kAccuracyUs, call, state.get());
      r < 0)
    return fail_errno(-r, "can not set a timer");
  return Watch(std::move(state));
}

Result<EventLoop::Watch> EventLoop::every(Nanos period, std::function<void()> fire) {
  auto state = std::make_unique<Watch::State>();
  state->on_time = std::move(fire);
  state->period_us = to_us(period);
  const auto call = [](sd_event_source* source, uint64_t, void* self) {
    auto* s = static_cast<Watch::State*>(self);
    sd_event_source_set_time_relative(source, s->period_us);
    sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
    s->guarded([&] { s->on_time(); });
    return 0;
  };
  if (const int r = sd_event_add_time_relative(impl_->event, &state->source, CLOCK_MONOTONIC,
                                               state->period_us, kAccuracyUs, call, state.get());
      r < 0)
    return fail_errno(-r, "can not set a timer");
  return Watch(std::move(state));
}

Result<EventLoop::Watch> EventLoop::on_signal(int signal, std::function<void(int)> caught) {
  auto state = std::make_unique<Watch::State>();
  state->on_signal = std::move(caught);
  const auto call = [](sd_event_source*, const struct signalfd_siginfo*, void* self) {
    auto* s = static_cast<Watch::State*>(self);
    s->guarded([&] { s->on_signal(sd_event_source_get_signal(s->source)); });
    return 0;
  };
  if (const int r = sd_event_add_signal(impl_->event, &state->source, signal, call, state.get());
      r < 0)
    return fail_errno(-r, "can not watch a signal: block it in every thread first");
  return Watch(std::move(state));
}

void EventLoop::post(std::function<void()> work) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->posted.push_back(std::move(work));
  }
  (void)eventfd_write(impl_->wake.get(), 1);
}

void EventLoop::call(const std::function<void()>& work) {
  std::mutex mutex;
  std::condition_variable done_cv;
  bool done = false;
  bool handed_over = false;
  {
    // Under the lock that run() ends with: work is either seen by its last drain, or not posted.
    const std::lock_guard lock(impl_->mutex);
    handed_over = impl_->runner != std::thread::id{} && impl_->runner != std::this_thread::get_id();
    if (handed_over) {
      impl_->posted.emplace_back([&] {
        work();
        const std::lock_guard done_lock(mutex);
        done = true;
        done_cv.notify_one();
      });
    }
  }
  if (!handed_over) {
    work();
    return;
  }
  (void)eventfd_write(impl_->wake.get(), 1);
  std::unique_lock lock(mutex);
  done_cv.wait(lock, [&] { return done; });
}

Status EventLoop::run() {
  impl_->set_runner(std::this_thread::get_id());
  const int r = sd_event_loop(impl_->event);
  impl_->set_runner(std::thread::id{});
  impl_->drain();  // whoever waits in call() must not wait for ever
  if (r < 0) return fail_errno(-r, "the event loop failed");
  return {};
}

Result<bool> EventLoop::run_once(Nanos timeout) {
  const int r = sd_event_run(impl_->event, to_us(timeout));
  if (r < 0) return fail_errno(-r, "the event loop failed");
  return r > 0;
}

void EventLoop::stop() {
  post([this] { sd_event_exit(impl_->event, 0); });
}

}  // namespace pollux
