# SPDX-License-Identifier: Apache-2.0
"""The benches measure what they say: everything is carried and counted. No time is looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.process import cpus

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path[:0] = [str(BENCH / "side-by-side"), str(BENCH / "scaling")]

import measure as scaling  # noqa: E402

# Two of them poll all the time, also where there is only one.
SOME_CPUS = (cpus() * 2)[:2]


def run(name, *arguments, allowed):
    """The bench's standard output and its JSON; it must end with status 0."""
    def confine():
        os.sched_setaffinity(0, allowed)
    done = subprocess.run([BENCH / name / "run", *arguments], capture_output=True, text=True,
                          timeout=120, preexec_fn=confine)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_two_pairs_of_ports_carry_everything(pollux_path, workers):
    """bench/scaling's workers, here on CPUs that they share with the generators."""
    if len(cpus()) < workers:
        pytest.skip("NOT TESTED: two workers want two CPUs")
    told = scaling.two_pairs(cpus()[:workers], SOME_CPUS, 0.3, idle="yield")
    assert told["whole"] == [2 * flying for flying in told["in_flight"]]
    assert min(told["pps_each"]) > 0
    # Each pair has a worker to itself where there are as many.
    assert told["workers_of"] == ([[0, 0], [0, 0]] if workers == 1 else [[0, 0], [1, 1]])


def test_too_few_cpus_for_two_workers(pollux_path, tmp_path):
    """In one line, and without figures."""
    file = tmp_path / "found.json"
    few = SOME_CPUS
    if len(set(few)) < 2:
        pytest.skip("NOT TESTED: one CPU is too few for any of it")
    said = run("scaling", "--rows", "workers", "--json", file, allowed=few)
    assert said == "workers: not measured: 2 workers and 2 generators need 4 CPUs, here are 2\n"
    assert json.loads(file.read_text())["workers"].keys() == {"not_measured"}


def test_flows_and_addresses_scale(pollux_path):
    told = scaling.pair(3, 5, 1000, 0.2, SOME_CPUS)
    assert told["pps"] > 0 and told["busy_cycles"] > 0


def test_latency_is_that_of_all_frames(pollux_path, tmp_path):
    """bench/latency, with both ways of idling and a rate of its own: no peer is needed."""
    if len(cpus()) < 2:
        pytest.skip("NOT TESTED: a switch and a generator want a CPU each")
    file = tmp_path / "found.json"
    run("latency", "--switches", "pollux,pollux-poll", "--sizes", "64,1518", "--rate", "20000",
        "--rounds", "1", "--seconds", "1", "--json", file, allowed=cpus())
    found = json.loads(file.read_text())
    assert not found["failures"]
    assert {(r["contender"], r["work"]) for r in found["rows"]} == {
        (name, work) for name in ("pollux", "pollux-poll") for work in ("64 B split", "1518 B split")}
    for one in found["measurements"]:
        assert one["received"] == one["sent"] > 0
        assert one["latency_ns"]["count"] == one["window_sent"] < one["sent"]
        assert 0 < one["undisturbed_slices"] <= one["slices"]
        assert "MRG_RXBUF" in one["features"] and one["negotiated"].keys() == {"a", "b"}
