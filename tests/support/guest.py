# SPDX-License-Identifier: Apache-2.0
"""A Linux guest under QEMU, with the host's programs in it and vhost-user network cards.

`tests/vm/prepare-guest` makes kernel and RAM disk. The guest obeys a second serial line, so that
one boot (about five seconds under TCG) serves many checks:

    guest = Guest(supervisor, "a", [Nic(socket, "02:00:00:00:00:01")])
    guest.wait_ready()
    guest.run("ping -c1 10.0.0.2")
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .process import HarnessError, Supervisor, wait_until
from .system import missing_program

_PREPARE = Path(__file__).resolve().parent.parent / "vm" / "prepare-guest"


@dataclass
class Nic:
    """A virtio-net card on a vhost-user socket. `server`: QEMU listens there."""
    socket: str
    mac: str
    server: bool = False
    queues: int = 1
    properties: str = ""  # of the device, e.g. "csum=off,mrg_rxbuf=off"
    reconnect: int = 0    # seconds; a client that tries again when the switch goes


def guest_reason() -> str | None:
    """Why no guest can run here, if so; prepares the guest's files on the way."""
    if reason := missing_program("qemu-system-x86_64", "ip", "ping", "iperf3", "ethtool",
                                 "busybox"):
        return reason
    done = subprocess.run([_PREPARE], capture_output=True, text=True, timeout=300)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


class Guest:
    """A guest from the start of its QEMU to `quit()` or the end of the supervisor."""

    def __init__(self, supervisor: Supervisor, name: str, nics: Sequence[Nic], *,
                 megabytes: int = 384, vcpus: int = 1, slots: int = 0, max_megabytes: int = 0,
                 cpus: Sequence[int] | None = None, alone: bool = False,
                 incoming: str = "", devices: Sequence[str] = (), iommu: bool = False) -> None:
        """`slots` and `max_megabytes` leave room for memory that is plugged in later. `alone`: with
        busybox and without the host's files, so that it can be migrated. `incoming`: QEMU waits
        there for a guest to be migrated to it. `iommu`: the guest has one, and its network cards
        are behind it."""
        files = Path(subprocess.run([_PREPARE], capture_output=True, text=True,
                                    check=True).stdout.strip())
        self.name = name
        self._agent_path = supervisor.path(f"{name}.agent")
        self._monitor_path = supervisor.path(f"{name}.qmp")
        memory = f"{megabytes}M" + (f",slots={slots},maxmem={max_megabytes}M" if slots else "")
        argv = ["qemu-system-x86_64", "-accel", os.environ.get("POLLUX_ACCEL", "tcg,thread=multi"),
                "-cpu", "max", "-M", "q35,kernel-irqchip=split" if iommu else "q35",
                "-smp", str(vcpus), "-m", memory,
                "-object", f"memory-backend-memfd,id=ram,size={megabytes}M,share=on",
                "-numa", "node,memdev=ram",  # vhost-user wants memory that can be shared
                "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
                "-chardev", f"socket,id=agent,path={self._agent_path},server=on,wait=off",
                "-serial", "chardev:agent",
                "-qmp", f"unix:{self._monitor_path},server=on,wait=off",
                "-kernel", files / "vmlinuz", "-initrd", files / "initrd", "-append",
                "console=ttyS0 panic=-1 no_timer_check quiet loglevel=4 "
                "memhp_default_state=online_movable"
                + (" pollux.alone" if alone else "") + (" intel_iommu=on" if iommu else "")]
        if not alone:
            argv += ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,"
                     "multidevs=remap"]
        if iommu:  # before the cards that are to be behind it
            argv += ["-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"]
        for index, nic in enumerate(nics):
            options = ",server=on,wait=off" if nic.server else ""
            if nic.reconnect:
                options += f",reconnect={nic.reconnect}"
            queues = f",queues={nic.queues}" if nic.queues > 1 else ""
            # vectors=0: with MSI-X QEMU 7.2 under TCG crashes when vhost-user starts.
            device = (f"virtio-net-pci,netdev=n{index},mac={nic.mac},vectors=0,romfile="
                      f"{',mq=on' if nic.queues > 1 else ''}"
                      f"{',iommu_platform=on,disable-legacy=on,ats=on' if iommu else ''}"
                      f"{',' + nic.properties if nic.properties else ''}")
            argv += ["-chardev", f"socket,id=c{index},path={nic.socket}{options}",
                     "-netdev", f"vhost-user,id=n{index},chardev=c{index}{queues}",
                     "-device", device]
        if incoming:
            argv += ["-incoming", incoming]
        argv += devices
        self.child = supervisor.start(argv, name=f"guest-{name}", cpus=cpus)
        self._monitor = None
        self._tokens = 0
        # At once: what the guest says while nobody is connected is lost.
        self._agent = self._connect(self._agent_path)

    def _connect(self, path: str) -> socket.socket:
        """QEMU makes its sockets one after the other."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

        def connected() -> bool:
            if not self.child.alive():
                raise HarnessError(self.child.describe())
            return sock.connect_ex(path) == 0
        wait_until(connected, 30, f"QEMU listens on {path}")
        return sock

    def wait_ready(self, timeout: float = 240) -> None:
        """Waits for the end of the boot."""
        deadline = time.monotonic() + timeout
        self._await("ready", deadline)

    def _await(self, token: str, deadline: float) -> tuple[str, int]:
        data = b""
        end = re.compile(rb"\n?@@" + token.encode() + rb" (\d+)@@\n")
        while not (match := end.search(data)):
            left = deadline - time.monotonic()
            self._agent.settimeout(max(0.01, left))
            try:
                chunk = self._agent.recv(65536)
            except TimeoutError:
                chunk = b""
            if not chunk:
                raise HarnessError(f"guest {self.name}: no answer, so far: "
                                   f"{data.decode(errors='replace')}\n{self.child.describe()}")
            data += chunk
        return data[:match.start()].decode(errors="replace"), int(match[1])

    def run(self, script: str, timeout: float = 120, check: bool = True) -> str:
        """Runs a bash script in the guest; what it printed."""
        self._tokens += 1
        token = f"job{self._tokens}"
        encoded = base64.b64encode(script.encode()).decode()
        self._agent.sendall(f"{token} {encoded}\n".encode())
        output, status = self._await(token, time.monotonic() + timeout)
        if check and status:
            raise HarnessError(f"guest {self.name}: exit status {status} of: {script}\n{output}")
        return output

    def configure(self, number: int, mtu: int = 1500, interface: str = "eth0") -> None:
        """Addresses 10.77.0.<number>/24 and fd77::<number>/64 on its first card."""
        self.run(f"""
          for i in $(seq 100); do [ -e /sys/class/net/{interface} ] && break; sleep 0.1; done
          sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
          ip link set {interface} mtu {mtu} up
          ip addr add 10.77.0.{number}/24 dev {interface}
          ip -6 addr add fd77::{number}/64 dev {interface} nodad""")

    def monitor(self, command: str, **arguments):
        """A QMP command; what it returned."""
        if not self._monitor:
            sock = self._connect(self._monitor_path)
            sock.settimeout(30)
            self._monitor = sock.makefile("rw")
            self._monitor.readline()
            self.monitor("qmp_capabilities")
        request = {"execute": command}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self._monitor.write(json.dumps(request) + "\n")
        self._monitor.flush()
        while line := self._monitor.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise HarnessError(f"QMP {command}: {answer['error']['desc']}")
        raise HarnessError(self.child.describe())

    def plug_memory(self, name: str, megabytes: int) -> None:
        """Adds a memory module of its own memfd while the guest runs."""
        self.monitor("object-add", qom_type="memory-backend-memfd", id=f"m{name}",
                     size=megabytes << 20, share=True)
        self.monitor("device_add", driver="pc-dimm", id=f"d{name}", memdev=f"m{name}")

    def ping(self, target: str, count: int = 20, size: int = 56, options: str = "") -> int:
        """How many echo requests had no reply. ping -A does not wait for a late reply, and a guest
        that is short of CPU time is late: so one ping sends no more at a time than a ring of 256
        entries holds."""
        at_once = max(1, 200 // (size // 1200 + 1))
        text = self.run(f"for at in $(seq 0 {at_once} {count - 1}); do ping -q -n -A -W 10 "
                        f"-c $(({count} - at < {at_once} ? {count} - at : {at_once})) "
                        f"-s {size} {options} {target}; done",
                        timeout=30 + count * 0.2, check=False)
        echoes = re.findall(r"(\d+) packets transmitted, (\d+) received", text)
        if sum(int(sent) for sent, _ in echoes) != count:
            raise HarnessError(f"guest {self.name}: ping {target} said: {text}")
        return count - sum(int(received) for _, received in echoes)

    def wait_reachable(self, target: str, timeout: float = 30) -> None:
        """Waits for the first echo reply."""
        self.run(f"for i in $(seq {int(timeout * 4)}); do ping -n -c1 -W 0.25 {target} >/dev/null "
                 "&& exit 0; done; exit 1", timeout=timeout + 10)

    def iperf(self, target: str, seconds: float = 3, options: str = "") -> dict:
        """What iperf3's client measured: the "end" of its JSON report, with "mbps" added.

        The other side has `start_iperf_server()` called.
        """
        text = self.run(f"iperf3 -J -c {target} -t {seconds} --connect-timeout 5000 {options}",
                        timeout=seconds * 3 + 60, check=False)
        try:
            report = json.loads(text[text.index("{"):])
        except ValueError:
            raise HarnessError(f"guest {self.name}: iperf3 said: {text}") from None
        if "error" in report:
            raise HarnessError(f"guest {self.name}: iperf3: {report['error']}")
        end = report["end"]
        end["mbps"] = end.get("sum_received", end.get("sum"))["bits_per_second"] / 1e6
        return end

    def start_iperf_server(self) -> None:
        self.run("iperf3 -s -D >/dev/null 2>&1; for i in $(seq 50); do "
                 "ss -ltn | grep -q :5201 && exit 0; sleep 0.1; done; exit 1")

    def offloads(self, interface: str = "eth0") -> dict[str, str]:
        """ethtool -k as a table."""
        text = self.run(f"ethtool -k {interface}")
        return dict(re.findall(r"^\s*([\w-]+): (\w+)", text, re.MULTILINE))

    def link_counters(self, interface: str = "eth0") -> dict[str, int]:
        """The kernel's counters of a card."""
        text = self.run(f"cd /sys/class/net/{interface}/statistics; grep . *")
        return {k: int(v) for k, v in re.findall(r"^(\w+):(\d+)", text, re.MULTILINE)}

    def quit(self) -> None:
        """Powers the guest off through QEMU. One that has closed its connections and stays
        nevertheless, as 7.2 does once in many migrations, is killed."""
        if not self.child.alive():
            return
        self.monitor("quit")
        try:
            self.child.wait(15)
        except HarnessError:
            print(f"guest {self.name}: QEMU does not end by itself")
            self.child.kill()
