// SPDX-License-Identifier: Apache-2.0
// A vhost-user device other than a network card: random numbers for a VM (virtio-rng:
// VIRTIO 1.3, 5.4).
//
//   virtio_rng --socket-path=/tmp/rng.sock
//   qemu-system-x86_64 ... -chardev socket,id=rng,path=/tmp/rng.sock
//     -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem
//     -device vhost-user-rng-pci,chardev=rng
#include <sys/random.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "pollux/vhost/listener.hpp"
#include "pollux/vhost/simple_device.hpp"

using namespace pollux;

int main(int count, char** words) {
  const char* path =
      count == 2 && !std::strncmp(words[1], "--socket-path=", 14) ? words[1] + 14 : nullptr;
  if (!path) return std::puts("usage: virtio_rng --socket-path=PATH"), 2;
  sigset_t ends;  // taken by the event loop
  sigemptyset(&ends);
  for (int signal : {SIGINT, SIGTERM}) sigaddset(&ends, signal);
  sigprocmask(SIG_BLOCK, &ends, nullptr);

  const Log log([](LogLevel, std::string_view text) {
    std::printf("%.*s\n", static_cast<int>(text.size()), text.data());
    std::fflush(stdout);
  });
  auto loop = EventLoop::create();
  if (!loop) return std::puts(loop.error().what.c_str()), 1;
  vhost::SimpleDevice device(
      **loop, {.queues = 1},
      [](uint16_t, vhost::Chain& chain) {
        std::array<std::byte, 256> bytes;
        while (chain.writable() != 0) {
          const ssize_t got = getrandom(bytes.data(), std::min(bytes.size(), chain.writable()), 0);
          if (got > 0) chain.write(std::span(bytes).first(static_cast<size_t>(got)));
        }
      },
      log);
  auto endpoint = vhost::BackendEndpoint::start(**loop, path, vhost::BackendEndpoint::Mode::kServer,
                                                device, log);
  if (!endpoint) return std::puts(endpoint.error().what.c_str()), 1;
  auto interrupted = (*loop)->on_signal(SIGINT, [&](int) { (*loop)->stop(); });
  auto terminated = (*loop)->on_signal(SIGTERM, [&](int) { (*loop)->stop(); });
  std::puts("ready");
  std::fflush(stdout);
  return (*loop)->run() ? 0 : 1;
}
