# SPDX-License-Identifier: Apache-2.0
"""The `pollux` command: a running switch, and the tools beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .process import Child, HarnessError, Supervisor, cpu_pair, wait_until
from .switches import Counters, Port, Switch

_TREE = Path(__file__).resolve().parent.parent.parent


def pollux_bin() -> str:
    """The binary under test: $POLLUX_BIN, or what `./run build` leaves."""
    path = os.environ.get("POLLUX_BIN") or str(_TREE / "build/release/bin/pollux")
    if not os.access(path, os.X_OK):
        raise HarnessError(f"{path} is not there: ./run build, or set POLLUX_BIN")
    return path


def pollux(*argv: str, timeout: float = 30) -> subprocess.CompletedProcess:
    """Runs a sub-command to its end; look at returncode, stdout and stderr."""
    return subprocess.run([pollux_bin(), *map(str, argv)], capture_output=True, text=True,
                          timeout=timeout)


def vhost_user(path: str, port: Port, options: str = "") -> str:
    """The port's SPEC."""
    spec = f"vhost-user:{path}"
    if port.queues > 1:
        spec += f",queues={port.queues}"
    if port.queue_size:
        spec += f",queue-size={port.queue_size}"
    if not port.server:
        spec += ",server=off"
    return spec + (f",{options}" if options else "")


class PolluxSwitch(Switch):
    """`pollux switch` with a control socket, from its line "ready" on."""

    kind = "pollux"

    def __init__(self, supervisor: Supervisor, ports: Sequence[Port | str] = (), *,
                 specs: Mapping[str, str] | None = None, port_options: str = "",
                 cpus: Sequence[int] | None = None, arguments: Sequence[str] = (),
                 name: str = "pollux", state: bool = True, **_: object) -> None:
        """`ports` become vhost-user ports, with `port_options` appended to each; `specs` are
        others by name, as the command line takes them. Without `state` it keeps no files."""
        super().__init__(supervisor, ports)
        self.control = supervisor.path(supervisor.unique("c"))
        cpus = [cpu_pair()[0]] if cpus is None else cpus
        argv = [pollux_bin(), "switch", "--control", self.control, "--json",
                "--state", supervisor.path("state") if state else "none"]
        if cpus:
            argv += ["--cpus", ",".join(map(str, cpus))]
        for port in self.ports:
            argv += ["--port",
                     f"{port.name}={vhost_user(self.sockets[port.name], port, port_options)}"]
        for port_name, spec in (specs or {}).items():
            argv += ["--port", f"{port_name}={spec}"]
        self.child: Child = supervisor.start([*argv, *arguments], name=name,
                                             separate_stderr=True)
        self.child.wait_for(r"^ready$", 20)

    def ask(self, *words: str) -> dict:
        """`pollux WORDS --control SOCKET --json`, read."""
        done = pollux(*words, "--control", self.control, "--json")
        if done.returncode:
            raise HarnessError(f"pollux {' '.join(words)}: {done.stderr}{self.child.describe()}")
        return json.loads(done.stdout)

    def stats(self) -> dict:
        return self.ask("stats")

    def busy_cycles(self) -> float:
        workers = self.stats()["workers"]
        return (sum(w["busy_cycles"] for w in workers) /
                max(1, sum(w["packets"] for w in workers)))

    def port_infos(self) -> dict[str, dict]:
        return {port["name"]: port for port in self.ask("ports")["ports"]}

    def wait_attached(self, *names: str, timeout: float = 30,
                      poke: Callable[[], object] = lambda: None) -> None:
        wanted = set(names or self.sockets)

        def up() -> bool:
            poke()
            return wanted <= {n for n, p in self.port_infos().items() if p["link_up"]}
        try:
            wait_until(up, timeout, "", 0.05)
        except HarnessError as error:
            raise HarnessError(f"not all of {sorted(wanted)} have a peer: {error}: "
                               f"{json.dumps(self.port_infos(), indent=1)}") from error

    def wait_detached(self, name: str, timeout: float = 10) -> None:
        wait_until(lambda: not self.port_infos()[name]["link_up"], timeout,
                   f"port {name} notices that its peer has gone", 0.02)

    def counters(self) -> dict[str, Counters]:
        return counters_of(self.stats())

    def negotiated(self) -> dict[str, str]:
        found = {}
        for name, port in self.port_infos().items():
            sizes = sorted({ring["size"] for ring in port["rings"] if ring["enabled"]})
            found[name] = (f"{' '.join(port['feature_names'])} rings "
                           f"{'/'.join(map(str, sizes)) or '-'}, {port['memory']}")
        return found

    def add_port(self, name: str, spec: str) -> None:
        self._port("add", f"{name}={spec}")

    def delete_port(self, name: str) -> None:
        self._port("del", name)

    def set_mode(self, queue: str, mode: str) -> None:
        self._port("mode", queue, mode)

    def _port(self, *words: str) -> None:
        done = pollux("port", *words, "--control", self.control)
        if done.returncode:
            raise HarnessError(f"pollux port {' '.join(words)}: {done.stderr}")

    def start_take_over(self, name: str = "successor") -> Child:
        """A process that is about to take this switch over."""
        return self.supervisor.start([pollux_bin(), "switch", "--take-over", self.control, "--json"],
                                     name=name, separate_stderr=True)

    def take_over(self) -> None:
        """Another process takes the switch over, and this object stands for that one from then on;
        the one before must end with status 0."""
        before, self.child = self.child, self.start_take_over()
        self.child.wait_for(r"^ready$", 60)
        if before.wait(30):
            raise HarnessError(f"the switch before ended badly: {before.describe()}")

    def finish(self, number: int = signal.SIGTERM) -> dict:
        """Ends the switch by a signal; its last report. It must end with status 0."""
        status = self.child.stop(number, timeout=15)
        if status:
            raise HarnessError(f"the switch ended badly: {self.child.describe()}")
        text = self.child.output
        return json.loads(text[text.index("{"):])

    def stop(self) -> None:
        self.finish()


def counters_of(report: dict) -> dict[str, Counters]:
    """The ports of a report of statistics."""
    found = {}
    for port in report["ports"]:
        rx, tx = port["rx"], port["tx"]
        drops = {f"rx {k}": v for k, v in rx["drops"].items()}
        drops |= {f"tx {k}": v for k, v in tx["drops"].items()}
        found[port["name"]] = Counters(rx["packets"], rx["bytes"], tx["packets"], tx["bytes"],
                                       {k: v for k, v in drops.items() if v})
    return found


def check_conservation(report: dict) -> None:
    """Every accepted packet was carried or counted under a reason, copies and segments included.

    Drops while receiving are of packets that were never accepted only where the reason says so:
    the report counts them apart from rx packets.
    """
    ports, workers = report["ports"], report["workers"]
    accepted = sum(p["rx"]["packets"] for p in ports)
    made = sum(w["flood_copies"] - w["floods"] + w["gso_segments"] - w["gso_packets"]
               + w["gro_packets"] - w["gro_segments"]
               for w in workers)
    carried = sum(p["tx"]["packets"] for p in ports)
    dropped = sum(p["rx"]["dropped"] + p["tx"]["dropped"] for p in ports)
    if accepted + made != carried + dropped:
        raise HarnessError(f"{accepted} packets accepted and {made} made, but {carried} carried "
                           f"and {dropped} dropped: {json.dumps(report, indent=1)}")
