# SPDX-License-Identifier: Apache-2.0
"""The switch under test, and the two that can stand in its place.

Pollux, testpmd's io forwarder and OVS-DPDK look the same from here: vhost-user ports by name.
A test that fails with the stand-in as well has a fault in the harness or in the peer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import testpmd as tp
from .process import Child, Supervisor, call, cpu_pair, wait_until
from .system import find_program


@dataclass
class Port:
    """A vhost-user port of a switch. `server`: the switch listens, its peer connects."""
    name: str
    queues: int = 1
    queue_size: int = 0
    server: bool = True


@dataclass
class Counters:
    """What a port has counted; rx is into the switch, tx out of it."""
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    drops: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


class Switch:
    """The part that all three share: names of ports and their sockets."""

    kind = "none"

    def __init__(self, supervisor: Supervisor, ports: Sequence[Port | str]) -> None:
        self.supervisor = supervisor
        self.ports = [Port(p) if isinstance(p, str) else p for p in ports]
        self.sockets = {p.name: supervisor.path(f"{p.name}.sock") for p in self.ports}
        self.child: Child

    def socket(self, name: str) -> str:
        return self.sockets[name]

    def wait_attached(self, *names: str, timeout: float = 30,
                      poke: Callable[[], object] = lambda: None) -> None:
        """Waits until these ports, or all, have a peer whose queues run. `poke` is called again
        and again meanwhile, for a peer that has to be reminded."""
        raise NotImplementedError

    def counters(self) -> dict[str, Counters]:
        raise NotImplementedError

    def negotiated(self) -> dict[str, str]:
        """What each port and its peer agreed on, as the switch tells it, for reports."""
        return {}

    def busy_cycles(self) -> float:
        """Cycles a packet since the start, without those of polls that brought nothing."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class TestpmdSwitch(Switch):
    """testpmd forwarding between pairs of vhost ports, without looking at addresses."""

    kind = "testpmd"
    __test__ = False

    def __init__(self, supervisor: Supervisor, ports: Sequence[Port | str], *,
                 frame_size: int = 1518, huge: bool = False, tso: bool = False,
                 cpu: int | None = None, forward: str = "io") -> None:
        super().__init__(supervisor, ports)
        queues = max(p.queues for p in self.ports)
        vdevs = [tp.vhost(self.sockets[p.name], queues=p.queues, client=not p.server, tso=tso)
                 for p in self.ports]
        for port in self.ports:
            if port.server:  # a killed testpmd leaves its sockets, and the next one stumbles
                Path(self.sockets[port.name]).unlink(missing_ok=True)
        self.testpmd = tp.Testpmd(supervisor, vdevs, cpu=cpu_pair()[0] if cpu is None else cpu,
                                  frame_size=frame_size, huge=huge, queues=queues,
                                  name="testpmd-switch")
        self.child = self.testpmd.child
        self._mark = 0
        self.testpmd.command(f"set fwd {forward}")
        self.testpmd.command("start")

    def wait_attached(self, *names: str, timeout: float = 30,
                      poke: Callable[[], object] = lambda: None) -> None:
        self.testpmd.wait_ready(len(names or self.ports), timeout, self._mark, poke)
        self._mark = self.child.mark()  # the next wait is for other peers

    def counters(self) -> dict[str, Counters]:
        return {p.name: Counters(s.rx_packets, s.rx_bytes, s.tx_packets, s.tx_bytes)
                for p, s in zip(self.ports, self.testpmd.stats())}

    def negotiated(self) -> dict[str, str]:
        return {p.name: feature_names(bits)
                for p, bits in zip(self.ports, self.testpmd.negotiated())}

    def busy_cycles(self) -> float:
        return self.testpmd.cycles()[0]

    def stop(self) -> None:
        self.testpmd.stop()
        self.testpmd.quit()


class OvsSwitch(Switch):
    """OVS-DPDK with a bridge that learns MAC addresses, in a run directory of its own."""

    kind = "ovs"
    DAEMON = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

    def __init__(self, supervisor: Supervisor, ports: Sequence[Port | str], *,
                 frame_size: int = 1518, cpu: int | None = None) -> None:
        """The caller has reserved hugepages: 512 MiB are taken, OVS does not do without."""
        super().__init__(supervisor, ports)
        self.cpu = cpu_pair()[0] if cpu is None else cpu
        self.bridge = supervisor.unique("ob")[-15:]
        d = supervisor.dir / supervisor.unique("o")
        d.mkdir()
        self.dir = d
        self.env = {key: str(d) for key in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR",
                                            "OVS_SYSCONFDIR", "RUNTIME_DIRECTORY")}
        call(["ovsdb-tool", "create", d / "conf.db",
              "/usr/share/openvswitch/vswitch.ovsschema"], env=self.env)
        self.db = supervisor.start(
            [find_program("ovsdb-server") or "ovsdb-server", d / "conf.db",
             f"--remote=punix:{d}/db.sock", f"--pidfile={d}/ovsdb.pid",
             f"--unixctl={d}/ovsdb.ctl"], env=self.env, name="ovsdb-server")
        wait_until((d / "db.sock").exists, 10, "ovsdb-server makes its socket")
        mask = hex(1 << self.cpu)
        self._vsctl("init")
        self._vsctl("set", "Open_vSwitch", ".", "other_config:dpdk-init=true",
                    "other_config:dpdk-socket-mem=512", f"other_config:pmd-cpu-mask={mask}",
                    f"other_config:dpdk-lcore-mask={mask}", "other_config:dpdk-extra=--no-pci "
                    f"--in-memory --single-file-segments --file-prefix={supervisor.unique('o')}")
        self._vsctl("add-br", self.bridge, "--", "set", "bridge", self.bridge,
                    "datapath_type=netdev")
        for port in self.ports:
            kind = "dpdkvhostuser" if port.server else "dpdkvhostuserclient"
            options = [] if port.server else [
                f"options:vhost-server-path={self.sockets[port.name]}"]
            if port.server:  # OVS puts a server's socket into its run directory
                self.sockets[port.name] = str(d / port.name)
            self._vsctl("add-port", self.bridge, port.name, "--", "set", "Interface", port.name,
                        f"type={kind}", f"options:n_rxq={port.queues}",
                        f"mtu_request={max(1500, frame_size - 18)}", *options)
        self.start_daemon()

    def start_daemon(self) -> None:
        """Starts ovs-vswitchd on the database, which outlives it."""
        d = self.dir
        for interface in (self.bridge, "ovs-netdev"):  # taps of its own that it leaves behind
            if not Path("/sys/class/net", interface).exists():
                self.supervisor.defer(remove_interface, interface)
        for port in self.ports:
            if port.server:  # a killed OVS leaves its sockets, and the next one stumbles
                Path(self.sockets[port.name]).unlink(missing_ok=True)
        self.child = self.supervisor.start(
            [self.DAEMON, f"unix:{d}/db.sock", f"--pidfile={d}/vs.pid", f"--unixctl={d}/vs.ctl",
             f"--log-file={d}/vs.log"], env=self.env, name="ovs-vswitchd")
        for port in self.ports:
            if port.server:
                wait_until(Path(self.sockets[port.name]).exists, 60,
                           f"OVS makes {self.sockets[port.name]}: {self.child.describe()}")

    def _vsctl(self, *argv: str) -> str:
        return call(["ovs-vsctl", f"--db=unix:{self.dir}/db.sock", "--no-wait", *argv],
                    env=self.env)

    def wait_attached(self, *names: str, timeout: float = 30,
                      poke: Callable[[], object] = lambda: None) -> None:
        wanted = set(names or self.sockets)

        def polled() -> bool:
            poke()
            text = call(["ovs-appctl", "-t", self.dir / "vs.ctl", "dpif-netdev/pmd-rxq-show"],
                        env=self.env)
            return wanted <= set(re.findall(r"port: (\S+)\s+queue-id:\s+\d+ \(enabled\)", text))
        wait_until(polled, timeout, f"OVS polls {', '.join(sorted(wanted))}", 0.1)

    def counters(self) -> dict[str, Counters]:
        found = {}
        for port in self.ports:
            text = self._vsctl("get", "Interface", port.name, "statistics")
            value = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", text)}
            found[port.name] = Counters(
                value.get("rx_packets", 0), value.get("rx_bytes", 0),
                value.get("tx_packets", 0), value.get("tx_bytes", 0),
                {k: v for k, v in value.items() if "drop" in k and v})
        return found

    def negotiated(self) -> dict[str, str]:
        found = {}
        for port in self.ports:
            def status(name=port.name) -> str:
                text = self._vsctl("get", "Interface", name, "status")
                return text if "features" in text else ""
            text = wait_until(status, 15, "OVS refreshes the status of its ports", 0.5)
            bits = int(re.search(r'features="0x(\w+)"', text)[1], 16)
            sizes = sorted(set(re.findall(r'vring_\d+_size="(\d+)"', text)))
            found[port.name] = f"{feature_names(bits)} rings {'/'.join(sizes)}"
        return found

    def busy_cycles(self) -> float:
        text = call(["ovs-appctl", "-t", self.dir / "vs.ctl", "dpif-netdev/pmd-stats-show"],
                    env=self.env)
        return float(re.search(r"avg processing cycles per packet: ([\d.]+)", text)[1])

    def stop(self) -> None:
        call(["ovs-appctl", "-t", self.dir / "vs.ctl", "exit", "--cleanup"], env=self.env,
             check=False)
        self.child.stop()
        self.db.stop()


def remove_interface(name: str) -> None:
    """Deletes a network interface, if it is there."""
    call(["ip", "link", "delete", name], check=False)


FEATURES = {0: "CSUM", 1: "GUEST_CSUM", 3: "MTU", 5: "MAC", 7: "GUEST_TSO4", 8: "GUEST_TSO6",
            9: "GUEST_ECN", 10: "GUEST_UFO", 11: "HOST_TSO4", 12: "HOST_TSO6", 13: "HOST_ECN",
            14: "HOST_UFO", 15: "MRG_RXBUF", 16: "STATUS", 17: "CTRL_VQ", 18: "CTRL_RX",
            19: "CTRL_VLAN", 21: "GUEST_ANNOUNCE", 22: "MQ", 23: "CTRL_MAC_ADDR",
            26: "LOG_ALL", 28: "INDIRECT_DESC", 29: "EVENT_IDX", 30: "PROTOCOL_FEATURES",
            32: "VERSION_1", 33: "ACCESS_PLATFORM", 34: "PACKED", 35: "IN_ORDER"}


def feature_names(bits: int) -> str:
    """Feature bits as words, the unknown ones by number."""
    return " ".join(FEATURES.get(bit, f"bit{bit}") for bit in range(64) if bits >> bit & 1)
