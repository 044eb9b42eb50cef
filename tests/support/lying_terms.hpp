// SPDX-License-Identifier: Apache-2.0
// What a lying front end has: descriptors to send, terms that it negotiates, and what it has got
// to.
#pragma once

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "tests/support/lying_driver.hpp"

namespace pollux::liar {

inline void require(bool good, const char* what) {
  if (good) return;
  (void)std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

/// What a front end has got to.
struct Counts {
  uint64_t messages = 0;
  uint64_t mappings = 0;     // told to the IOTLB, or taken back
  uint64_t restarts = 0;     // of rings, where they were
  uint64_t logged = 0;       // rounds of turns that were compared with the dirty log
  uint64_t ended = 0;        // connections, by the back end
  uint64_t resumed = 0;      // rings that went on in another connection
  uint64_t regions = 0;      // in-flight regions that were given
  uint64_t handed_over = 0;  // sessions, to another process as it were
};

/// Descriptors that a front end has to send: of memory, that may be whole or cut short, and of all
/// other kinds. Made once, as new after reset().
class Descriptors {
 public:
  static constexpr const char* kName = "liars-memory";  // of memory, in /proc/self/maps

  Descriptors() {
    for (int i = 0; i < 3; ++i) add(memfd_create(kName, MFD_CLOEXEC));
    for (int i = 0; i < 2; ++i) add(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    int pipe_fds[2] = {-1, -1};
    require(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) == 0, "no pipe");
    add(pipe_fds[0]);
    add(pipe_fds[1]);
    int sockets[2] = {-1, -1};
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) == 0,
            "no sockets");
    add(sockets[0]);
    add(sockets[1]);
    add(memfd_create(kName, MFD_CLOEXEC));
  }
  void reset_memory(size_t i) const {
    require(ftruncate(at(i), 0) == 0 && ftruncate(at(i), kMemory) == 0, "no memory");
  }
  void reset() {
    for (const size_t i : {size_t{0}, size_t{1}, size_t{2}, kInflight}) reset_memory(i);
    std::array<char, 4096> left;
    for (size_t i = 3; i < kInflight; ++i) {
      while (read(at(i), left.data(), left.size()) > 0) {
      }
    }
  }
  [[nodiscard]] int at(size_t i) const { return fds_[i % fds_.size()].get(); }
  [[nodiscard]] int memory(unsigned guest) const { return at(guest % 2); }
  [[nodiscard]] int log() const { return at(2); }
  [[nodiscard]] int call() const { return at(3); }
  [[nodiscard]] int kick() const { return at(4); }
  [[nodiscard]] int pipe(bool write) const { return at(write ? 6 : 5); }
  /// A file for in-flight regions, as large as a memory.
  [[nodiscard]] int inflight() const { return at(kInflight); }

 private:
  static constexpr size_t kInflight = 9;

  void add(int fd) {
    require(fd >= 0, "no descriptor");
    fds_.emplace_back(fd);
  }
  std::vector<UniqueFd> fds_;
};

/// What is negotiated when a connection begins.
struct Terms {
  bool packed = false;
  bool odd_size = false;  // a packed ring whose size is no power of two
  bool iommu = false;
  bool in_band = false;
  bool logged = false;
  bool oblige = false;    // misses are answered at once
  bool ready = false;     // there are buffers to receive into
  bool inflight = false;  // the front end keeps an in-flight region
  uint64_t features = 0;

  [[nodiscard]] bool control() const { return (features & spec::VIRTIO_NET_F_CTRL_VQ) != 0; }
  [[nodiscard]] uint32_t rings() const { return kRings + (control() ? 1 : 0); }
};

}  // namespace pollux::liar
