# SPDX-License-Identifier: Apache-2.0
"""A guest that moves between two QEMUs, to and fro, while it is pinged and sends and receives files.

    guest ── port a ──┐                       ┌── port b ── guest
      (one QEMU)      ├── pollux switch ──────┤      (another QEMU)
                      └── tap ── a namespace: ping, files

POLLUX_MIGRATIONS is the number of moves of the long tests (2: there and back).
"""

import hashlib
import os
import random
import re
import signal
import sys

import pytest

from support.guest import Guest, Nic
from support.pollux import PolluxSwitch
from support.process import HarnessError, wait_until
from support.switches import Port
from support.system import Netns

MOVES = int(os.environ.get("POLLUX_MIGRATIONS", "2"))
GUEST_IP, PEER_IP = "10.77.0.1", "10.77.0.9"
MAC = "02:00:00:00:77:01"
FILE_SIZE = 2 << 20

pytestmark = pytest.mark.usefixtures("need_guests", "need_netns")

# Runs inside the namespace. Sends FILE to the guest again and again, and takes what the guest
# sends, until standard input ends; each file that came is printed by its sum.
FILES = """
import hashlib, select, socket, sys, threading
path, guest, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = open(path, "rb").read()
done = threading.Event()
def send():
    while not done.is_set():
        try:
            with socket.create_connection((guest, port), 60) as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                s.settimeout(120)
                s.recv(1)
            print("sent", flush=True)
        except ConnectionRefusedError:
            done.wait(0.02)
        except OSError as e:
            print("send failed:", e, flush=True)
            done.wait(0.1)
def take(server):
    while not done.is_set():
        s, _ = server.accept()
        s.settimeout(120)
        digest, size = hashlib.sha256(), 0
        try:
            while chunk := s.recv(65536):
                digest.update(chunk)
                size += len(chunk)
            print("got", size, digest.hexdigest(), flush=True)
        except OSError as e:
            print("receive failed:", e, flush=True)
        s.close()
server = socket.create_server(("", port + 1))
threads = [threading.Thread(target=send, daemon=True),
           threading.Thread(target=take, args=(server,), daemon=True)]
for t in threads: t.start()
print("ready", flush=True)
sys.stdin.read()
done.set()
threads[0].join(150)
"""

# In the guest (busybox): takes files, prints their sums; sends the file it has.
GUEST_FILES = f"""
head -c {FILE_SIZE} /dev/urandom >/tmp/mine
head -c 8000000 /dev/urandom >/tmp/keep
sha256sum </tmp/keep >/tmp/keep.sum
(while :; do nc -l -p 8000 </dev/null >/tmp/in; sha256sum </tmp/in >>/tmp/sums; done) \
    >/dev/null 2>&1 &
(while :; do nc {PEER_IP} 8001 </tmp/mine && echo x >>/tmp/sent; done) >/dev/null 2>&1 &
sha256sum </tmp/mine
"""


class Traveller:
    """A guest that is now in one QEMU and then in another."""

    def __init__(self, supervisor, switch, properties="", queues=1):
        self.supervisor, self.switch = supervisor, switch
        self.properties, self.queues = properties, queues
        self.moves = 0
        self.port = "a"
        self.guest = self._qemu("a")
        self.guest.wait_ready()
        self.guest.run(f"""
          for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done
          ip link set eth0 up && ip addr add {GUEST_IP}/24 dev eth0""")
        switch.wait_attached("a")

    def _qemu(self, port, incoming=""):
        self.moves += 1
        return Guest(self.supervisor, f"{port}{self.moves}",
                     [Nic(self.switch.socket(port), MAC, queues=self.queues,
                          properties=self.properties)],
                     megabytes=160, vcpus=self.queues, alone=True, incoming=incoming)

    def set_out(self, postcopy=False):
        """Begins to move to the other port; source, target and that port. With `postcopy` the guest
        runs there already when this returns, with next to nothing of its memory."""
        source, to = self.guest, "b" if self.port == "a" else "a"
        path = self.supervisor.path(f"m{self.moves}")
        target = self._qemu(to, f"unix:{path}")
        capabilities = [{"capability": "postcopy-ram", "state": postcopy}]
        for guest in (source, target):
            guest.monitor("migrate-set-capabilities", capabilities=capabilities)
        source.monitor("migrate-set-parameters", downtime_limit=300,
                       max_bandwidth=(4 << 20) if postcopy else (512 << 20))
        source.monitor("migrate", uri=f"unix:{path}")
        if postcopy:
            wait_until(lambda: source.monitor("query-migrate").get("status") == "active", 30,
                       "the migration is active", 0.02)
            source.monitor("migrate-start-postcopy")
            wait_until(lambda: source.monitor("query-migrate")["status"] == "postcopy-active", 60,
                       "the guest runs at its new place", 0.01)
        return source, target, to

    def move(self, postcopy=False):
        """Moves to the other port; what QEMU says of it."""
        source, target, to = self.set_out(postcopy)

        def over():
            report = source.monitor("query-migrate")
            if report.get("status") in ("failed", "cancelled", "postcopy-paused"):
                raise HarnessError(f"migration {report}\n{source.child.describe()}"
                                   f"{target.child.describe()}")
            return report.get("status") == "completed"
        wait_until(over, 240, f"the guest has moved to port {to}", 0.05)
        report = source.monitor("query-migrate")
        wait_until(lambda: target.monitor("query-status")["status"] == "running", 60,
                   "the guest runs at its new place", 0.02)
        source.quit()
        self.guest, self.port = target, to
        return report


class Station:
    """The peer: a namespace with a tap of the switch."""

    def __init__(self, supervisor, switch, name="peer", address=PEER_IP):
        self.supervisor = supervisor
        self.tap = supervisor.unique("t")
        self.netns = Netns(supervisor)
        switch.add_port(name, f"tap:{self.tap}")
        self.netns.take(self.tap, f"{address}/24")

    def ping(self):
        return self.supervisor.start(
            self.netns.command("ping", "-n", "-D", "-i", "0.02", "-s", "200", GUEST_IP),
            name="ping")

    def files(self):
        data = random.Random(1).randbytes(FILE_SIZE)
        path = self.supervisor.path("file")
        with open(path, "wb") as file:
            file.write(data)
        child = self.supervisor.start(
            self.netns.command(sys.executable, "-c", FILES, path, GUEST_IP, "8000"), name="files")
        child.wait_for("^ready$", 20)
        return child, hashlib.sha256(data).hexdigest()


def longest_gap(ping_output):
    """Seconds between two replies at most, and how many were missing between first and last."""
    replies = [(float(t), int(s)) for t, s in
               re.findall(r"^\[([\d.]+)\] \d+ bytes .*icmp_seq=(\d+)", ping_output, re.MULTILINE)]
    times = sorted(t for t, _ in replies)
    sequence = {s for _, s in replies}
    gaps = [b - a for a, b in zip(times, times[1:])]
    missing = max(sequence) - min(sequence) + 1 - len(sequence)
    return max(gaps), missing


@pytest.fixture
def travel(supervisor, record_property):
    """A function that moves a guest to and fro under traffic and checks everything."""
    def go(moves, *, postcopy=False, properties="", queues=1):
        switch = PolluxSwitch(supervisor, [Port("a", queues=queues), Port("b", queues=queues)])
        station = Station(supervisor, switch)
        traveller = Traveller(supervisor, switch, properties, queues)
        boot = traveller.guest.run("cat /proc/sys/kernel/random/boot_id")
        files, peer_sum = station.files()
        guest_sum = traveller.guest.run(GUEST_FILES).split()[0]
        ping = station.ping()
        ping.wait_for("icmp_seq=20 ", 60)
        downtimes, gaps, lost = [], [], 0
        for _ in range(moves):
            start = len(ping.output)
            report = traveller.move(postcopy)
            assert not postcopy or report["ram"]["postcopy-requests"] > 0
            # Life goes on at the new place: replies, and files both ways that began there.
            ping.wait_for("bytes from", 60, ping.mark())
            for word in ("sent", "got"):
                mark = files.mark()
                for _ in range(2):
                    files.wait_for(f"^{word}", 120, mark)
                    mark = files.output.index(word, mark) + 1
            gap, missing = longest_gap(ping.output[start:])
            downtimes.append(report["downtime"])
            gaps.append(gap * 1000)
            lost += missing
            assert traveller.guest.run("cat /proc/sys/kernel/random/boot_id") == boot
        files.process.stdin.close()
        files.wait(200)
        ping.send_signal(2)
        check(traveller.guest, files.output, peer_sum, guest_sum)
        summary = (f"{moves} moves: downtime (QEMU) {min(downtimes)} to {max(downtimes)} ms, longest "
                   f"gap of ping {min(gaps):.0f} to {max(gaps):.0f} ms, {lost} echoes lost")
        record_property("migration", summary)
        print(summary)
        traveller.guest.quit()
        switch.stop()
    return go


def check(guest, peer_said, peer_sum, guest_sum):
    """Every file arrived as it was sent, and what lay still in the guest is what it was."""
    assert "failed" not in peer_said, peer_said
    got = re.findall(r"^got (\d+) (\w+)$", peer_said, re.MULTILINE)
    whole = [s for size, s in got if int(size) == FILE_SIZE]
    assert len(whole) >= 2 and set(whole) == {guest_sum}
    assert len(got) - len(whole) <= 1, got  # the last may have been cut off by the end of the test
    sums = [line.split()[0] for line in guest.run("cat /tmp/sums").splitlines() if line]
    assert len(sums) >= 2 and set(sums) == {peer_sum}, sums
    assert guest.run("sha256sum </tmp/keep") == guest.run("cat /tmp/keep.sum")
    assert "is not a head" not in guest.run("dmesg")


def test_to_and_fro(travel):
    travel(MOVES)


def test_post_copy(travel):
    """The guest runs at its new place before its memory has come."""
    travel(MOVES, postcopy=True)


def test_post_copy_with_a_source_that_stalls(supervisor):
    """A guest that waits for pages costs nobody else anything: neither the ports of the same worker
    nor control; and it can be let go."""
    switch = PolluxSwitch(supervisor, [Port("a"), Port("b")])
    station, other = Station(supervisor, switch), Station(supervisor, switch, "other", "10.77.0.8")
    traveller = Traveller(supervisor, switch)
    ping = station.ping()
    ping.wait_for("icmp_seq=20 ", 60)

    def others_go_on():
        text = other.netns.run("ping", "-q", "-n", "-i", "0.01", "-c", "100", "-W", "5", PEER_IP,
                               timeout=60)
        assert " 0% packet loss" in text, text
        other.netns.run("ip", "neigh", "flush", "all")
    source, target, to = traveller.set_out(postcopy=True)
    source.child.send_signal(signal.SIGSTOP)
    for _ in range(3):
        others_go_on()
        assert "PAGEFAULT" in switch.port_infos()[to]["protocol_feature_names"]
    target.child.kill()
    switch.wait_detached(to, 30)
    others_go_on()
    source.child.kill()
    switch.wait_detached(traveller.port, 30)
    others_go_on()
    switch.stop()


@pytest.mark.parametrize("properties, queues", [("packed=on", 2), ("mrg_rxbuf=off,event_idx=off", 1)])
def test_ring_formats(travel, properties, queues):
    travel(MOVES, properties=properties, queues=queues)


@pytest.mark.parametrize("announce", ["on", "off"])
def test_switch_relearns_at_once(supervisor, announce):
    """A guest that says nothing of its own is known at its new port as soon as it runs there: by
    its driver's announcement, or by QEMU's SEND_RARP where the driver makes none."""
    switch = PolluxSwitch(supervisor, [Port("a"), Port("b")])
    traveller = Traveller(supervisor, switch, f"guest_announce={announce}")

    def place():
        return [e["port"] for e in switch.ask("fdb", "show")["entries"] if e["mac"] == MAC]
    traveller.guest.run("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    traveller.guest.run(f"ping -c1 -W1 {PEER_IP} >/dev/null 2>&1; true")
    wait_until(lambda: place() == ["a"], 30, "the guest is known at port a")
    for port in "ba":
        traveller.move()
        wait_until(lambda p=port: place() == [p], 30, f"the guest is known at port {port}", 0.01)
    traveller.guest.quit()
    switch.stop()


@pytest.mark.slow
def test_to_and_fro_many_times(travel):
    """POLLUX_MIGRATIONS moves, 100 unless it says otherwise."""
    travel(int(os.environ.get("POLLUX_MIGRATIONS", "100")))
