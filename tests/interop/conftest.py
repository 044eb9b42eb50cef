# SPDX-License-Identifier: Apache-2.0
"""Fixtures and helpers of the tests against testpmd, the kernel and the Python front end."""

import pytest

from support import testpmd as tp
from support.process import HarnessError, wait_until

MAC_A, MAC_B, MAC_C = "02:00:00:00:00:a0", "02:00:00:00:00:b0", "02:00:00:00:00:c0"


class Loop:
    """A generator: testpmd with two virtio-user ports that sends what comes in on one out of the
    other. It is primed with a bounded number of packets, so that no ring overflows."""

    def __init__(self, supervisor, switch, *, a="a", b="b", macs=(MAC_A, MAC_B), queues=1,
                 queue_size=1024, frame_size=64, mrg_rxbuf=True, vectorized=False, packed=False,
                 in_order=False, server=False, options=(), **more):
        sockets = (switch.socket(a), switch.socket(b))
        self.switch, self.names, self.queues = switch, (a, b), queues
        self.frame_size, self.server = frame_size, server
        vdevs = [tp.virtio_user(path, mac=mac, queues=queues, queue_size=queue_size,
                                mrg_rxbuf=mrg_rxbuf, vectorized=vectorized, packed=packed,
                                in_order=in_order, server=server)
                 for path, mac in zip(sockets, macs)]
        # Two receive rings full, two transmit rings that keep what they sent, and some to spare.
        mbufs = max(8192, 5 * queue_size * queues + 2048)
        self.testpmd = tp.Testpmd(
            supervisor, vdevs, frame_size=frame_size, queues=queues, descriptors=queue_size,
            mbufs=mbufs, name="generator",
            options=[f"--eth-peer=0,{macs[1]}", f"--eth-peer=1,{macs[0]}", *options], **more)
        self.before = switch.counters()
        self.in_flight = max(32, min(256, queue_size // 2 // 32 * 32))

    def start(self, wait=True):
        if wait:
            # testpmd as a socket's server accepts a new client when asked about the link.
            self.switch.wait_attached(*self.names, poke=lambda: self.server and
                                      self.testpmd.command("show port info all"))
        self.testpmd.start_loop(self.in_flight, self.frame_size)

    def wait_packets(self, count, timeout=60):
        """Waits until either port has taken in `count` more."""
        base = [s.rx_packets for s in self.testpmd.stats()]
        wait_until(lambda: all(s.rx_packets - b >= count
                               for s, b in zip(self.testpmd.stats(), base)),
                   timeout, f"{count} more packets come back on both ports", 0.05)

    def stop(self):
        """Ends the loop and takes in all that is still on its way; counters of both ports."""
        self.testpmd.stop()

        def arrived():
            """Nothing is left in any ring, by the counters of both sides."""
            self.testpmd.drain()
            now, seen = self.switch.counters(), self.testpmd.stats()
            return all(now[n].rx_packets - self.before[n].rx_packets == s.tx_packets and
                       now[n].tx_packets - self.before[n].tx_packets == s.rx_packets
                       for n, s in zip(self.names, seen))
        try:
            wait_until(arrived, 15, "")
        except HarnessError:
            pass  # whoever compares the accounts will say what is wrong
        return self.testpmd.stats()


def assert_accounts_agree(before, after, generator_stats, names=("a", "b"), lost=0):
    """Generator and switch have counted the same, packets and bytes, on every port."""
    for name, seen in zip(names, generator_stats):
        was, now = before[name], after[name]
        assert now.rx_packets - was.rx_packets == seen.tx_packets, f"into port {name}"
        assert now.tx_packets - was.tx_packets == seen.rx_packets, f"out of port {name}"
        assert now.rx_bytes - was.rx_bytes == seen.tx_bytes, f"bytes into port {name}"
        assert now.tx_bytes - was.tx_bytes == seen.rx_bytes, f"bytes out of port {name}"
    drops = {n: {k: v - before[n].drops.get(k, 0) for k, v in after[n].drops.items()
                 if v != before[n].drops.get(k, 0)} for n in names}
    assert sum(sum(d.values()) for d in drops.values()) == lost, f"dropped: {drops}"
    sent = sum(s.tx_packets for s in generator_stats)
    received = sum(s.rx_packets for s in generator_stats)
    assert sent == received + lost


@pytest.fixture
def loop_type():
    return Loop
