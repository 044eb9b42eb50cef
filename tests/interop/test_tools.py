# SPDX-License-Identifier: Apache-2.0
"""`pollux gen`, `pollux sink` and `pollux l2fwd` with switches and devices of their own and of
others between them."""

import json
import os
import signal

import pytest
from conftest import MAC_A, MAC_B

from support import frames
from support import testpmd as tp
from support.frontend import Frontend
from support.pollux import PolluxSwitch, check_conservation, pollux, pollux_bin
from support.process import wait_until
from support.switches import Port

pytestmark = pytest.mark.usefixtures("pollux_path")

MIX = "60:3,64:3,570:2,1518:1"


def generate(*words, timeout=60, fails=False):
    """Runs `pollux gen` to its end; its report, which may be of losses if it `fails`."""
    done = pollux("gen", *words, "--json", "--quiet", timeout=timeout)
    assert done.returncode in ((0, 1) if fails else (0,)), done.stderr + done.stdout
    return json.loads(done.stdout)


def assert_perfect(report, count):
    assert report["good"]
    assert report["sent"]["packets"] == report["received"]["packets"] == count
    for fault in ("lost", "corrupt", "duplicates", "reordered", "foreign"):
        assert report[fault] == 0, f"{fault}: {report}"
    latency = report["latency_ns"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["p99.9"]


@pytest.mark.parametrize("options", ["", ",mrg=off", ",indirect=off", ",event-idx=off",
                                     ",version-1=off", ",csum=off", ",queue-size=64",
                                     ",in-order=only", ",packed=only", ",packed=only,mrg=off",
                                     ",packed=only,in-order=only,queue-size=1000",
                                     ",packed=only,in-order=only,indirect=off,queue-size=65"])
def test_through_the_switch(supervisor, options):
    """Both ends driven by one process that bounds what is on its way: nothing is lost, and the
    switch has counted the same."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    window = ["--window", "32"] if "size=6" in options else []
    report = generate("--port", f"virtio-user:{switch.socket('a')}{options}", "--sink",
                      f"virtio-user:{switch.socket('b')}{options}", "--count", "20000",
                      "--size", MIX, "--flows", "16", *window)
    assert_perfect(report, 20000)
    last = switch.finish()
    check_conservation(last)
    ends = {port["name"]: port for port in report["ports"]}
    inside = {port["name"]: port for port in last["ports"]}
    for end, port in (("gen", "a"), ("sink", "b")):
        assert inside[port]["rx"]["packets"] == ends[end]["tx"]["packets"]
        assert inside[port]["rx"]["bytes"] == ends[end]["tx"]["bytes"]
        assert inside[port]["tx"]["packets"] == ends[end]["rx"]["packets"]
        assert inside[port]["tx"]["bytes"] == ends[end]["rx"]["bytes"]
        assert inside[port]["rx"]["dropped"] == inside[port]["tx"]["dropped"] == 0


def test_through_testpmds_vhost(need_testpmd, supervisor):
    """The same with another's devices in between."""
    sockets = [supervisor.path("v0"), supervisor.path("v1")]
    testpmd = tp.Testpmd(supervisor, [tp.vhost(path) for path in sockets])
    testpmd.command("set fwd io")
    testpmd.command("start")
    report = generate("--port", f"virtio-user:{sockets[0]}", "--sink",
                      f"virtio-user:{sockets[1]}", "--count", "20000", "--size", MIX)
    assert_perfect(report, 20000)


def test_sink_of_its_own_process(supervisor):
    """`pollux sink` in another process, at a modest rate: content, order and number are right."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    sink = supervisor.start([pollux_bin(), "sink", "--port", f"virtio-user:{switch.socket('b')}",
                             "--announce", MAC_B, "--count", "2000", "--json", "--quiet",
                             "--no-loss", "--wait", "20"], separate_stderr=True)
    switch.wait_attached("b")
    generate("--port", f"virtio-user:{switch.socket('a')}", "--count", "2000", "--rate", "20k",
             "--size", "200", "--dst", MAC_B)
    assert sink.wait(30) == 0, sink.describe()
    report = json.loads(sink.output)
    assert report["received"]["packets"] == 2000
    assert report["corrupt"] == report["duplicates"] == report["reordered"] == 0


def test_generator_as_an_ordinary_user(supervisor):
    """Switch and generator without root, hugepages or any capability."""
    if os.geteuid() != 0:
        pytest.skip("already an ordinary user: every other test here shows it")
    directory = supervisor.path("user")
    os.mkdir(directory)
    os.chmod(supervisor.dir, 0o755)
    os.chown(directory, 65534, 65534)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    binary = pollux_bin()
    if supervisor.start([*nobody, "test", "-x", binary]).wait(10):
        binary = f"{directory}/pollux"  # the tree is not for everybody's eyes
        with open(pollux_bin(), "rb") as source, open(binary, "wb") as copy:
            copy.write(source.read())
        os.chmod(binary, 0o755)
    switch = supervisor.start(
        [*nobody, binary, "switch", "--control", "none", "--huge-pages", "never",
         "--port", f"a=vhost-user:{directory}/a", "--port", f"b=vhost-user:{directory}/b"])
    switch.wait_for(r"^ready$", 20)
    generator = supervisor.start(
        [*nobody, binary, "gen", "--port", f"virtio-user:{directory}/a", "--sink",
         f"virtio-user:{directory}/b", "--count", "5000", "--json", "--quiet"],
        separate_stderr=True)
    assert generator.wait(30) == 0, generator.describe()
    assert_perfect(json.loads(generator.output), 5000)
    assert switch.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("rewrite", ["on", "off"])
def test_l2fwd(supervisor, rewrite):
    """Pairs of ports; MAC addresses are rewritten or left alone; the odd port echoes."""
    sockets = {name: supervisor.path(name) for name in "abc"}
    words = [f"--port={name}=vhost-user:{path}" for name, path in sockets.items()]
    forwarder = supervisor.start([pollux_bin(), "l2fwd", *words, "--mac-rewrite", rewrite,
                                  "--period", "0", "--json"], separate_stderr=True)
    forwarder.wait_for(r"^ready$", 20)
    with Frontend(sockets["a"]) as a, Frontend(sockets["b"]) as b, Frontend(sockets["c"]) as c:
        for peer in (a, b, c):
            peer.start()
        for sender, receiver in ((a, b), (b, a), (c, c)):
            for size in (60, 500, 1514):
                sent = frames.ethernet(MAC_B, MAC_A, size=size)
                sender.send(sent)
                got, = receiver.receive(1)
                assert got[12:] == sent[12:]
                assert (got[:12] == sent[:12]) == (rewrite == "off")
    assert forwarder.stop(signal.SIGINT) == 0
    json.loads(forwarder.output[forwarder.output.index("{"):])


def test_l2fwd_between_testpmds_ports(need_testpmd, supervisor):
    """Loops of a neutral generator through the classic example."""
    ports = [Port("a"), Port("b")]
    sockets = [supervisor.path(port.name) for port in ports]
    forwarder = supervisor.start(
        [pollux_bin(), "l2fwd", *(f"--port={p.name}=vhost-user:{s}"
                                  for p, s in zip(ports, sockets)), "--period", "0"])
    forwarder.wait_for(r"^ready$", 20)
    testpmd = tp.Testpmd(supervisor, [tp.virtio_user(s, mac=m)
                                      for s, m in zip(sockets, (MAC_A, MAC_B))],
                         descriptors=1024)
    testpmd.start_loop(64)
    wait_until(lambda: all(s.rx_packets > 10000 for s in testpmd.stats()), 30,
               "10,000 packets come back on both ports", 0.05)
    testpmd.stop()
    assert forwarder.stop(signal.SIGTERM) == 0
