// SPDX-License-Identifier: Apache-2.0
// What tests of vhost-user need on either side: a device that records what it is told, memory to
// share, raw bytes and descriptors on a socket, and a look at what this process holds open.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "pollux/vhost/device.hpp"
#include "pollux/vhost/message.hpp"
#include "tests/support/send_raw.hpp"

namespace pollux::test {

inline constexpr size_t kPage = 4096;

/// Descriptors that this process has open.
inline size_t open_fds() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

/// Mappings of this process whose file's name contains `name`.
inline size_t mappings_of(std::string_view name) {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(name) != std::string::npos;
  return count;
}

inline UniqueFd make_memory(size_t size, const char* name = "peer-memory") {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

inline UniqueFd make_event() { return UniqueFd(eventfd(0, EFD_CLOEXEC)); }

inline UniqueFd copy_of(const UniqueFd& fd) {
  return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

inline std::pair<UniqueFd, UniqueFd> make_pair() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

/// "01 0a ff" as bytes; anything but hexadecimal digits is ignored.
inline std::vector<std::byte> hex(std::string_view text) {
  std::vector<std::byte> bytes;
  int high = -1;
  for (const char c : text) {
    const char* const kDigits = "0123456789abcdef";
    const char* at = std::strchr(kDigits, c);
    if (at == nullptr || c == '\0') continue;
    const int digit = static_cast<int>(at - kDigits);
    if (high < 0) {
      high = digit;
    } else {
      bytes.push_back(static_cast<std::byte>(high * 16 + digit));
      high = -1;
    }
  }
  return bytes;
}

inline std::string to_hex(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    if (!text.empty()) text += ' ';
    text += kDigits[static_cast<int>(b) / 16];
    text += kDigits[static_cast<int>(b) % 16];
  }
  return text;
}

/// Everything that can be read from a non-blocking socket now; descriptors are closed and counted.
struct Received {
  std::vector<std::byte> bytes;
  size_t fds = 0;
  bool end = false;  ///< the other side hung up
};
inline Received receive_raw(int socket) {
  Received all;
  for (;;) {
    std::array<std::byte, 4096> buffer;
    iovec piece{buffer.data(), buffer.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(253 * sizeof(int))> control{};
    msghdr msg{};
    msg.msg_iov = &piece;
    msg.msg_iovlen = 1;
    msg.msg_control = control.data();
    msg.msg_controllen = control.size();
    const ssize_t got = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got <= 0) {
      all.end = got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
      return all;
    }
    all.bytes.insert(all.bytes.end(), buffer.begin(), buffer.begin() + got);
    for (cmsghdr* part = CMSG_FIRSTHDR(&msg); part != nullptr; part = CMSG_NXTHDR(&msg, part)) {
      const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
        ::close(fd);
        ++all.fds;
      }
    }
  }
}

/// Header and payload as they go over the wire.
inline std::vector<std::byte> wire(const vhost::Message& message) {
  const spec::VhostUserHeader header{message.request, message.flags,
                                     static_cast<uint32_t>(message.payload.size())};
  std::vector<std::byte> bytes(sizeof(header));
  std::memcpy(bytes.data(), &header, sizeof(header));
  bytes.insert(bytes.end(), message.payload.begin(), message.payload.end());
  return bytes;
}

/// A device that keeps what it is told, and reads the rings it is given as a real one would.
class RecordingDevice : public vhost::BackendDevice {
 public:
  vhost::DeviceOffer offering{.features = spec::VIRTIO_F_VERSION_1 | spec::VIRTIO_F_EVENT_IDX |
                                          spec::VIRTIO_F_INDIRECT_DESC | spec::VIRTIO_F_RING_PACKED,
                              .protocol_features = ~uint64_t{0},
                              .vrings = 2,
                              .queue_num = 1,
                              .mem_slots = 509};

  std::map<uint16_t, vhost::RingStart> running;
  std::vector<std::string> calls;
  std::map<uint16_t, uint32_t> progress;  ///< entries that each ring "processed" since its start
  std::string start_failure;              ///< not empty: start_ring fails with this
  std::string stop_failure;
  uint64_t max_mtu = 9000;
  std::vector<std::byte> config_space;

  [[nodiscard]] vhost::DeviceOffer offer() const override { return offering; }

  [[nodiscard]] Status start_ring(const vhost::RingStart& start) override {
    EXPECT_FALSE(running.contains(start.index));
    if (!start_failure.empty()) return fail(ErrorCode::kSystem, start_failure);
    touch(start);
    note("start", start.index);
    running[start.index] = start;
    return {};
  }
  [[nodiscard]] Result<uint32_t> stop_ring(uint16_t index) override {
    EXPECT_TRUE(running.contains(index));
    note("stop", index);
    touch(running[index]);  // memory must still be there
    const vhost::RingStart& ring = running[index];
    const bool split = std::holds_alternative<ring::SplitLayout>(ring.layout);
    const uint32_t base = split ? (ring.base + progress[index]) & 0xffff : ring.base;
    progress[index] = 0;
    running.erase(index);
    if (!stop_failure.empty()) return fail(ErrorCode::kTimeout, stop_failure);
    return base;
  }
  void update_ring(uint16_t index, const vhost::RingControls& controls) override {
    ASSERT_TRUE(running.contains(index));
    note("update", index);
    running[index].controls = controls;
    touch(running[index]);
  }
  [[nodiscard]] Status update_log(uint16_t index, std::shared_ptr<const WriteLog> log) override {
    EXPECT_TRUE(running.contains(index));
    note("log", index);
    running[index].log = std::move(log);
    touch(running[index]);
    return {};
  }
  [[nodiscard]] Status mappings_changed() override {
    calls.emplace_back("mappings changed");
    if (!stop_failure.empty()) return fail(ErrorCode::kTimeout, stop_failure);
    return {};
  }
  void features_changed(uint64_t features) override {
    EXPECT_TRUE(running.empty());
    negotiated = features;
  }
  void send_rarp(const std::array<uint8_t, 6>& mac) override { rarp.push_back(mac); }
  [[nodiscard]] Status set_mtu(uint64_t value) override {
    if (value > max_mtu) return fail(ErrorCode::kInvalidArgument, "the MTU is too large");
    mtu = value;
    return {};
  }
  [[nodiscard]] std::span<const std::byte> config() const override { return config_space; }
  [[nodiscard]] Status set_config(uint32_t offset, std::span<const std::byte> bytes,
                                  bool migrating) override {
    if (!migrating && offset < writable_from) {
      return fail(ErrorCode::kInvalidArgument, "this field is read-only");
    }
    std::copy(bytes.begin(), bytes.end(), config_space.begin() + offset);
    return {};
  }
  void reset() override {
    EXPECT_TRUE(running.empty());
    ++resets;
  }
  void kick(uint16_t index) override {
    EXPECT_TRUE(running.contains(index));
    note("kick", index);
  }
  [[nodiscard]] UniqueFd shared_object(const spec::VhostUserShared& uuid) override {
    return uuid.uuid[15] == object_id && object ? copy_of(object) : UniqueFd();
  }
  [[nodiscard]] std::span<const uint64_t> shared_memory_sizes() const override {
    return shared_memory;
  }
  [[nodiscard]] Result<std::vector<std::byte>> save_state() override { return state; }
  [[nodiscard]] Status load_state(std::span<const std::byte> from) override {
    if (from.size() != state.size()) return fail(ErrorCode::kInvalidArgument, "not my state");
    state.assign(from.begin(), from.end());
    return {};
  }

  uint32_t writable_from = 0;  ///< fields of config_space before it are read-only
  int resets = 0;
  UniqueFd object;  ///< exported under a UUID that ends in object_id
  uint8_t object_id = 7;
  std::vector<uint64_t> shared_memory;
  std::vector<std::byte> state = hex("70 78 01");
  uint64_t negotiated = 0;
  uint64_t mtu = 0;
  std::vector<std::array<uint8_t, 6>> rarp;

 private:
  void note(const char* what, uint16_t index) {
    calls.push_back(std::string(what) + " " + std::to_string(index));
  }

  // First and last byte of each part: what lies outside of the mapping faults here.
  static void touch(const vhost::RingStart& start) {
    const size_t event = (start.features & spec::VIRTIO_F_EVENT_IDX) != 0 ? 0 : 2;
    if (const auto* l = std::get_if<ring::SplitLayout>(&start.layout)) {
      touch(l->desc, spec::desc_bytes(l->size));
      touch(l->avail, spec::avail_bytes(l->size) - event);
      touch(l->used, spec::used_bytes(l->size) - event);
    } else {
      const auto& packed = std::get<ring::PackedLayout>(start.layout);
      touch(packed.desc, spec::packed_desc_bytes(packed.size));
      touch(packed.driver, 4);
      touch(packed.device, 4);
    }
  }
  static void touch(const void* part, size_t size) {
    const volatile auto* bytes = static_cast<const char*>(part);
    (void)(bytes[0] + bytes[size - 1]);
  }
};

/// Where a test's rings lie: ring i in page i of a region that the front end has at kUser and the
/// guest at kGuest.
inline constexpr uint64_t kUser = 0x7f0000000000;
inline constexpr uint64_t kGuest = 0x100000;
inline constexpr uint64_t kSize = 16 * kPage;
inline constexpr uint32_t kRingSize = 64;

inline spec::VhostUserMemoryRegion region_at(uint64_t index, uint64_t size = kSize) {
  return {kGuest + index * size, size, kUser + index * size, 0};
}
inline spec::vhost_vring_addr ring_at(uint32_t index, uint64_t user = kUser) {
  const uint64_t page = user + index * kPage;
  return {index, 0, page, page + 2048, page + 1024, 0};
}

}  // namespace pollux::test
