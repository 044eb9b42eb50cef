// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "pollux/vhost/inflight.hpp"

namespace pollux::test {

/// An in-flight region as the front end that keeps it sees it: bytes.
class InflightBytes {
 public:
  InflightBytes(uint16_t queues, uint16_t size, vhost::InflightFormat format) {
    told_.num_queues = queues;
    told_.queue_size = size;
    fd_ = std::move(vhost::InflightRegion::create(told_, 256, format).value());
    void* at = mmap(nullptr, told_.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    EXPECT_NE(at, MAP_FAILED);
    bytes_ = static_cast<uint8_t*>(at);
    UniqueFd copy(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
    region_ = vhost::InflightRegion::map(std::move(copy), told_, 256, format).value();
  }
  ~InflightBytes() { munmap(bytes_, told_.mmap_size); }
  InflightBytes(const InflightBytes&) = delete;
  InflightBytes& operator=(const InflightBytes&) = delete;

  [[nodiscard]] const spec::VhostUserInflight& told() const { return told_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] uint8_t* bytes() const { return bytes_; }
  [[nodiscard]] const std::shared_ptr<const vhost::InflightRegion>& region() const {
    return region_;
  }

  template <typename T>
  void put(size_t at, T value) const {
    std::memcpy(bytes_ + at, &value, sizeof value);
  }
  template <typename T>
  [[nodiscard]] T get(size_t at) const {
    T value{};
    std::memcpy(&value, bytes_ + at, sizeof value);
    return value;
  }

 private:
  spec::VhostUserInflight told_{};
  UniqueFd fd_;
  uint8_t* bytes_ = nullptr;
  std::shared_ptr<const vhost::InflightRegion> region_;
};

}  // namespace pollux::test
