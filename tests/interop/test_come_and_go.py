# SPDX-License-Identifier: Apache-2.0
"""Peers and ports that come and go while others are busy."""

import os

import pytest
from conftest import MAC_C, Loop

from support import frames
from support.frontend import MRG_RXBUF, VERSION_1, Frontend
from support.pollux import PolluxSwitch, check_conservation, pollux, vhost_user
from support.process import HarnessError, wait_until
from support.switches import Port

OTHER = "02:00:00:00:00:0c"


def attach_and_detach(switch, turn, friend):
    """One peer's short life on port c; its end differs from turn to turn. Its frames are for a
    friend on port d, which answers."""
    features = [(VERSION_1, MRG_RXBUF), (VERSION_1,), ()][turn % 3]
    with Frontend(switch.socket("c"), features=features, queue_size=[64, 256][turn % 2],
                  regions=(1 << 20,), buffer_size=2048) as peer:
        depth = turn % 5
        if depth == 0:
            return  # says nothing at all
        peer.negotiate()
        peer.share_memory()
        if depth == 1:
            return  # goes in the middle of the set-up
        peer.start_queues()
        peer.enable()
        frame = frames.ethernet(OTHER, MAC_C, size=60 + turn % 1000)
        peer.send(frame)
        assert friend.receive(1) == [frame]
        answer = frames.ethernet(MAC_C, OTHER, size=60 + turn % 1400)
        friend.send(answer)
        assert peer.receive(1) == [answer]
        if depth == 2:
            peer.stop()  # an orderly end
        elif depth == 3:
            peer.enable(False)


def test_a_thousand_peers(pollux_path, need_testpmd, supervisor):
    """1,000 peers attach to and detach from one port while a generator keeps two others busy. The
    generator loses nothing that it sent, and the switch grows neither in memory nor in
    descriptors, threads or mappings."""
    switch = PolluxSwitch(supervisor, ["a", "b", "c", "d"])
    process = switch.child
    with Frontend(switch.socket("d")) as friend, Frontend(switch.socket("c")) as first:
        friend.start()
        first.start()
        switch.wait_attached("c", "d")
        # Both addresses are known before the generator starts: nothing of theirs goes to it.
        for peer, mac in ((friend, OTHER), (first, MAC_C)):
            peer.send(frames.ethernet("02:00:00:00:00:ff", mac, size=60))
        first.close()
        loop = Loop(supervisor, switch)
        loop.start()
        loop.wait_packets(10000)

        def size():
            # The peer's descriptors are closed by the time its port says that it has gone.
            switch.wait_detached("c")
            return process.descriptors(), process.threads(), process.mappings()

        friend.poll()  # what was flooded before everybody was known
        for turn in range(100):
            attach_and_detach(switch, turn, friend)
        base, base_kib = size(), process.resident_kib()
        before = loop.testpmd.stats()
        for turn in range(900):
            attach_and_detach(switch, turn, friend)
        # The allocator may cut its own mappings in two; a leak would be hundreds.
        wait_until(lambda: all(now <= was + spare for now, was, spare in
                               zip(size(), base, (0, 0, 20))), 10,
                   f"descriptors, threads and mappings are {base} again, not {size()}", 0.1)
        assert process.resident_kib() <= base_kib + 512, "private memory has grown"
        loop.wait_packets(10000)
        after = loop.testpmd.stats()
        assert all(b.rx_packets > a.rx_packets for a, b in zip(before, after))
        seen = loop.stop()
        assert sum(s.rx_packets for s in seen) == sum(s.tx_packets for s in seen)
    check_conservation(switch.finish())


def exchange(switch, names):
    """Frames both ways between two fresh peers on ports of these names."""
    with Frontend(switch.socket(names[0])) as a, Frontend(switch.socket(names[1])) as b:
        a.start()
        b.start()
        switch.wait_attached(*names)
        one = frames.ethernet(OTHER, MAC_C, size=200)
        two = frames.ethernet(MAC_C, OTHER, size=1514)
        a.send(one)
        assert b.receive(1) == [one]
        b.send(two)
        assert a.receive(1) == [two]


def test_port_add_and_delete(pollux_path, supervisor):
    """Ports come and go with a name and a socket of their own; the others do not notice."""
    switch = PolluxSwitch(supervisor, ["a"])
    for turn in range(5):
        name = f"new{turn}"
        path = switch.sockets[name] = supervisor.path(name)
        switch.add_port(name, vhost_user(path, Port(name)))
        assert name in switch.port_infos()
        exchange(switch, ("a", name))
        switch.delete_port(name)
        assert name not in switch.port_infos()
        assert not os.path.exists(path), "the socket of a port that has gone is still there"
        del switch.sockets[name]
    check_conservation(switch.finish())


def test_port_delete_under_traffic(pollux_path, need_testpmd, supervisor):
    """A port is taken away from between two busy peers, and put back."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    for _ in range(3):
        loop = Loop(supervisor, switch)
        loop.start()
        loop.wait_packets(10000)
        switch.delete_port("b")
        assert list(switch.port_infos()) == ["a"]
        loop.testpmd.child.kill()
        switch.add_port("b", vhost_user(switch.socket("b"), Port("b")))
    exchange(switch, ("a", "b"))
    switch.finish()


def test_port_errors(pollux_path, supervisor):
    """One line that says what is wrong, status 2 or 1, and the switch goes on."""
    switch = PolluxSwitch(supervisor, ["a"])
    for words in (["add", "a=null:"], ["add", "x=nothing:"], ["add", "x=null:,colour=red"],
                  ["del", "nobody"], ["add", f"x=vhost-user:/tmp/{'long' * 30}"]):
        done = pollux("port", *words, "--control", switch.control)
        assert done.returncode in (1, 2), words
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(switch.port_infos()) == ["a"]
    switch.finish()


def test_socket_is_taken_over_and_removed(pollux_path, supervisor):
    """A socket file that a killed switch left is taken over; one in use is not; at the end it
    is removed."""
    switch = PolluxSwitch(supervisor, ["a"])
    path = switch.socket("a")
    done = pollux("switch", "--port", f"a=vhost-user:{path}", timeout=20)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert os.path.exists(path)
    switch.child.kill()
    assert os.path.exists(path)
    switch = PolluxSwitch(supervisor, ["a"])
    switch.finish()
    assert not os.path.exists(path)


def test_driver_reconnects_to_a_new_switch(pollux_path, supervisor):
    """Pollux's own driver side comes back to a switch that was killed under it."""
    hub = PolluxSwitch(supervisor, ["v", "w"], name="hub")
    driver = PolluxSwitch(supervisor, specs={"u": f"virtio-user:{hub.socket('v')}",
                                             "x": f"vhost-user:{supervisor.path('x')}"},
                          name="driver")
    driver.sockets["x"] = supervisor.path("x")
    for _ in range(3):
        hub.wait_attached("v")
        driver.wait_attached("u")
        with Frontend(hub.socket("w")) as near, Frontend(driver.socket("x")) as far:
            near.start()
            far.start()
            hub.wait_attached("w")
            driver.wait_attached("x")
            one = frames.ethernet(OTHER, MAC_C, size=999)
            near.send(one)
            assert far.receive(1) == [one]
            two = frames.ethernet(MAC_C, OTHER, size=64)
            far.send(two)
            assert near.receive(1) == [two]
        hub.child.kill()
        driver.wait_detached("u")
        hub = PolluxSwitch(supervisor, ["v", "w"], name="hub")
    driver.finish()
    hub.finish()


@pytest.mark.parametrize("words", [
    ["--port", "a=vhost-user:"], ["--port", "a=nosuch:x"], ["--port", "a=null:,colour=red"],
    ["--port", "a=pcap:/nonexistent.pcap"], ["--nonsense"], ["--config", "/nonexistent.toml"],
    ["--port", "a=null:", "--cpus", "4095"], ["--port", f"a=vhost-user:/tmp/{'long' * 30}"]],
    ids=lambda w: "_".join(w)[:40])
def test_wrong_use(pollux_path, words):
    """One line on standard error, nothing on standard output, status 2."""
    try:
        done = pollux("switch", *words, timeout=10)
    except HarnessError as error:
        pytest.fail(str(error))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "ready" not in done.stdout
