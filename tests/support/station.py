# SPDX-License-Identifier: Apache-2.0
"""The kernel's network stack as a peer."""

import subprocess
import sys

from .system import Netns


class Station:
    """A tap port of a switch, moved into a namespace, with an address."""

    def __init__(self, supervisor, switch, name, *addresses, mtu=None, keys=""):
        """`keys` of the port, each with a comma before it."""
        self.tap = supervisor.unique("t")
        self.netns = Netns(supervisor)
        switch.add_port(name, f"tap:{self.tap}{keys}")
        self.netns.take(self.tap, *addresses, mtu=mtu)
        text = self.netns.run("ip", "-o", "link", "show", self.tap)
        self.mac = text.split("link/ether ")[1].split()[0]

    def knows(self, ip, mac):
        self.netns.run("ip", "neigh", "replace", ip, "lladdr", mac, "dev", self.tap,
                       "nud", "permanent")

    def python(self, script, *arguments):
        """A Python program inside the namespace."""
        return subprocess.Popen(self.netns.command(sys.executable, "-c", script, *arguments),
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
