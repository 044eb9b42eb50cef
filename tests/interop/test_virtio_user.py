# SPDX-License-Identifier: Apache-2.0
"""Pollux's virtio-user driver against testpmd's vhost devices."""

from pathlib import Path

import pytest
from conftest import MAC_A, MAC_B

from support import frames
from support import testpmd as tp
from support.frontend import Frontend
from support.pollux import PolluxSwitch, check_conservation
from support.process import Supervisor, wait_until

pytestmark = pytest.mark.usefixtures("pollux_path", "need_testpmd")


class Device:
    """testpmd with two vhost ports that it joins, and two Pollux switches as their drivers; the
    far ports of those are for the Python front end."""

    def __init__(self, supervisor, options="", frame_size=1518, queues=1):
        self.supervisor = supervisor
        self.queues, self.frame_size = queues, frame_size
        self.sockets = [supervisor.path("v0"), supervisor.path("v1")]
        self.start_device()
        self.drivers = []
        for number, path in enumerate(self.sockets):
            far = supervisor.path(f"far{number}")
            driver = PolluxSwitch(supervisor, name=f"driver{number}", specs={
                "u": f"virtio-user:{path}{options}", "far": f"vhost-user:{far}"})
            driver.sockets["far"] = far
            self.drivers.append(driver)
        self.wait()

    def start_device(self):
        for path in self.sockets:  # a killed testpmd leaves them, and the next one stumbles
            Path(path).unlink(missing_ok=True)
        self.testpmd = tp.Testpmd(self.supervisor,
                                  [tp.vhost(p, queues=self.queues) for p in self.sockets],
                                  frame_size=self.frame_size, queues=self.queues)
        self.testpmd.command("set fwd io")
        self.testpmd.command("start")

    def wait(self):
        self.testpmd.wait_ready(2)
        for driver in self.drivers:
            driver.wait_attached("u")

    def exchange(self, sizes):
        """Frames of each size both ways, through driver, device, device, driver."""
        near, far = self.drivers
        with Frontend(near.socket("far")) as a, Frontend(far.socket("far")) as b:
            a.start()
            b.start()
            near.wait_attached("far")
            far.wait_attached("far")
            for size in sizes:
                one, two = (frames.ethernet(MAC_B, MAC_A, size=size),
                            frames.ethernet(MAC_A, MAC_B, size=size))
                a.send(one)
                assert b.receive(1) == [one], f"{size} B"
                b.send(two)
                assert a.receive(1) == [two], f"{size} B, back"

    def finish(self):
        for driver in self.drivers:
            check_conservation(driver.finish())


@pytest.mark.parametrize("options", ["", ",mrg=off", ",indirect=off", ",event-idx=off",
                                     ",queue-size=64", ",queue-size=1024", ",packed=only",
                                     ",packed=only,in-order=only,queue-size=111"])
def test_frames_both_ways(supervisor, options):
    device = Device(supervisor, options)
    device.exchange([60, 64, 128, 192, 193, 512, 1514])
    device.finish()


def test_large_frames(supervisor):
    device = Device(supervisor, frame_size=9018)
    device.exchange([1514, 2100, 4096, 9000])
    device.finish()


def test_two_queue_pairs(supervisor):
    device = Device(supervisor, ",queues=2", queues=2)
    device.exchange([60, 1514])
    device.finish()


@pytest.mark.parametrize("options", ["", ",packed=only,in-order=only,queue-size=300"])
def test_device_restarts(supervisor, options):
    """testpmd is killed and comes back; the driver connects again and goes on."""
    device = Device(supervisor, options)
    for _ in range(3):
        device.exchange([60, 1514])
        device.testpmd.child.kill()
        for driver in device.drivers:
            driver.wait_detached("u")
        device.start_device()
        device.wait()
    device.exchange([60, 1514])
    if options:
        rings = device.drivers[0].port_infos()["u"]["rings"]
        assert {(r["size"], r["format"]) for r in rings} == {(300, "packed in-order")}
    device.finish()


def test_driver_restarts(supervisor):
    """A driver is killed; the next one finds the device as new."""
    sockets = [supervisor.path("v0"), supervisor.path("v1")]
    testpmd = tp.Testpmd(supervisor, [tp.vhost(path) for path in sockets])
    testpmd.command("set fwd io")
    testpmd.command("start")
    for _ in range(3):
        mark = testpmd.child.mark()
        with Supervisor() as once:
            specs = {f"u{n}": f"virtio-user:{path}" for n, path in enumerate(sockets)}
            # A capture file goes out of u0, through testpmd, in at u1 and so on, for it does not
            # come back to where it was learned.
            driver = PolluxSwitch(once, specs=specs)
            testpmd.wait_ready(2, since=mark)
            driver.wait_attached("u0", "u1")
            driver.child.kill()
    wait_until(lambda: testpmd.child.output.count("vhost peer closed") >= 6, 10,
               "testpmd notices that its peers have gone")


def test_a_control_queue_that_is_left_to_qemu(supervisor):
    """DPDK's vhost offers CTRL_VQ for QEMU to serve it: the port says so, and without works."""
    path, far = supervisor.path("v0"), supervisor.path("far")
    tp.Testpmd(supervisor, [tp.vhost(path), tp.vhost(supervisor.path("v1"))])
    driver = PolluxSwitch(supervisor, name="driver", specs={
        "u": f"virtio-user:{path},ctrl-queue=on", "far": f"vhost-user:{far}"})
    wait_until(lambda: "use ctrl-queue=off" in driver.port_infos()["u"]["state"], 30,
               "the port says that nobody serves the control queue", 0.1)
    driver.delete_port("u")
    driver.add_port("u", f"virtio-user:{path}")
    driver.wait_attached("u")
    check_conservation(driver.finish())
