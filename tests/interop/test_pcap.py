# SPDX-License-Identifier: Apache-2.0
"""Capture files in and out: every byte of every frame, in order."""

import random

import pytest
from conftest import MAC_A, MAC_B

from support import frames
from support import testpmd as tp
from support.pollux import PolluxSwitch, check_conservation
from support.process import wait_until


def capture(count=500, largest=9000):
    """Frames of all sorts of sizes, as one station sends them to another."""
    draw = random.Random(7)
    sizes = [60, 61, 64, 127, 128, 129, 191, 192, 193, 1514, largest]
    sizes += [draw.randrange(60, largest) for _ in range(count - len(sizes))]
    return [frames.ethernet(MAC_B, MAC_A, draw.randbytes(size - 14)) for size in sizes]


@pytest.mark.parametrize("write", [frames.write_pcap, frames.write_pcapng],
                         ids=["pcap", "pcapng"])
def test_file_to_file(pollux_path, supervisor, write):
    sent = capture()
    write(supervisor.path("in.pcap"), sent)
    switch = PolluxSwitch(supervisor, specs={"in": f"pcap:{supervisor.path('in.pcap')}",
                                             "out": f"pcap:,tx={supervisor.path('out.pcap')}"})
    wait_until(lambda: switch.counters()["out"].tx_packets >= len(sent), 20,
               "the whole file is written")
    check_conservation(switch.finish())
    assert frames.read_pcap(supervisor.path("out.pcap")) == sent


def join(supervisor, sockets, sent, options=""):
    """A file through one Pollux's driver into a switch, and out of it through another's."""
    out = PolluxSwitch(supervisor, specs={"v": f"virtio-user:{sockets[1]}{options}",
                                          "out": f"pcap:,tx={supervisor.path('out.pcap')}"},
                       arguments=["--huge-pages", "never"], name="writer")
    out.wait_attached("v")
    frames.write_pcap(supervisor.path("in.pcap"), sent)
    # The port is added last, when its way is open to the end.
    source = PolluxSwitch(supervisor, specs={"v": f"virtio-user:{sockets[0]}{options}"},
                          arguments=["--huge-pages", "never"], name="reader")
    source.wait_attached("v")
    return source, out


@pytest.mark.parametrize("options", ["", ",regions=40", ",version-1=off", ",mrg=off"])
def test_through_two_drivers_and_a_switch(pollux_path, supervisor, options):
    """virtio-user -> vhost-user -> switch -> vhost-user -> virtio-user, each its own process."""
    sent = capture(200, 1514)
    switch = PolluxSwitch(supervisor, ["a", "b"], name="switch")
    source, out = join(supervisor, [switch.socket("a"), switch.socket("b")], sent, options)
    switch.wait_attached()
    if "regions" in options:
        memory = switch.port_infos()["a"]["memory"]
        assert int(memory.split()[0]) >= 40, memory
    source.add_port("in", f"pcap:{supervisor.path('in.pcap')}")
    wait_until(lambda: out.counters()["out"].tx_packets >= len(sent), 20,
               "the whole file is written")
    for one in (source, switch, out):
        check_conservation(one.finish())
    assert frames.read_pcap(supervisor.path("out.pcap")) == sent


def test_through_testpmds_vhost(pollux_path, need_testpmd, supervisor):
    """Pollux's driver against another's device: testpmd's vhost ports carry the file."""
    sent = capture(200, 1514)
    sockets = [supervisor.path("v0"), supervisor.path("v1")]
    testpmd = tp.Testpmd(supervisor, [tp.vhost(path) for path in sockets])
    testpmd.command("set fwd io")
    testpmd.command("start")
    source, out = join(supervisor, sockets, sent)
    testpmd.wait_ready(2)
    source.add_port("in", f"pcap:{supervisor.path('in.pcap')}")
    wait_until(lambda: out.counters()["out"].tx_packets >= len(sent), 20,
               "the whole file is written")
    assert frames.read_pcap(supervisor.path("out.pcap"))[:1] == sent[:1]
    out.finish()
    assert frames.read_pcap(supervisor.path("out.pcap")) == sent
    assert [s.rx_packets for s in testpmd.stats()] == [len(sent), 0]
