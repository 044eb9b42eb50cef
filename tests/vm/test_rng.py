# SPDX-License-Identifier: Apache-2.0
"""The library's example of a device other than a network card: a guest reads random numbers that
`examples/virtio_rng` serves."""

import os
from pathlib import Path

import pytest

from support.guest import Guest
from support.pollux import pollux_bin


def example():
    path = Path(pollux_bin()).with_name("virtio_rng")
    if not os.access(path, os.X_OK):
        pytest.skip(f"NOT TESTED: {path} is not built (POLLUX_EXAMPLES=ON)")
    return path


def serve(supervisor, path):
    device = supervisor.start([example(), f"--socket-path={path}"], name="virtio_rng")
    device.wait_for(r"^ready$", 20)
    return device


def test_a_guest_reads_random_numbers(need_guests, supervisor):
    path = supervisor.path("rng.sock")
    device = serve(supervisor, path)
    guest = Guest(supervisor, "rng", [], devices=[
        "-chardev", f"socket,id=rng,path={path}",
        "-device", "vhost-user-rng-pci,chardev=rng,vectors=0"])
    guest.wait_ready()
    assert "attached" in device.output
    current = guest.run("cat /sys/class/misc/hw_random/rng_current").strip()
    assert current.startswith("virtio_rng")
    # Far more than a queue holds, and not twice the same.
    sizes = guest.run("for i in 1 2; do head -c 100000 /dev/hwrng >/tmp/r$i; done; "
                      "cmp -s /tmp/r1 /tmp/r2 && echo same; gzip -c /tmp/r1 | wc -c", timeout=180)
    assert "same" not in sizes
    assert int(sizes.split()[-1]) > 99000, "random bytes do not compress"
    guest.quit()
    assert device.stop() == 0, device.describe()
