// SPDX-License-Identifier: Apache-2.0
// The README's program: a switch between two sockets, that VMs or containers attach to.
#include <cstdio>

#include "pollux/control/switch.hpp"

int main() {
  auto made = pollux::Switch::create({});
  if (!made) return std::puts(made.error().what.c_str()), 2;
  pollux::Switch& hub = **made;
  pollux::Status ok = hub.stop_on_signals();
  if (ok) ok = hub.start();
  for (const char* spec : {"vhost-user:/tmp/v0.sock", "vhost-user:/tmp/v1.sock"})
    if (auto port = hub.add_port("", spec); ok && !port) ok = pollux::forward(port);
  if (ok) ok = hub.run();  // until SIGINT or SIGTERM
  if (!ok) return std::puts(ok.error().what.c_str()), 2;
  for (const pollux::PortStats& port : hub.snapshot().ports)
    std::printf("%s received %lu packets\n", port.name.c_str(), totals(port, "rx").packets);
}
