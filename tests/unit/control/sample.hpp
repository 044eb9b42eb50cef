// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pollux/control/snapshot.hpp"

namespace pollux::control {

/// A switch with two ports, one of them attached and dropping, for tests of what is shown.
inline SwitchSnapshot sample_snapshot() {
  const auto ring_full = static_cast<size_t>(DropReason::receiver_ring_full);
  SwitchSnapshot s;
  s.version = "1.2.3";
  s.pid = 4711;
  s.uptime = Nanos(2'500'000'000);
  s.idle = "adaptive";
  s.pool = {16384, 16000, 8192, 8000, 2048, "37 MiB on 2 MiB pages", 2 << 20, true};
  s.fdb = {2, 131072, 300, 5, 1, 0, 2};

  PortStats v0;
  v0.index = 0;
  v0.name = "v0";
  v0.info.kind = "vhost-user";
  v0.info.target = "/run/v0.sock";
  v0.info.link_up = true;
  v0.info.peer = "pid 99 (qemu)";
  v0.info.state = "a front end is attached";
  v0.info.rx_queues = 2;
  v0.info.tx_queues = 2;
  v0.info.mtu = 1500;
  v0.info.mac = net::MacAddress({0x52, 0x54, 0, 0x12, 0x34, 0x56});
  v0.info.features = 0x130008020;
  v0.info.feature_names = {"MAC", "MRG_RXBUF", "INDIRECT_DESC", "VERSION_1"};
  v0.info.protocol_feature_names = {"MQ", "REPLY_ACK"};
  v0.info.rings = {{"rx0", 256, true, "split"}, {"tx0", 256, false, "split"}};
  v0.info.memory = "1 region, 512 MiB";
  v0.info.iommu = "2 mappings, 9 misses";
  v0.info.control = "promiscuous; 2 of 4 queue pairs";
  v0.queues = {{"rx0", 0, 1000, 64000, {}}, {"rx1", 1, 10, 640, {}}, {"tx0", -1, 7, 448, {}}};
  v0.queues[2].drops[ring_full] = 3;

  PortStats n;
  n.index = 3;
  n.name = "sink";
  n.info.kind = "null";
  n.info.link_up = true;
  n.queues = {{"tx0", -1, 1007, 64448, {}}};

  s.ports = {v0, n};
  WorkerStats worker;
  worker.cpu = 2;
  worker.rx_queues = 2;
  worker.turns = 100;
  worker.packets = 1010;
  worker.busy_cycles = 101000;
  worker.idle_cycles = 303000;
  worker.sleeps = 12;
  s.workers = {worker, WorkerStats{}};
  return s;
}

}  // namespace pollux::control
