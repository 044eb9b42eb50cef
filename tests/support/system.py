# SPDX-License-Identifier: Apache-2.0
"""What the machine lends to a test and gets back: hugepages, namespaces, taps; and what it lacks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from .process import HarnessError, Supervisor, call, process_alive

_HUGE = Path("/proc/sys/vm/nr_hugepages")
_RECORDS = Path("/run/pollux-hugepages")


def is_root() -> bool:
    return os.geteuid() == 0


def missing_program(*names: str) -> str | None:
    """The sentence to skip with if one of the programs is not there."""
    package = {"dpdk-testpmd": "dpdk-dev", "qemu-system-x86_64": "qemu-system-x86",
               "iperf3": "iperf3", "ip": "iproute2", "ethtool": "ethtool",
               "ovs-vsctl": "openvswitch-switch-dpdk", "ping": "iputils-ping", "busybox": "busybox-static"}
    for name in names:
        if not find_program(name):
            return f"{name} is not installed: apt-get install {package.get(name, name)}"
    return None


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@contextlib.contextmanager
def hugepages(pages: int) -> Iterator[int]:
    """Reserves `pages` more free hugepages of 2 MiB and gives the same number back.

    The reservation is written down with our pid: one that a killed process left behind is
    taken back by the next caller. Raises HarnessError if the kernel has no room for them.
    """
    if not is_root():
        raise HarnessError("reserving hugepages needs root")
    _RECORDS.mkdir(exist_ok=True)
    record = _RECORDS / str(os.getpid())
    with _hugepage_lock():
        for other in _RECORDS.glob("[0-9]*"):
            if not process_alive(int(other.name)):
                _change_hugepages(-int(other.read_text() or 0))
                other.unlink()
        before = int(_HUGE.read_text())
        got = _change_hugepages(pages) - before
        held = int(record.read_text()) if record.exists() else 0
        record.write_text(str(held + got))
    try:
        if got < pages:
            raise HarnessError(f"the kernel gave {got} of {pages} hugepages: free some memory")
        yield got
    finally:
        with _hugepage_lock():
            _change_hugepages(-got)
            held = int(record.read_text()) - got
            record.write_text(str(held)) if held else record.unlink()


@contextlib.contextmanager
def _hugepage_lock() -> Iterator[None]:
    with open(_RECORDS / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _change_hugepages(by: int) -> int:
    _HUGE.write_text(str(max(0, int(_HUGE.read_text()) + by)))
    return int(_HUGE.read_text())


def netns_reason() -> str | None:
    """Why network namespaces and taps can not be used here, if so."""
    if not is_root():
        return "taps and network namespaces need root (CAP_NET_ADMIN)"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing: load the tun module"
    return missing_program("ip")


class Netns:
    """A network namespace with this interpreter's pid in its name."""

    def __init__(self, supervisor: Supervisor) -> None:
        _sweep_namespaces()
        self.name = supervisor.unique("n")
        call(["ip", "netns", "add", self.name])
        supervisor.defer(lambda: call(["ip", "netns", "del", self.name], check=False))
        self.run("ip", "link", "set", "lo", "up")
        # Router solicitations and the like would blur exact counts.
        self.run("sysctl", "-qw", "net.ipv6.conf.default.accept_ra=0",
                 "net.ipv6.conf.default.router_solicitations=0",
                 "net.ipv6.conf.default.accept_dad=0")

    def command(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, *argv: str, timeout: float = 30, check: bool = True) -> str:
        return call(self.command(*argv), timeout=timeout, check=check)

    def take(self, interface: str, *addresses: str, mtu: int | None = None) -> None:
        """Moves an interface in, gives it addresses and brings it up."""
        call(["ip", "link", "set", interface, "netns", self.name])
        if mtu:
            self.run("ip", "link", "set", interface, "mtu", str(mtu))
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.run("ip", "addr", "add", address, "dev", interface, *nodad)
        self.run("ip", "link", "set", interface, "up")


    TUNSETIFF, TUNSETOFFLOAD, TUN_F_CSUM = 0x400454CA, 0x400454D0, 1
    _IFF_TAP_NO_PI_VNET_HDR = 2 | 0x1000 | 0x4000

    def open_tap(self, supervisor: Supervisor) -> tuple[int, str]:
        """A tap interface inside whose other end is ours: descriptor and name. What is read and
        written has a virtio-net header of 10 bytes."""
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        supervisor.defer(os.close, fd)
        name = supervisor.unique("g")
        fcntl.ioctl(fd, self.TUNSETIFF,
                    struct.pack("16sH22x", name.encode(), self._IFF_TAP_NO_PI_VNET_HDR))
        self.take(name)
        return fd, name


def _sweep_namespaces() -> None:
    for line in call(["ip", "netns", "list"], check=False).splitlines():
        if (m := re.match(r"px(\d+)n\d+\b", line)) and not process_alive(int(m[1])):
            call(["ip", "netns", "del", line.split()[0]], check=False)


def tsc_hz() -> float:
    """The rate of the time stamp counter, in Hz: what the kernel says, else measured."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return float(line.split(":")[1]) * 1e6
    raise HarnessError("/proc/cpuinfo has no 'cpu MHz'")
