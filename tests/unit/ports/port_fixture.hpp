// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "pollux/packet/fill.hpp"
#include "pollux/ports/kinds.hpp"
#include "pollux/ports/ring/registry.hpp"

namespace pollux {

using Frame = std::vector<std::byte>;

/// A frame of `size` bytes that differ from place to place and from `seed` to seed.
inline Frame make_frame(size_t size, unsigned seed = 0) {
  Frame frame(size);
  for (size_t i = 0; i < size; ++i) frame[i] = static_cast<std::byte>(seed * 31 + i * 7 + i / 256);
  return frame;
}

inline Frame bytes_of(const Packet& packet) {
  Frame frame(packet.size());
  EXPECT_EQ(packet.copy_to(frame.data(), 0, frame.size()), frame.size());
  return frame;
}

/// A program with a pool for ports under test, whose one thread is control and worker.
class PortTest : public testing::Test {
 protected:
  static PoolConfig pool_config() {
    return {.name = "test", .packets = 4096, .buffers = 4096, .pages = HugePages::kNever};
  }

  Result<std::unique_ptr<Port>> try_make(std::string_view text) {
    auto spec = PortSpec::parse(text);
    if (!spec) return forward(spec);
    return make_port(*spec, context_);
  }

  std::unique_ptr<Port> make(std::string_view text) {
    auto port = try_make(text);
    EXPECT_TRUE(port) << text << ": " << (port ? "" : port.error().what);
    return port ? std::move(*port) : nullptr;
  }

  std::unique_ptr<Port> make_started(std::string_view text) {
    auto port = make(text);
    if (!port) return port;
    const Status started = port->start();
    EXPECT_TRUE(started) << text << ": " << (started ? "" : started.error().what);
    return port;
  }

  std::string refusal(std::string_view text) {
    auto port = try_make(text);
    EXPECT_FALSE(port) << text;
    return port ? "" : port.error().what;
  }

  /// What start() of a port that can be made says.
  std::string start_refusal(std::string_view text) {
    auto port = make(text);
    if (!port) return "";
    const Status started = port->start();
    EXPECT_FALSE(started) << text;
    return started ? "" : started.error().what;
  }

  /// Sends one frame; true when the queue took it, false also while the pool is empty.
  bool send(const TxQueue& queue, const Frame& frame, PacketMeta meta = {}) {
    Burst burst(cache_);
    Packet* packet = cache_.allocate();
    if (packet == nullptr) return false;
    burst.push(packet);
    if (!fill(*packet, cache_, frame)) {
      burst.clear();
      return false;
    }
    packet->meta = meta;
    (void)queue.send(queue.self, burst);
    if (queue.flush != nullptr) queue.flush(queue.self);
    return burst.empty();
  }

  /// Polls until `count` frames came, at most for `patience`.
  std::vector<Frame> receive(const RxQueue& queue, size_t count,
                             std::chrono::seconds patience = std::chrono::seconds(10)) {
    std::vector<Frame> frames;
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (frames.size() < count && std::chrono::steady_clock::now() < deadline) {
      Burst burst(cache_);
      queue.poll(queue.self, burst);
      for (const Packet* packet : burst.packets()) frames.push_back(bytes_of(*packet));
      if (burst.empty()) std::this_thread::yield();
      burst.clear();
      if (queue.complete != nullptr) queue.complete(queue.self);
    }
    return frames;
  }

  /// True when nothing that was taken from the pool is missing; ends the test's own cache.
  void expect_no_leak() {
    cache_holder_.reset();
    EXPECT_EQ(pool_->free_packets(), pool_->packet_count());
    EXPECT_EQ(pool_->free_buffers(), pool_->buffer_count());
  }

  std::unique_ptr<Pool> pool_ = std::move(Pool::create(pool_config()).value());
  std::unique_ptr<EventLoop> loop_ = std::move(EventLoop::create().value());
  NoWorkers quiescence_;
  SteadyClock clock_;
  RingRegistry rings_;
  PortContext context_{*pool_, *loop_, quiescence_, clock_, rings_, Log{}};
  std::unique_ptr<PoolCache> cache_holder_ = std::make_unique<PoolCache>(*pool_);
  PoolCache& cache_ = *cache_holder_;
};

}  // namespace pollux
