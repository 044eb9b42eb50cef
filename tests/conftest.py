# SPDX-License-Identifier: Apache-2.0
"""What the tests against real counterparts share. See support/README.md."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.pollux import PolluxSwitch, pollux_bin  # noqa: E402
from support.process import HarnessError, Supervisor, clean_up_on_sigterm  # noqa: E402
from support.switches import OvsSwitch, TestpmdSwitch  # noqa: E402
from support.system import hugepages, missing_program, netns_reason  # noqa: E402


def pytest_configure(config):
    clean_up_on_sigterm()


def pytest_addoption(parser):
    parser.addoption("--switch", default="pollux", choices=["pollux", "testpmd", "ovs"],
                     help="what stands between the peers; a test that fails with another switch "
                          "too is itself at fault")


@pytest.fixture
def supervisor(request):
    """Owns what a test starts; what the programs said last is shown if it fails."""
    with Supervisor() as owner:
        request.node.supervisors = getattr(request.node, "supervisors", []) + [owner]
        yield owner


@pytest.fixture(scope="module")
def module_supervisor():
    with Supervisor() as owner:
        yield owner


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        owners = list(getattr(item, "supervisors", []))
        if "module_supervisor" in item.fixturenames:
            owners.append(item.funcargs["module_supervisor"])
        for owner in owners:
            report.sections.append(("programs", owner.report()))


@pytest.fixture(scope="session")
def pollux_path():
    """The command under test. Its absence is a failure, not a reason to skip."""
    try:
        return pollux_bin()
    except HarnessError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def make_switch(request):
    """A function (supervisor, ports, **options) that starts the switch chosen by --switch."""
    kind = request.config.getoption("--switch")
    if kind == "pollux":
        request.getfixturevalue("pollux_path")
        return PolluxSwitch

    def stand_in(supervisor, ports, frame_size=1518, tso=False, **_):
        if kind == "testpmd":
            return TestpmdSwitch(supervisor, ports, frame_size=frame_size, tso=tso)
        supervisor.enter(hugepages(640))
        return OvsSwitch(supervisor, ports, frame_size=frame_size)
    return stand_in


@pytest.fixture(scope="session")
def need_testpmd():
    if reason := missing_program("dpdk-testpmd"):
        pytest.skip(f"NOT TESTED: {reason}")


@pytest.fixture(scope="session")
def need_netns():
    if reason := netns_reason():
        pytest.skip(f"NOT TESTED: {reason}")
