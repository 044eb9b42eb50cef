# SPDX-License-Identifier: Apache-2.0
"""A running switch is handed over to a new process under traffic: no packet is lost or comes twice,
and what was counted, learned and set goes on.

TAKE_OVER_TURNS says how often in each test (3); the tests marked slow do it 100 times.
"""

import http.client
import json
import os
import random
import select
import signal
import socket

import pytest
from conftest import MAC_A, MAC_B, Loop, assert_accounts_agree

from support import frames
from support.frontend import Frontend
from support.iommu import PAGE, IommuFrontend
from support.pollux import PolluxSwitch, check_conservation, pollux, pollux_bin, vhost_user
from support.process import HarnessError, cpu_pair, cpus, wait_until
from support.switches import Port

pytestmark = pytest.mark.usefixtures("pollux_path")

TURNS = int(os.environ.get("TAKE_OVER_TURNS", "3"))
SEED = int(os.environ.get("TAKE_OVER_SEED", "0")) or random.randrange(1, 1 << 32)
MANY = [pytest.param(TURNS, id="some"), pytest.param(100, id="hundred", marks=pytest.mark.slow)]
BURST = 32


class Stream:
    """A generator from port a to port b, with a bounded number of frames on their way."""

    def __init__(self, supervisor, switch, a="a", b="b", options=""):
        self.child = supervisor.start(
            [pollux_bin(), "gen", "--port", f"virtio-user:{switch.socket(a)}{options}",
             "--sink", f"virtio-user:{switch.socket(b)}{options}", "--time", "100000",
             "--size", "60:3,570:2,1518:1", "--json", "--quiet", "--wait", "60"],
            separate_stderr=True, cpus=[cpu_pair()[1]], name="gen")
        switch.wait_attached(a, b, timeout=60)

    def finish(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait(60)
        return json.loads(self.child.output[self.child.output.index("{"):])


def wait_moving(switch, names=("a",), count=1000):
    base = switch.counters()
    wait_until(lambda: all(switch.counters()[n].rx_packets - base[n].rx_packets > count
                           for n in names), 60, "traffic flows", 0.02)


def assert_perfect(report, lost=0):
    for fault in ("duplicates", "corrupt", "reordered", "foreign"):
        assert report[fault] == 0, f"{fault}: {report}"
    assert report["lost"] <= lost, report


def assert_same_counts(report, last):
    """Generator and switch agree to the packet, over all processes that the switch has been."""
    ends = {port["name"]: port for port in report["ports"]}
    inside = {port["name"]: port for port in last["ports"]}
    for end, port in (("gen", "a"), ("sink", "b")):
        for ours, theirs in (("rx", "tx"), ("tx", "rx")):
            for what in ("packets", "bytes"):
                assert inside[port][ours][what] == ends[end][theirs][what], f"{port} {ours} {what}"


@pytest.mark.parametrize("turns", MANY)
@pytest.mark.parametrize("options", ["", ",indirect=off,mrg=off", ",event-idx=off",
                                     ",packed=only", ",packed=only,in-order=only,mrg=off"])
def test_under_traffic(supervisor, turns, options):
    """Nothing is lost, nothing comes twice, and both sides have counted the same."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    stream = Stream(supervisor, switch, options=options)
    pauses = []
    for _ in range(turns):
        wait_moving(switch)
        switch.take_over()
        pauses.append(switch.stats()["take_over_pause_ms"])
    wait_moving(switch)
    report = stream.finish()
    assert_perfect(report)
    last = switch.finish()
    check_conservation(last)
    assert_same_counts(report, last)
    print(f"pauses: {', '.join(f'{p:.2f}' for p in pauses)} ms")


@pytest.mark.parametrize("turns", MANY)
@pytest.mark.parametrize("rings", [{}, {"packed": True}, {"packed": True, "in_order": True}],
                         ids=["split", "packed", "packed in-order"])
def test_under_testpmd(need_testpmd, supervisor, turns, rings):
    """testpmd's loop goes on circling: not one of its packets is missing in the end."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    loop = Loop(supervisor, switch, **rings)
    loop.start()
    for _ in range(turns):
        loop.wait_packets(5000)
        switch.take_over()
    loop.wait_packets(5000)
    seen = loop.stop()
    assert_accounts_agree(loop.before, switch.counters(), seen)
    check_conservation(switch.finish())


def test_two_queues_and_two_workers(supervisor):
    switch = PolluxSwitch(supervisor, [Port("a", queues=2), Port("b", queues=2)], cpus=cpus()[:2])
    stream = Stream(supervisor, switch, options=",queues=2")
    for _ in range(TURNS):
        wait_moving(switch)
        switch.take_over()
    assert_perfect(stream.finish())
    check_conservation(switch.finish())


def test_sockets_that_the_switch_connects_to(supervisor):
    """With server=off the connection goes over, and so does connecting again."""
    switch = PolluxSwitch(supervisor, [Port("a", server=False), Port("b", server=False)])
    stream = Stream(supervisor, switch, options=",server=on")
    for _ in range(TURNS):
        wait_moving(switch)
        switch.take_over()
    assert_perfect(stream.finish())
    stream = Stream(supervisor, switch, options=",server=on")
    wait_moving(switch)
    assert_perfect(stream.finish())
    switch.finish()


def test_sleepers_are_woken(supervisor):
    """Workers that sleep are taken over, fall asleep again and are woken by the next kick."""
    switch = PolluxSwitch(supervisor, ["a", "b"])

    def sleeps(more):
        before = switch.stats()["workers"][0]["sleeps"]
        wait_until(lambda: switch.stats()["workers"][0]["sleeps"] >= before + more, 30,
                   "the worker sleeps")
    with Frontend(switch.socket("a")) as a, Frontend(switch.socket("b")) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        for turn in range(TURNS):
            sleeps(2)
            switch.take_over()
            sleeps(2)
            frame = frames.ethernet(MAC_B, MAC_A, size=60 + turn)
            a.send(frame, timeout=20)
            assert b.receive(1, timeout=20) == [frame]
    check_conservation(switch.finish())


def test_behind_an_iommu(supervisor):
    """What the IOMMU has told goes along: no page is asked for twice by all processes together."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    with Frontend(switch.socket("a")) as a, IommuFrontend(switch.socket("b")) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b", poke=b.serve)
        for turn in range(TURNS + 1):
            out = frames.ethernet(MAC_A, MAC_B, size=60 + turn)
            b.send(out, timeout=30)
            assert a.receive(1, timeout=30) == [out]
            back = frames.ethernet(MAC_B, MAC_A, size=100 + turn)

            def arrived():  # before its buffers are mapped, frames are dropped
                a.send(back)
                b.serve(0.01)
                return back in b.poll()
            wait_until(arrived, 30, "a frame arrives behind the IOMMU", 0.005)
            # While a question is open the switch stays where it is.
            wait_until(lambda: b.serve(0.1) == 0, 30, "nothing is asked any more", 0)
            if turn < TURNS:
                switch.take_over()
        asked = [(guest & -PAGE, access) for guest, access in b.misses]
        assert len(asked) == len(set(asked))
    switch.finish()


def test_what_is_there_goes_on(supervisor):
    """Ports with their options, added ones too; addresses; the mode of a queue; a tap's place is
    taken by null, which anybody may make. Sockets still take new peers."""
    switch = PolluxSwitch(supervisor, ["a", "b"], specs={"n": "null:,queues=2"},
                          port_options="event-idx=off", arguments=["--fdb-age", "1000"])
    path = switch.sockets["c"] = supervisor.path("c.sock")
    switch.add_port("c", vhost_user(path, Port("c")))
    switch.delete_port("n")
    switch.add_port("n2", "null:")
    with Frontend(switch.socket("a")) as a, Frontend(switch.socket("c")) as c:
        a.start()
        c.start()
        switch.wait_attached("a", "c")
        a.send(frames.ethernet(MAC_B, MAC_A, size=100))
        c.receive(1)
        c.send(frames.ethernet(MAC_A, MAC_B, size=100))
        a.receive(1)
        before, addresses = switch.port_infos(), switch.ask("fdb", "show")
        assert len(addresses["entries"]) == 2
        old = switch.child.pid
        switch.take_over()
        assert switch.stats()["pid"] == switch.child.pid != old
        after = switch.port_infos()
        assert list(after) == list(before)
        for name in before:
            assert after[name]["features"] == before[name]["features"], name
            assert after[name]["rings"] == before[name]["rings"], name
            assert after[name]["index"] == before[name]["index"], name
        assert [(e["mac"], e["port"]) for e in switch.ask("fdb", "show")["entries"]] == \
            [(e["mac"], e["port"]) for e in addresses["entries"]]
        for size in (60, 1514):
            one, two = frames.ethernet(MAC_B, MAC_A, size=size), frames.ethernet(MAC_A, MAC_B,
                                                                                 size=size)
            a.send(one)
            assert c.receive(1) == [one]
            c.send(two)
            assert a.receive(1) == [two]
        # Messages still arrive: the ring stops and starts again.
        base = a.stop_queue(0)
        assert base == a.queues[0].last_used
        a.start_queue(0, base)
        a.enable()
        c.send(two)
        assert a.receive(1) == [two]
    switch.wait_detached("a")
    with Frontend(switch.socket("a")) as a, Frontend(switch.socket("b")) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        b.send(two)
        assert a.receive(1) == [two]
        a.send(one)
        assert b.receive(1) == [one]
    switch.take_over()  # without peers
    assert os.path.exists(switch.socket("a"))
    switch.finish()
    assert not os.path.exists(switch.socket("a"))


def test_many_addresses(supervisor):
    """Ten thousand learned addresses come along."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    with Frontend(switch.socket("a")) as a, Frontend(switch.socket("b")) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        for number in range(2000):
            a.send(frames.ethernet(MAC_B, f"02:00:00:11:{number >> 8:02x}:{number & 255:02x}"))
            b.receive(1)
        known = {(e["mac"], e["port"]) for e in switch.ask("fdb", "show")["entries"]}
        assert len(known) == 2000
        counters = switch.stats()["fdb"]
        switch.take_over()
        assert {(e["mac"], e["port"]) for e in switch.ask("fdb", "show")["entries"]} == known
        assert switch.stats()["fdb"]["learned"] == counters["learned"]
    switch.finish()


def refusal(switch):
    """What a process says that can not take over; the switch goes on."""
    done = pollux("switch", "--take-over", switch.control, timeout=30)
    assert done.returncode in (1, 2) and "ready" not in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert switch.child.alive()
    return done.stderr


def test_refused_before_anything_is_touched(supervisor):
    switch = PolluxSwitch(supervisor, ["a", "b"], specs={"r": "ring:x"})
    stream = Stream(supervisor, switch)
    assert "port r" in refusal(switch)
    switch.delete_port("r")
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(switch.control)
    connection.request("POST", "/v1/hand-over", json.dumps({"socket": "/x", "version": 999}),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 501 and "version" in json.loads(answer.read())["error"]
    connection.close()
    assert_perfect(stream.finish())
    switch.take_over()
    switch.finish()
    done = pollux("switch", "--take-over", switch.control)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr


def goes_on(switch):
    """True once this switch carries packets again; False when it has ended in favour of another."""
    base = None

    def settled():
        nonlocal base
        if not switch.child.alive():
            return "gone"
        try:
            now = switch.counters()["a"].rx_packets
        except HarnessError:
            return ""
        base = now if base is None else base
        return "there" if now - base > 1000 else ""
    return wait_until(settled, 60, "there is a switch, or there is none", 0.02) == "there"


@pytest.mark.parametrize("turns", MANY)
@pytest.mark.parametrize("options", ["", ",packed=only"], ids=["split", "packed"])
def test_new_process_dies_on_the_way(supervisor, turns, options):
    """The running switch goes on as if nothing had been."""
    print(f"TAKE_OVER_SEED={SEED}")
    rng = random.Random(SEED)
    switch = PolluxSwitch(supervisor, ["a", "b"])
    stream = Stream(supervisor, switch, options=options)
    crashes = 0
    for _ in range(turns):
        wait_moving(switch)
        successor = switch.start_take_over()
        select.select([], [], [], rng.random() * 0.4)
        successor.kill()
        if not goes_on(switch):
            # The new process was the switch already: then this was a crash, as of any other.
            crashes += 1
            switch = PolluxSwitch(supervisor, ["a", "b"])
            switch.wait_attached(timeout=60)
    wait_moving(switch)
    report = stream.finish()
    # A process that died as the switch may take a burst with it, and until both ports of the next
    # one are attached, up to a window.
    assert_perfect(report, lost=crashes * 1024)
    switch.finish()


@pytest.mark.parametrize("turns", MANY)
@pytest.mark.parametrize("options", ["", ",packed=only"], ids=["split", "packed"])
def test_old_process_dies_on_the_way(supervisor, turns, options):
    """The new process is the switch, or there is none: never two, and nothing comes twice."""
    print(f"TAKE_OVER_SEED={SEED}")
    rng = random.Random(SEED)
    switch = PolluxSwitch(supervisor, ["a", "b"])
    stream = Stream(supervisor, switch, options=options)
    taken = 0
    for _ in range(turns):
        wait_moving(switch)
        successor = switch.start_take_over()
        select.select([], [], [], rng.random() * 0.4)
        switch.child.kill()
        try:
            successor.wait_for(r"^ready$", 30)
            switch.child = successor
            taken += 1
        except HarnessError:
            assert successor.wait(30) != 0
            switch = PolluxSwitch(supervisor, ["a", "b"])
        switch.wait_attached(timeout=60)
    wait_moving(switch)
    assert_perfect(stream.finish(), lost=turns * 1024)
    print(f"{taken} of {turns} went over")
    switch.finish()
