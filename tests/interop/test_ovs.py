# SPDX-License-Identifier: Apache-2.0
"""Pollux's virtio-user driver against OVS-DPDK: ports where OVS listens (dpdkvhostuser) and where it
connects (dpdkvhostuserclient), on a bridge that learns addresses (NORMAL)."""

import os

import pytest
from conftest import MAC_A, MAC_B
from test_tools import assert_perfect, generate

from support import frames
from support.frontend import Frontend
from support.pollux import PolluxSwitch, check_conservation
from support.process import HarnessError, cpu_pair, wait_until
from support.switches import OvsSwitch, Port
from support.system import find_program, hugepages


@pytest.fixture(autouse=True)
def need_ovs(pollux_path):
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: OVS makes network interfaces of its own, which takes root")
    if not find_program("ovsdb-server") or not os.path.exists(OvsSwitch.DAEMON):
        pytest.skip("NOT TESTED, OVS-DPDK is missing: apt-get install openvswitch-switch-dpdk")


def ovs_switch(supervisor, server):
    try:
        supervisor.enter(hugepages(640))
    except HarnessError as error:
        pytest.skip(f"NOT TESTED: OVS does not do without hugepages: {error}")
    return OvsSwitch(supervisor, [Port("a", server=server), Port("b", server=server)],
                     cpu=cpu_pair()[1])


@pytest.mark.parametrize("server", [True, False], ids=["ovs_listens", "ovs_connects"])
@pytest.mark.parametrize("rings", ["", ",packed=only", ",in-order=only", ",packed=only,in-order=only",
                                   ",mrg=off", ",packed=only,queue-size=1000"])
def test_gen_and_sink_through_a_bridge(supervisor, rings, server):
    """20,000 packets of mixed sizes, none reordered or changed; none lost once OVS has rebuilt its
    ports: it does so some time after a driver has attached, and drops what comes meanwhile."""
    ovs = ovs_switch(supervisor, server)
    options = rings + ("" if server else ",server=on")
    for _ in range(5):
        report = generate("--port", f"virtio-user:{ovs.socket('a')}{options}", "--sink",
                          f"virtio-user:{ovs.socket('b')}{options}", "--count", "20000",
                          "--size", "60:3,64:3,570:2,1514:1", "--window", "64", fails=True,
                          timeout=120)
        assert report["received"]["packets"] + report["lost"] == 20000
        if report["lost"] == 0:
            break
    assert_perfect(report, 20000)
    ovs.stop()


class Ends:
    """A Pollux switch on either port of OVS; far ports are for the Python front end."""

    def __init__(self, supervisor, ovs, server):
        self.supervisor, self.ovs = supervisor, ovs
        self.option = "" if server else ",server=on"
        self.drivers = [self.start_driver(name) for name in "ab"]
        self.wait()

    def start_driver(self, name):
        far = self.supervisor.path(self.supervisor.unique(f"far{name}"))
        driver = PolluxSwitch(self.supervisor, name=f"driver-{name}", specs={
            "u": f"virtio-user:{self.ovs.socket(name)}{self.option}", "far": f"vhost-user:{far}"})
        driver.sockets["far"] = far
        return driver

    def wait(self):
        for driver in self.drivers:
            driver.wait_attached("u", timeout=60)
        self.ovs.wait_attached(timeout=60)

    def exchange(self, sizes=(60, 64, 193, 1514)):
        near, far = self.drivers
        with Frontend(near.socket("far")) as a, Frontend(far.socket("far")) as b:
            a.start()
            b.start()
            near.wait_attached("far")
            far.wait_attached("far")
            # The first frames are flooded, or lost while OVS builds its ports.
            probes = (frames.ethernet(MAC_B, MAC_A, size=61), frames.ethernet(MAC_A, MAC_B, size=61))
            seen = set()

            def learned():
                a.send(probes[0])
                b.send(probes[1])
                seen.update(end for end in (a, b) if end.poll())
                return len(seen) == 2
            wait_until(learned, 60, "frames come through OVS", 0.05)

            def carry(source, target, frame):
                source.send(frame)

                def arrived():
                    got = [f for f in target.poll() if f not in probes]
                    assert got in ([], [frame])
                    return got
                wait_until(arrived, 20, f"a frame of {len(frame)} B comes through OVS")
            for size in sizes:
                carry(a, b, frames.ethernet(MAC_B, MAC_A, size=size))
                carry(b, a, frames.ethernet(MAC_A, MAC_B, size=size))

    def finish(self):
        for driver in self.drivers:
            check_conservation(driver.finish())


@pytest.mark.parametrize("server", [True, False], ids=["ovs_listens", "ovs_connects"])
def test_ovs_restarts(supervisor, server):
    """OVS is killed and comes back on the same database; the drivers find it again by themselves."""
    ovs = ovs_switch(supervisor, server)
    ends = Ends(supervisor, ovs, server)
    ends.exchange()
    ovs.child.kill()
    for driver in ends.drivers:
        driver.wait_detached("u")
    ovs.start_daemon()
    ends.wait()
    ends.exchange()
    ends.finish()
    ovs.stop()


@pytest.mark.parametrize("server", [True, False], ids=["ovs_listens", "ovs_connects"])
def test_driver_restarts(supervisor, server):
    """One driver is killed; the next one takes its place."""
    ovs = ovs_switch(supervisor, server)
    ends = Ends(supervisor, ovs, server)
    ends.exchange()
    ends.drivers[0].child.kill()
    ends.drivers[0] = ends.start_driver("a")
    ends.wait()
    ends.exchange()
    ends.finish()
    ovs.stop()
