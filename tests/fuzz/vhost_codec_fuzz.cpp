// SPDX-License-Identifier: Apache-2.0
// Arbitrary bytes and descriptors against a whole back-end connection: reader, table, session,
// memory, rings, writer. The input is a list of pieces: a byte that says how many descriptors of
// which kind go along (low 4 bits: how many, high 4: where in the list of kinds to begin), a byte
// of length, and that many bytes for the stream. A leak of a descriptor or a mapping is a finding.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "pollux/vhost/backend_connection.hpp"
#include "tests/support/send_raw.hpp"

namespace {

using pollux::EventLoop;
using pollux::Result;
using pollux::Status;
using pollux::UniqueFd;
namespace spec = pollux::spec;
namespace vhost = pollux::vhost;

void must(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

/// Touches all that it is given, so that a wrong translation faults.
class TouchingDevice final : public vhost::BackendDevice {
 public:
  [[nodiscard]] vhost::DeviceOffer offer() const override {
    return {.features = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_EVENT_IDX |
                        spec::VIRTIO_F_RING_PACKED | spec::VIRTIO_F_ACCESS_PLATFORM,
            .protocol_features = ~uint64_t{0},
            .vrings = 4,
            .queue_num = 2,
            .mem_slots = 32};
  }
  [[nodiscard]] Status start_ring(const vhost::RingStart& start) override {
    must(running_.emplace(start.index, start).second, "a running ring was started");
    touch(start);
    return {};
  }
  [[nodiscard]] Result<uint32_t> stop_ring(uint16_t index) override {
    const auto ring = running_.extract(index);
    must(!ring.empty(), "a ring was stopped that did not run");
    touch(ring.mapped());
    const vhost::RingStart& start = ring.mapped();
    const bool split = std::holds_alternative<pollux::ring::SplitLayout>(start.layout);
    return split ? start.base + 1 & 0xffffU : start.base;
  }
  void update_ring(uint16_t index, const vhost::RingControls& controls) override {
    must(running_.contains(index), "a ring was updated that did not run");
    running_[index].controls = controls;
    if (controls.call) (void)!write(controls.call->get(), "12345678", 8);
  }
  void features_changed(uint64_t) override {
    must(running_.empty(), "features changed under rings");
  }
  [[nodiscard]] std::span<const std::byte> config() const override { return config_; }
  [[nodiscard]] bool idle() const { return running_.empty(); }

 private:
  static void poke(void* at, size_t size) {
    auto* bytes = static_cast<volatile char*>(at);
    bytes[0] = bytes[0];
    bytes[size - 1] = bytes[size - 1];
  }
  static void touch(const vhost::RingStart& start) {
    const size_t event = (start.features & spec::VIRTIO_F_EVENT_IDX) != 0 ? 0 : 2;
    if (const auto* l = std::get_if<pollux::ring::SplitLayout>(&start.layout)) {
      poke(l->desc, spec::desc_bytes(l->size));
      poke(l->avail, spec::avail_bytes(l->size) - event);
      poke(l->used, spec::used_bytes(l->size) - event);
    } else {
      const auto& packed = std::get<pollux::ring::PackedLayout>(start.layout);
      poke(packed.desc, spec::packed_desc_bytes(packed.size));
      poke(packed.driver, sizeof *packed.driver);
      poke(packed.device, sizeof *packed.device);
    }
  }

  std::map<uint16_t, vhost::RingStart> running_;
  std::array<std::byte, 60> config_{};
};

/// The lowest free descriptor: moves up when something leaks.
int next_fd() {
  const int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0) close(fd);
  return fd;
}

/// One of each kind that a peer might send.
std::vector<UniqueFd> make_kinds() {
  std::vector<UniqueFd> kinds;
  const int memory = memfd_create("fuzz", MFD_CLOEXEC);
  must(ftruncate(memory, 1 << 20) == 0, "no memory");
  kinds.emplace_back(memory);
  kinds.emplace_back(eventfd(0, EFD_CLOEXEC));
  int pipe_fds[2] = {-1, -1};
  must(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) == 0, "no pipe");
  kinds.emplace_back(pipe_fds[0]);
  kinds.emplace_back(pipe_fds[1]);
  kinds.emplace_back(open("/dev/null", O_RDWR | O_CLOEXEC));
  int sockets[2] = {-1, -1};  // a channel for the back end's requests, and its other end
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) == 0,
       "no channel");
  kinds.emplace_back(sockets[0]);
  kinds.emplace_back(sockets[1]);
  return kinds;
}

void play(EventLoop& loop, const std::vector<UniqueFd>& kinds, const uint8_t* data, size_t size) {
  int fds[2] = {-1, -1};
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0, "no sockets");
  const UniqueFd far(fds[1]);
  TouchingDevice device;
  bool open = true;
  auto connection = vhost::BackendConnection::create(loop, UniqueFd(fds[0]), device, {},
                                                     [&](const pollux::Error& error) {
                                                       must(!error.what.empty(), "no sentence");
                                                       open = false;
                                                     });
  must(connection.has_value(), "no connection");
  const uint8_t* const end = data + size;
  while (end - data >= 2 && open) {
    const size_t count = data[0] & 15U;
    const size_t first = data[0] >> 4;
    const size_t length = std::min<size_t>(data[1], static_cast<size_t>(end - data - 2));
    data += 2;
    std::vector<int> with;
    for (size_t i = 0; i < count; ++i) with.push_back(kinds[(first + i) % kinds.size()].get());
    if (length > 0)
      (void)pollux::test::send_raw(far.get(), std::as_bytes(std::span(data, length)), with);
    data += length;
    (*connection)->poll();
    std::array<char, 4096> replies;
    while (recv(far.get(), replies.data(), replies.size(), MSG_DONTWAIT) > 0) {
    }
    // What the back end asks is answered by itself, so to say: its words come back to it.
    for (int turn = 0; turn < 4 && *loop.run_once(pollux::Nanos(0)); ++turn) {
    }
  }
  connection->reset();
  for (size_t i = kinds.size() - 2; i < kinds.size(); ++i) {
    std::array<char, 4096> left;
    while (recv(kinds[i].get(), left.data(), left.size(), MSG_DONTWAIT) > 0) {
    }
  }
  must(device.idle(), "a ring runs without a session");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  static const std::vector<UniqueFd> kinds = make_kinds();
  const int before = next_fd();
  play(*loop, kinds, data, size);
  must(next_fd() == before, "a descriptor leaked");
  return 0;
}
