# SPDX-License-Identifier: Apache-2.0
"""A guest with an emulated Intel IOMMU in front of its network card: every address that the card
sees is I/O virtual, and the switch has to ask for what it means."""

import re

import pytest

from support.guest import Guest, Nic
from support.pollux import PolluxSwitch, check_conservation
from support.process import wait_until
from support.system import Netns

HOST_IP, GUEST_IP = "10.77.0.1", "10.77.0.2"

pytestmark = pytest.mark.usefixtures("pollux_path", "need_guests", "need_netns")


class Behind:
    """A guest behind an IOMMU on one port of a switch, and a namespace of the host on another."""

    def __init__(self, supervisor, **options):
        self.switch = PolluxSwitch(supervisor, ["g"])
        self.tap = supervisor.unique("t")
        self.host = Netns(supervisor)
        self.switch.add_port("h", f"tap:{self.tap}")
        self.host.take(self.tap, f"{HOST_IP}/24", "fd77::1/64")
        self.guest = Guest(supervisor, "g", [Nic(self.switch.socket("g"), "02:00:00:00:77:02")],
                           iommu=True, **options)
        self.guest.wait_ready()

    def iommu(self):
        """The port's words on the IOMMU, as numbers by name."""
        text = self.switch.port_infos()["g"]["iommu"]
        return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", text)}

    def ping(self, count, size=56, target=GUEST_IP):
        """Echoes that were lost on the way to the guest and back."""
        text = self.host.run("ping", "-q", "-n", "-A", "-c", str(count), "-W", "10", "-s",
                             str(size), target, timeout=120, check=False)
        sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received",
                                            text).groups())
        return sent - received


def test_kernel_driver(supervisor):
    """The kernel's driver maps and unmaps each buffer: misses, updates and invalidations by the
    thousand."""
    behind = Behind(supervisor)
    guest, switch = behind.guest, behind.switch
    guest.configure(2)
    switch.wait_attached("g")
    assert "ACCESS_PLATFORM" in switch.port_infos()["g"]["feature_names"]
    wait_until(lambda: behind.ping(1) == 0, 60, "the guest answers")
    for size in (56, 1400, 8000):
        assert behind.ping(50, size) == 0, f"{size} bytes"
    server = supervisor.start(behind.host.command("iperf3", "-s", "--forceflush"))
    server.wait_for("Server listening", 20)
    for options in ("", "-R"):
        assert guest.iperf(HOST_IP, 2, options)["mbps"] > 0
    told = behind.iommu()
    assert told["updates"] > 100, told
    assert told["invalidations"] > 100, told
    assert told["faults"] == 0, told
    guest.quit()
    check_conservation(switch.finish())


BIND = """
device=$(basename $(dirname $(readlink -f /sys/class/net/eth0/device)))
bash /run/modules/load
ip link set eth0 down
echo vfio-pci >/sys/bus/pci/devices/$device/driver_override
echo $device >/sys/bus/pci/devices/$device/driver/unbind
echo $device >/sys/bus/pci/drivers_probe
[ $(basename $(readlink -f /sys/bus/pci/devices/$device/driver)) = vfio-pci ] || exit 1
ls /sys/bus/pci/devices/$device/iommu_group/devices
sysctl -qw vm.nr_hugepages=96
(sleep 900 | stdbuf -oL dpdk-testpmd --lcores 0@0,1@0 --in-memory -m 128 -a $device -- --total-num-mbufs=8192 \
  --forward-mode=icmpecho >/tmp/testpmd 2>&1) &
for i in $(seq 600); do grep -q 'Press enter' /tmp/testpmd && exit 0; sleep 0.1; done
cat /tmp/testpmd
exit 1
"""


def test_user_space_driver(supervisor, need_testpmd):
    """testpmd in the guest, over VFIO: maps its memory once, answers ARP and pings. What the kernel's
    driver had told before it let go of the card means nothing any more."""
    behind = Behind(supervisor, megabytes=768)
    guest, switch = behind.guest, behind.switch
    guest.configure(2)
    switch.wait_attached("g")
    wait_until(lambda: behind.ping(1) == 0, 60, "the kernel's driver answers")
    before = behind.iommu()
    guest.run(BIND, timeout=180)
    switch.wait_attached("g")
    behind.host.run("ip", "neigh", "flush", "all")
    wait_until(lambda: behind.ping(1) == 0, 60, "testpmd answers")
    warm = behind.iommu()
    for size in (56, 1400):
        assert behind.ping(100, size) == 0, f"{size} bytes"
    told = behind.iommu()
    assert told["updates"] > before["updates"], told
    assert told["invalidations"] == warm["invalidations"], "its mappings stay"
    assert told["faults"] == 0, told
    guest.quit()
    check_conservation(switch.finish())
