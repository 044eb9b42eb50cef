# SPDX-License-Identifier: Apache-2.0
"""The switch is killed under traffic, at any moment, and started again; its peers stay and go on
with the rings that they have. Sequence numbers tell what became of every frame.

CRASH_TURNS says how often the switch dies in each test (3); the tests marked slow do it 100 times.
CRASH_SEED repeats a run.
"""

import json
import os
import random
import select
import signal

import pytest
from conftest import MAC_A, MAC_B

from support import testpmd as tp
from support.pollux import PolluxSwitch, pollux_bin
from support.process import cpu_pair, cpus, wait_until
from support.switches import Port

pytestmark = pytest.mark.usefixtures("pollux_path")

TURNS = int(os.environ.get("CRASH_TURNS", "3"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 1 << 32)
MANY = [pytest.param(TURNS, id="some"), pytest.param(100, id="hundred", marks=pytest.mark.slow)]
# Frames that a turn of a queue takes: their sender's used entries are out, their receiver's not.
BURST = 32
LAST_WAIT = 60


def generator(supervisor, *words, name="gen"):
    return supervisor.start([pollux_bin(), *words, "--json", "--quiet", "--wait", "60"],
                            separate_stderr=True, cpus=[cpu_pair()[1]], name=name)


def report_of(child):
    """What a generator or a sink says in the end."""
    child.send_signal(signal.SIGINT)
    child.wait(LAST_WAIT)
    return json.loads(child.output[child.output.index("{"):])


def pause(seconds):
    """Lets the others work for a moment that is to be random."""
    select.select([], [], [], seconds)


class Crashes:
    """A switch that dies and is started again, on the same sockets, and what it dropped for want
    of a receiver that had not come back yet: those frames are not lost unseen."""

    def __init__(self, supervisor, **options):
        self.supervisor, self.options = supervisor, options
        self.random = random.Random(SEED)
        print(f"CRASH_SEED={SEED}")
        self.dropped = 0
        self.start()

    def start(self):
        self.switch = PolluxSwitch(self.supervisor, **self.options)

    def all_back(self):
        self.switch.wait_attached(timeout=60)
        base = {n: c.rx_packets for n, c in self.switch.counters().items()}

        def moving():
            now = self.switch.counters()
            return sum(now[n].rx_packets - base[n] for n in base) > 1000
        wait_until(moving, 60, "traffic flows again", 0.02)

    def count_drops(self):
        """Of this process, before it ends."""
        self.dropped += sum(c.dropped for c in self.switch.counters().values())

    def crash(self):
        pause(self.random.random() / 20)
        self.count_drops()
        self.switch.child.kill()
        # Some of the time its peers have long noticed when it comes back, some of the time not.
        pause(self.random.choice((0, 0, 0.3)))
        self.start()


def assert_nothing_twice(report):
    for fault in ("duplicates", "corrupt", "foreign", "reordered"):
        assert report[fault] == 0, f"{fault}: {report}"


@pytest.mark.parametrize("turns", MANY)
@pytest.mark.parametrize("options, state", [
    ("", True), (",indirect=off,mrg=off", True), (",event-idx=off", True),
    (",packed=only", True), (",packed=only,in-order=only,mrg=off", True),
    # Where packed rings are, their front ends' in-flight regions tell.
    (",packed=only,queue-size=300", False), (",packed=only,indirect=off,event-idx=off", False),
    (",packed=only,in-order=only,mrg=off", False), (",packed=only,in-order=only", False),
    ("", False)])
def test_killed_under_traffic(supervisor, turns, options, state):
    """Frames of several sizes from a to b, a bounded number on their way: what is lost is counted
    to the frame."""
    crashes = Crashes(supervisor, ports=["a", "b"], state=state)
    sockets = [f"virtio-user:{crashes.switch.socket(name)}{options}" for name in "ab"]
    stream = generator(supervisor, "gen", "--port", sockets[0], "--sink", sockets[1], "--time",
                       "100000", "--size", "60:3,570:2,1518:1")
    crashes.all_back()
    for _ in range(turns):
        crashes.crash()
        crashes.all_back()
    report = report_of(stream)
    crashes.count_drops()
    assert_nothing_twice(report)
    # At most one burst of the one queue dies with the switch.
    assert report["lost"] <= crashes.dropped + turns * BURST, \
        f"{report['lost']} lost, {crashes.dropped} dropped, in {turns} turns"
    assert report["received"]["packets"] > 1000 * turns


@pytest.mark.parametrize("turns", MANY)
def test_killed_with_two_workers(supervisor, turns):
    """Two workers fill the one receive ring of b in turns that overlap."""
    crashes = Crashes(supervisor, ports=["a", "b", "c"], cpus=cpus()[:2])
    sink = generator(supervisor, "sink", "--port", f"virtio-user:{crashes.switch.socket('b')}",
                     "--announce", MAC_B, name="sink")
    senders = [generator(supervisor, "gen", "--port",
                         f"virtio-user:{crashes.switch.socket(name)}", "--time", "100000",
                         "--rate", "100k", "--dst", MAC_B, "--stream", str(number),
                         "--src", f"02:00:0a:00:{number:02x}:01")
               for number, name in enumerate("ac")]
    crashes.all_back()
    for _ in range(turns):
        crashes.crash()
        crashes.all_back()
    assert_nothing_twice(report_of(sink))
    for sender in senders:
        report_of(sender)


@pytest.mark.parametrize("turns", MANY)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_killed_under_testpmd(need_testpmd, supervisor, turns, packed):
    """testpmd's virtio-user as the sockets' server: it takes the switch back, with split rings as
    they are and packed ones set up anew; the packets of its loop go on circling but for those that
    died with the switch."""
    ports = [Port("a", server=False), Port("b", server=False)]
    macs = (MAC_A, MAC_B)
    crashes = Crashes(supervisor, ports=ports)
    testpmd = tp.Testpmd(
        supervisor, [tp.virtio_user(crashes.switch.socket(p.name), mac=m, server=True,
                                    packed=packed)
                     for p, m in zip(ports, macs)],
        descriptors=1024, options=["--eth-peer=0," + macs[1], "--eth-peer=1," + macs[0]])

    def back():
        crashes.switch.wait_attached(timeout=60, poke=lambda: testpmd.command("show port info all"))
    back()
    testpmd.start_loop(256)
    for _ in range(turns):
        wait_until(lambda: sum(c.rx_packets for c in crashes.switch.counters().values()) > 10000,
                   60, "packets circle", 0.02)
        crashes.crash()
        back()
        # What the crash took, and what testpmd dropped while nobody was there, is made up for.
        testpmd.stop()
        testpmd.start_loop(256)
    wait_until(lambda: sum(c.rx_packets for c in crashes.switch.counters().values()) > 10000, 60,
               "packets circle", 0.02)
    crashes.switch.finish()
