# SPDX-License-Identifier: Apache-2.0
"""Pollux's virtio-user driver with packed rings and buffers in order, on testpmd's vhost devices.

`pollux gen` drives both ends of two joined devices and bounds what is on its way, so every frame
has to come back: once, in order, and the same to the last byte. Options that say "only" make the
port refuse a device that does not agree, so what is tested is what ran."""

import pytest
from test_tools import MIX, assert_perfect, generate

from support import testpmd as tp
from support.process import Supervisor, wait_until

pytestmark = pytest.mark.usefixtures("pollux_path", "need_testpmd")

PACKED, IN_ORDER = 34, 35
FORMATS = ["packed=only", "packed=only,in-order=only", "in-order=only"]


class Pair:
    """testpmd with two vhost ports that it joins."""

    def __init__(self, supervisor, queues=1, frame_size=1518):
        self.supervisor = supervisor
        self.sockets = [supervisor.path("v0"), supervisor.path("v1")]
        self.testpmd = tp.Testpmd(supervisor, [tp.vhost(p, queues=queues) for p in self.sockets],
                                  queues=queues, frame_size=frame_size)
        self.testpmd.command("set fwd io")
        self.testpmd.command("start")

    def check(self, options, other=None, count=20000, size=MIX, window=256):
        """One run of a generator, whose ports the devices have not met before."""
        report = generate("--port", f"virtio-user:{self.sockets[0]},{options}",
                          "--sink", f"virtio-user:{self.sockets[1]},{other or options}",
                          "--count", count, "--size", size, "--window", window, "--flows", 16)
        assert_perfect(report, count)
        return report

    def agreed(self, bit):
        """How many of testpmd's devices have last agreed to a feature."""
        return sum(bits >> bit & 1 for bits in self.testpmd.negotiated())


@pytest.fixture(scope="module")
def pair():
    """One testpmd for many tests: each is a driver that comes anew."""
    with Supervisor() as owner:
        yield Pair(owner)


@pytest.fixture(scope="module")
def jumbo_pair():
    with Supervisor() as owner:
        yield Pair(owner, frame_size=9018)


@pytest.mark.parametrize("more", ["", ",mrg=off", ",indirect=off", ",event-idx=off",
                                  ",mrg=off,indirect=off,event-idx=off", ",csum=off,tso=off"])
@pytest.mark.parametrize("options", FORMATS)
def test_features(pair, options, more):
    pair.check(options + more)
    assert pair.agreed(PACKED) == (2 if "packed" in options else 0)
    assert pair.agreed(IN_ORDER) == (2 if "in-order" in options else 0)


@pytest.mark.parametrize("size", [32, 37, 64, 100, 257, 1000, 1023, 4096, 32767, 32768])
@pytest.mark.parametrize("options", FORMATS[:2])
def test_sizes_of_rings(pair, options, size):
    """Also those that are no power of two; enough frames for many laps of all but the largest."""
    pair.check(f"{options},queue-size={size}", window=min(256, size // 2))


@pytest.mark.parametrize("options", FORMATS)
def test_large_frames(jumbo_pair, options):
    """In several mergeable buffers, and from several segments, on a ring that ends in between."""
    jumbo_pair.check(f"{options},queue-size={300 if 'packed' in options else 256}", count=5000,
                     size="60:2,2100:1,4096:1,9000:1", window=32)


def test_a_packed_driver_and_a_split_one(pair):
    pair.check("packed=only,in-order=only,queue-size=500", "mrg=off,queue-size=512")
    assert pair.agreed(PACKED) == pair.agreed(IN_ORDER) == 1


@pytest.mark.parametrize("options", FORMATS[:2])
def test_two_queue_pairs(supervisor, options):
    Pair(supervisor, queues=2).check(f"{options},queues=2,queue-size=200", window=64)


@pytest.mark.parametrize("options", FORMATS[:2])
def test_many_laps(pair, options):
    """A ring of few entries, around thousands of times."""
    pair.check(f"{options},queue-size=17", count=100000, size="64", window=8)


def test_the_driver_is_killed(pair):
    """A generator dies with rings full of frames; the next one finds the devices as new."""
    for options in FORMATS[:2]:
        mark = pair.testpmd.child.mark()
        with Supervisor() as once:
            from support.pollux import pollux_bin
            child = once.start([pollux_bin(), "gen",
                                "--port", f"virtio-user:{pair.sockets[0]},{options}",
                                "--sink", f"virtio-user:{pair.sockets[1]},{options}",
                                "--time", "60", "--quiet"])
            pair.testpmd.wait_ready(2, since=mark)
            before = pair.testpmd.stats()[1].tx_packets
            wait_until(lambda: pair.testpmd.stats()[1].tx_packets > before + 10000, 20,
                       "frames flow")
            child.kill()
        wait_until(lambda: pair.testpmd.child.output.count("vhost peer closed", mark) >= 2, 20,
                   "testpmd notices that its peers have gone")
        pair.check(options)
