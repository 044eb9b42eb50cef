# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with guests."""


import pytest

from support.guest import Guest, Nic, guest_reason
from support.switches import Port


@pytest.fixture(scope="session")
def need_guests():
    if reason := guest_reason():
        pytest.skip(f"NOT TESTED, no guest can run here: {reason}")


class Pair:
    """Two guests on two ports of one switch: a is 10.77.0.1, b is 10.77.0.2, and fd77::."""

    def __init__(self, supervisor, make_switch, *, properties=("", ""), server=True, queues=1,
                 mtu=1500, vcpus=1, reconnect=0, slots=0, **switch_options):
        self.supervisor, self.make_switch = supervisor, make_switch
        self.ports = [Port("a", server=server, queues=queues),
                      Port("b", server=server, queues=queues)]
        self.options = switch_options
        self.switch = make_switch(supervisor, self.ports, tso=True, frame_size=9018,
                                  **switch_options)
        self.guests = [
            Guest(supervisor, name, [Nic(self.switch.socket(name), f"02:00:00:00:77:0{n + 1}",
                                         server=not server, queues=queues, reconnect=reconnect,
                                         properties=properties[n])],
                  vcpus=vcpus, slots=slots, max_megabytes=16384 if slots else 0)
            for n, name in enumerate("ab")]
        for number, guest in enumerate(self.guests, 1):
            guest.wait_ready()
            guest.configure(number, mtu)
        self.a, self.b = self.guests
        self.switch.wait_attached("a", "b")
        self.b.wait_reachable("10.77.0.1")

    def check_ping(self):
        """No echo is lost: IPv4, IPv6, and fragments of both."""
        for target, size in (("10.77.0.1", 56), ("10.77.0.1", 1472), ("fd77::1", 1400),
                             ("10.77.0.1", 8000), ("fd77::1", 8000), ("10.77.0.1", 60000)):
            lost = self.b.ping(target, 25, size)
            assert lost == 0, f"{target} with {size} bytes; {self.switch.counters()}"

    def check_iperf(self, seconds=2):
        """TCP both ways and UDP, over IPv4; TCP over IPv6. iperf3 itself checks nothing but
        lengths: the kernels check sums."""
        self.a.start_iperf_server()
        for options in ("", "-R"):
            assert self.b.iperf("10.77.0.1", seconds, options)["mbps"] > 0
        assert self.b.iperf("fd77::1", 1)["mbps"] > 0
        end = self.b.iperf("10.77.0.1", 1, "-u -b 5M -l 1200")
        assert end["sum"]["packets"] > 0
        assert end["sum"]["lost_packets"] == 0, end["sum"]
        self.a.run("pkill iperf3")

    def check_file(self, megabytes=4):
        """Random bytes arrive as they were sent."""
        size = megabytes << 20
        self.a.run("(sleep 600 | busybox nc -l -p 8000 >/tmp/got) >/dev/null 2>&1 & "
                   "for i in $(seq 100); do ss -ltn | grep -q :8000 && exit 0; sleep 0.1; done; "
                   "exit 1")
        want = self.b.run(f"head -c {size} /dev/urandom >/tmp/sent; "
                          "cat /tmp/sent >/dev/tcp/10.77.0.1/8000; sha256sum </tmp/sent",
                          timeout=180)
        got = self.a.run(f"for i in $(seq 300); do [ $(stat -c %s /tmp/got) = {size} ] && break; "
                         "sleep 0.1; done; sha256sum </tmp/got", timeout=180)
        assert got == want

    def checksum_errors(self):
        """What the guests' stacks threw away because of wrong sums."""
        script = "grep -hE '^(Udp|Tcp|Ip6|Udp6)' /proc/net/snmp /proc/net/snmp6; nstat -az"
        found = {}
        for guest in self.guests:
            for line in guest.run(script).splitlines():
                words = line.split()
                if len(words) >= 2 and "CsumErrors" in words[0] and words[1] != "0":
                    found[f"{guest.name} {words[0]}"] = words[1]
        return found

    def finish(self):
        assert not self.checksum_errors()
        for guest in self.guests:
            guest.quit()
        self.switch.stop()


@pytest.fixture
def make_pair(need_guests, supervisor, make_switch):
    """A function that boots two guests; see Pair."""
    def make(**options):
        return Pair(supervisor, make_switch, **options)
    return make
