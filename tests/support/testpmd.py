# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd, driven through its prompt.

One class for its three parts: a generator on virtio-user, a peer on its vhost PMD, a switch.
Each command waits for the next prompt, so nothing here sleeps for a guessed time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .process import Child, HarnessError, Supervisor, cpu_pair, wait_until

# Its log may come between the letters.
_PROMPT = r"(?:[^\n]*\n){0,2}?".join("testpmd> ")


@dataclass
class PortStats:
    """`show port stats`: packets since the start or the last clear, rates since the last show."""
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    rx_pps: int = 0
    tx_pps: int = 0
    rx_missed: int = 0
    rx_nombuf: int = 0


def virtio_user(path: str, *, mac: str, queues: int = 1, queue_size: int = 1024,
                mrg_rxbuf: bool = True, vectorized: bool = False, packed: bool = False,
                in_order: bool = False, server: bool = False, extra: str = "") -> str:
    """The --vdev text of a virtio-user port, without its name."""
    return (f"path={path},mac={mac},queues={queues},queue_size={queue_size},"
            f"mrg_rxbuf={int(mrg_rxbuf)},in_order={int(in_order)},packed_vq={int(packed)},"
            f"vectorized={int(vectorized)}"
            f"{',server=1' if server else ''}{extra}")


def vhost(path: str, *, queues: int = 1, client: bool = False, tso: bool = False,
          extra: str = "") -> str:
    """The --vdev text of a vhost port, without its name."""
    return (f"iface={path},queues={queues}{',client=1' if client else ''}"
            f"{',tso=1' if tso else ''}{extra}")


class Testpmd:
    """A running testpmd at its prompt.

    `vdevs` are --vdev texts as `virtio_user()` and `vhost()` make them; their kind is told
    from the first key. With `huge` the caller has reserved hugepages (512 MiB are taken).
    """

    __test__ = False  # not for pytest, in spite of its name

    def __init__(self, supervisor: Supervisor, vdevs: Sequence[str], *, cpu: int | None = None,
                 huge: bool = False, frame_size: int = 1518, queues: int = 1,
                 descriptors: int = 0, mbufs: int = 0, options: Sequence[str] = (),
                 eal_options: Sequence[str] = (), name: str = "testpmd", start_timeout: float = 30) -> None:
        cpu = cpu_pair()[1] if cpu is None else cpu
        names = {"path": "net_virtio_user", "iface": "net_vhost"}
        devices = []
        for index, text in enumerate(vdevs):
            devices.append(f"--vdev={names[text.split('=', 1)[0]]}{index},{text}")
        self.ports = len(devices)
        big = frame_size > 2000
        mbufs = mbufs or (16384 if huge else 8192)
        megabytes = 512 if huge else max(128, 64 + mbufs * (10 if big else 3) // 1024 * 2)
        memory = (["--in-memory", "--single-file-segments"] if huge
                  else ["--no-huge", "--no-shconf"])
        argv = ["stdbuf", "-oL", os.environ.get("TESTPMD", "dpdk-testpmd"),
                "--lcores", f"0@{cpu},1@{cpu}", *memory, "-m", str(megabytes), "--no-pci",
                "--no-telemetry", f"--file-prefix={supervisor.unique('d')}",
                "--log-level=pmd.net.virtio.init:debug", *devices, *eal_options, "--", "-i",
                "--nb-cores=1",
                f"--rxq={queues}", f"--txq={queues}", "--burst=32",
                f"--total-num-mbufs={mbufs}", "--no-lsc-interrupt", "--record-core-cycles",
                "--disable-link-check"]
        if descriptors:
            argv += [f"--rxd={descriptors}", f"--txd={descriptors}"]
        if big:
            argv += ["--mbuf-size=10240", "--max-pkt-len=9600"]
        argv += options
        self.child: Child = supervisor.start(argv, name=name,
                                             env={"RUNTIME_DIRECTORY": str(supervisor.dir)})
        self.child.wait_for(_PROMPT, start_timeout)

    def command(self, line: str, timeout: float = 20) -> str:
        """Gives a command; what it printed before the next prompt."""
        mark = self.child.mark()
        self.child.send(line)
        prompt = self.child.wait_for(_PROMPT, timeout, mark)
        said = self.child.output[mark:prompt.start()]
        if "Bad arguments" in said or "Command not found" in said:
            raise HarnessError(f"testpmd does not know '{line}': {said}")
        return said

    def stats(self) -> list[PortStats]:
        """Counters of every port."""
        return parse_port_stats(self.command("show port stats all"))

    def start_loop(self, packets: int = 256, size: int = 64, forward: str = "io") -> None:
        """Forwards what it receives on one port out of its neighbour, primed with `packets` a
        queue, 32 a burst: so many are in flight for ever unless one is lost."""
        self.command(f"set fwd {forward}")
        self.command(f"set txpkts {size}" if isinstance(size, int) else
                     f"set txpkts {','.join(map(str, size))}")
        self.command(f"start tx_first {packets // 32}")

    def stop(self) -> str:
        """Ends forwarding; its summary."""
        return self.command("stop")

    def drain(self) -> None:
        """Takes in, and counts, what a stopped forwarder left in its receive rings."""
        self.command("set fwd rxonly")
        self.command("start")
        wait_until(_settled(lambda: [s.rx_packets for s in self.stats()]), 10,
                   "testpmd's receive counters come to rest", 0.1)
        self.stop()

    def negotiated(self) -> list[int]:
        """The feature bits of each port, as the virtio or vhost side logged them last."""
        found: dict[int, int] = {}
        text = self.child.output
        vhost_logs = re.findall(r"VHOST_CONFIG: \((\S+)\) negotiated Virtio features: 0x(\w+)", text)
        if vhost_logs:
            return list({path: int(bits, 16) for path, bits in vhost_logs}.values())
        for index, match in enumerate(
                re.finditer(r"features after negotiate = ([0-9a-f]+)", text)):
            found[index % self.ports] = int(match[1], 16)
        return [found[index] for index in sorted(found)]

    def ring_sizes(self) -> list[int]:
        """The queue sizes in use, each once (virtio-user only)."""
        return sorted({int(n) for n in re.findall(r"vq_size: (\d+)", self.child.output)})

    def routines(self) -> set[str]:
        """Which receive and transmit routines testpmd chose (virtio-user only)."""
        return set(re.findall(r"using (.*?) path on port", self.child.output))

    def cycles(self) -> tuple[float, float]:
        """Busy cycles a packet, and the clock in Hz, since forwarding started."""
        match = re.search(r"CPU cycles/packet=([\d.]+).*?at (\d+) MHz Clock",
                          self.command("show fwd stats all"), re.DOTALL)
        return (float(match[1]), float(match[2]) * 1e6) if match else (0.0, 0.0)

    def wait_ready(self, count: int | None = None, timeout: float = 20, since: int = 0,
                   poke: Callable[[], object] = lambda: None) -> None:
        """Waits until `count` front ends have attached to our vhost ports, `since` a mark()."""
        count = self.ports if count is None else count

        def ready() -> bool:
            poke()
            return self.child.output.count("virtio is now ready for processing", since) >= count
        wait_until(ready, timeout, f"{count} peers attach to testpmd's vhost ports")

    def quit(self, timeout: float = 20) -> None:
        """Ends in an orderly way: closes its sockets after telling the peers."""
        self.child.send("quit")
        self.child.wait(timeout)
        self.child.kill()


def parse_port_stats(text: str) -> list[PortStats]:
    """Reads the blocks of `show port stats all`, in the order of ports."""
    fields = {"RX-packets": "rx_packets", "RX-bytes": "rx_bytes", "TX-packets": "tx_packets",
              "TX-bytes": "tx_bytes", "Rx-pps": "rx_pps", "Tx-pps": "tx_pps",
              "RX-missed": "rx_missed", "RX-nombuf": "rx_nombuf"}
    found: list[PortStats] = []
    for block in re.split(r"NIC statistics for port \d+", text)[1:]:
        stats = PortStats()
        for key, value in re.findall(r"([\w-]+):\s+(\d+)", block):
            if key in fields:
                setattr(stats, fields[key], int(value))
        found.append(stats)
    return found


def _settled(read):
    """A condition: `read()` gives the same twice running."""
    last = [None]

    def same() -> bool:
        now = read()
        before, last[0] = last[0], now
        return now == before
    return same
