# SPDX-License-Identifier: Apache-2.0
"""Two Linux guests under QEMU that reach each other through the switch."""

import pytest

from support.process import wait_until

NO_OFFLOADS = ("csum=off,guest_csum=off,gso=off,host_tso4=off,host_tso6=off,host_ecn=off,"
               "host_ufo=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off")


def test_all_offloads(make_pair):
    """Everything that QEMU offers. TCP segments cross whole."""
    pair = make_pair()
    assert pair.b.offloads()["tcp-segmentation-offload"] == "on"
    assert pair.b.offloads()["tx-checksumming"] == "on"
    pair.check_ping()
    pair.check_iperf()
    pair.check_file()
    # Larger than the MTU on average: the segments were not cut on the way.
    if pair.switch.kind == "pollux":
        rx = pair.switch.counters()["b"]
        assert rx.rx_bytes / rx.rx_packets > 1514 or rx.tx_bytes / rx.tx_packets > 1514
    pair.finish()


def test_no_offloads_and_plain_buffers(make_pair):
    """Neither checksum nor segmentation offload, and no mergeable buffers."""
    pair = make_pair(properties=(NO_OFFLOADS + ",mrg_rxbuf=off",) * 2)
    assert pair.b.offloads()["tcp-segmentation-offload"] == "off"
    assert pair.b.offloads()["tx-checksumming"] == "off"
    pair.check_ping()
    pair.check_iperf(1)
    pair.finish()


def test_offloads_on_one_side(make_pair):
    """A guest with all offloads and one without any: sums and segments are made by the switch."""
    pair = make_pair(properties=("", NO_OFFLOADS + ",mrg_rxbuf=off,indirect_desc=off,event_idx=off"))
    assert pair.a.offloads()["tcp-segmentation-offload"] == "on"
    assert pair.b.offloads()["tx-checksumming"] == "off"
    pair.check_ping()
    pair.check_iperf(1)
    pair.check_file()
    pair.finish()


def test_switch_connects_to_qemu(make_pair, pollux_path, supervisor):
    """server=off: QEMU listens. The switch is killed and comes back, twice, and the guests go on
    without knowing."""
    pair = make_pair(server=False)
    pair.check_ping()
    for _ in range(2):
        pair.switch.child.kill()
        pair.switch = pair.make_switch(supervisor, pair.ports, tso=True)
        pair.switch.wait_attached("a", "b")
        pair.b.wait_reachable("10.77.0.1")
        assert pair.b.ping("10.77.0.1", 25, 1400) == 0
    pair.finish()


def test_switch_restarts_under_clients(make_pair, pollux_path, supervisor):
    """The switch listens and is killed; QEMU, told to reconnect, finds the next one."""
    pair = make_pair(reconnect=1, queues=2, vcpus=2, mtu=1400)
    pair.check_ping()
    pair.switch.child.kill()
    pair.switch = pair.make_switch(supervisor, pair.ports, tso=True)
    pair.switch.wait_attached("a", "b")
    pair.b.wait_reachable("10.77.0.1")
    assert pair.b.ping("10.77.0.1", 25, 1300) == 0
    pair.finish()


@pytest.mark.parametrize("properties", ["", "packed=on"])
def test_take_over(make_pair, properties):
    """A new process takes the switch over while the guests talk: QEMU notices nothing, the guests
    lose nothing, and a file arrives whole."""
    pair = make_pair(properties=(properties,) * 2)
    pair.check_ping()
    pair.b.run("ping -i 0.01 -c 1000 -s 1200 10.77.0.1 >/tmp/pings 2>&1 &")
    for _ in range(3):
        before = pair.switch.counters()["a"].rx_packets
        wait_until(lambda: pair.switch.counters()["a"].rx_packets > before + 50, 60,
                   "the guests talk")
        pair.switch.take_over()
    pair.check_file()
    summary = wait_until(lambda: pair.b.run("grep 'packet loss' /tmp/pings", check=False), 120,
                         "all pings are sent")
    assert "1000 received" in summary
    pair.finish()


def test_packed_rings_after_a_crash(make_pair, pollux_path, supervisor):
    """A packed ring does not say how far it was used, and QEMU does not know: the switch has noted
    it. Killed three times under traffic, and the guests go on without knowing."""
    pair = make_pair(reconnect=1, properties=("packed=on",) * 2)
    formats = {ring["format"] for port in pair.switch.port_infos().values()
               for ring in port["rings"]}
    assert formats == {"packed"}, formats
    pair.check_ping()
    for _ in range(3):
        pair.b.run("ping -i 0.005 -s 1200 10.77.0.1 >/dev/null 2>&1 &")
        before = pair.switch.counters()["a"].rx_packets
        wait_until(lambda: pair.switch.counters()["a"].rx_packets > before + 100, 60,
                   "the guests talk")
        pair.switch.child.kill()
        pair.switch = pair.make_switch(supervisor, pair.ports, tso=True)
        pair.switch.wait_attached("a", "b", timeout=60)
        pair.b.wait_reachable("10.77.0.1")
        pair.b.run("pkill ping")
        assert pair.b.ping("10.77.0.1", 25, 1400) == 0
    pair.check_file()
    pair.finish()


def test_memory_hot_plug(make_pair, pollux_path):
    """36 modules are plugged into one guest, one by one, while it pings the other; then it sends
    a file that lies in the new memory."""
    pair = make_pair(slots=64)
    for number in range(36):
        pair.b.plug_memory(str(number), 128)
        if number % 6 == 5:
            assert pair.b.ping("10.77.0.1", 10, 1400) == 0
    memory = pair.switch.port_infos()["b"]["memory"]
    assert int(memory.split()[0]) > 32, memory
    size = int(pair.b.run("awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert size > 4 << 20, "the guest has not taken the memory into use"
    # More than the guest was born with, so it lies in the modules.
    pair.b.run("mkdir -p /tmp/big; mount -t tmpfs -o size=1g tmpfs /tmp/big; "
               "head -c 600M /dev/zero >/tmp/big/f")
    pair.a.start_iperf_server()
    end = pair.b.iperf("10.77.0.1", 2, "-F /tmp/big/f -Z")
    assert end["mbps"] > 0
    assert pair.b.ping("10.77.0.1", 25, 8000) == 0
    pair.finish()
