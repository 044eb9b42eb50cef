# SPDX-License-Identifier: Apache-2.0
"""The `pollux` command as people meet it: its errors, its exit statuses, its life from ready to
the last report, and the commands that ask a running switch."""

import json
import os
import pwd
import shutil
import signal
import struct
import subprocess

import pytest

from support.pollux import PolluxSwitch, pollux, pollux_bin
from support.process import wait_until
from support.system import is_root

LONG = "/tmp/" + "x" * 120

# Arguments, and words that the one line on standard error must have.
WRONG = {
    "no command": ([], ["subcommand"]),
    "no such command": (["swich"], ["swich"]),
    "no such option": (["switch", "--prot", "a=null:"], ["--prot", "pollux switch --help"]),
    "option without value": (["switch", "--cpus"], ["--cpus"]),
    "port without kind": (["switch", "--port", "a="], ["a"]),
    "port of unknown kind": (["switch", "--control", "none", "--port", "a=vhost-usr:/tmp/x"],
                             ["vhost-usr", "vhost-user"]),
    "port with unknown key": (["switch", "--control", "none", "--port", "a=null:,colour=red"],
                              ["colour"]),
    "two ports of a name": (["switch", "--control", "none", "--port", "a=null:", "--port",
                             "a=null:"], ["two ports a"]),
    "socket path too long": (["switch", "--control", "none", "--port", f"a=vhost-user:{LONG}"],
                             ["107"]),
    "socket in no directory": (["switch", "--control", "none", "--port",
                                "a=vhost-user:/nonexistent/s"], ["/nonexistent"]),
    "socket that is a file": (["switch", "--control", "none", "--port",
                               "a=vhost-user:/etc/passwd"], ["/etc/passwd", "not a socket"]),
    "no such capture file": (["switch", "--control", "none", "--port", "a=pcap:/nonexistent.pcap"],
                             ["/nonexistent.pcap"]),
    "no ports at all": (["switch", "--control", "none"], ["--port"]),
    "control path too long": (["switch", "--port", "a=null:", "--control", LONG], ["107"]),
    "control in no directory": (["switch", "--port", "a=null:", "--control", "/nonexistent/s"],
                                ["/nonexistent", "--control"]),
    "control mode": (["switch", "--port", "a=null:", "--control-mode", "9"], ["--control-mode"]),
    "no such CPU": (["switch", "--control", "none", "--port", "a=null:", "--cpus", "4000"],
                    ["4000"]),
    "CPUs that are none": (["switch", "--port", "a=null:", "--cpus", "one"], ["--cpus", "one"]),
    "idle word": (["switch", "--port", "a=null:", "--idle", "sleep"], ["--idle", "poll"]),
    "no such configuration": (["switch", "--config", "/nonexistent.toml"], ["/nonexistent.toml"]),
    "no huge pages": (["switch", "--control", "none", "--port", "a=null:", "--huge-pages",
                       "require", "--pool-buffers", "16777216", "--buffer-size", "65536"],
                      ["huge pages", "vm.nr_hugepages"]),
    "pool of nothing": (["switch", "--port", "a=null:", "--pool-packets", "0"],
                        ["--pool-packets"]),
    "log level": (["--log-level", "loud", "version"], ["--log-level", "debug"]),
    "nobody to ask": (["stats", "--control", "/tmp/pollux-nobody"], ["/tmp/pollux-nobody"]),
    "ask on a long path": (["ports", "--control", LONG], ["107"]),
    "port without command": (["port"], ["subcommand"]),
    "port to add without name": (["port", "add", "null:"], ["NAME=SPEC"]),
    "port to remove": (["port", "del", "a/b"], ["a/b"]),
    "fdb without command": (["fdb"], ["subcommand"]),
}


def complaint(done):
    """The one line that a command that was used wrongly says."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use(pollux_path, name):
    argv, words = WRONG[name]
    line = complaint(pollux(*argv))
    assert line.startswith("pollux"), line
    for word in words:
        assert word in line


@pytest.mark.parametrize("text, place", [
    ("[pool]\npakets = 5\n", ":2: pool.pakets: "),
    ("idle = 3\n", ":1: idle: "),
    ("[ports]\na = \"null:\n", ":2: "),
    ("[ports]\na = \"null:,=\"\n", ":2: ports.a: "),
])
def test_wrong_configuration(pollux_path, supervisor, text, place):
    path = supervisor.path("s.toml")
    with open(path, "w") as file:
        file.write(text)
    assert path + place in complaint(pollux("switch", "--config", path))


def test_command_line_goes_before_file(pollux_path, supervisor):
    path = supervisor.path("s.toml")
    control = supervisor.path("c")
    with open(path, "w") as file:
        file.write(f'control = "{supervisor.path("other")}"\nidle = "yield"\n'
                   '[pool]\npackets = 2048\nbuffers = 2048\n'
                   '[ports]\nb = "null:"\na = "ring:x"\n')
    child = supervisor.start([pollux_bin(), "switch", "--config", path, "--control", control,
                              "--port", "a=null:", "--port", "c=null:", "--json"],
                             separate_stderr=True)
    child.wait_for("^ready$", 20)
    assert child.stop() == 0
    last = json.loads(child.output.removeprefix("ready\n"))
    assert [(p["name"], p["kind"]) for p in last["ports"]] == [
        ("b", "null"), ("a", "null"), ("c", "null")]
    assert last["idle"] == "yield" and last["pool"]["packets"] == 2048


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ready_then_one_document(pollux_path, supervisor, number):
    child = supervisor.start([pollux_bin(), "switch", "--control", supervisor.path("c"), "--json",
                              "--port", "a=null:", "--port",
                              f"v=vhost-user:{supervisor.path('v')}"], separate_stderr=True)
    child.wait_for("^ready$", 20)
    assert os.path.exists(supervisor.path("v")), "every port listens"
    assert child.stop(number) == 0
    assert child.output.startswith("ready\n")
    last = json.loads(child.output.removeprefix("ready\n"))
    assert [p["name"] for p in last["ports"]] == ["a", "v"]
    assert "memory" in child.stderr_text and "pages" in child.stderr_text
    assert not os.path.exists(supervisor.path("v")) and not os.path.exists(supervisor.path("c"))


def test_last_table(pollux_path, supervisor):
    done = pollux("switch", "--control", "none", "--port", "a=null:", "--run-for", "0.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready\n")
    assert "a     null:" in done.stdout and "no packet was dropped" in done.stdout


def frame(number):
    return (b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + struct.pack(">I", number)).ljust(60, b"\0")


def write_pcap(path, frames):
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for i, data in enumerate(frames):
            file.write(struct.pack("<IIII", i, 0, len(data), len(data)) + data)


def test_ends_with_the_capture(pollux_path, supervisor):
    path = supervisor.path("in.pcap")
    write_pcap(path, [frame(i) for i in range(500)])
    done = pollux("switch", "--control", "none", "--json", "--exit-when-finished", "--port",
                  f"in=pcap:{path}", "--port", "n=null:")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.removeprefix("ready\n"))
    ports = {p["name"]: p for p in last["ports"]}
    assert ports["in"]["rx"]["packets"] == 500
    assert ports["n"]["tx"]["packets"] == 500
    assert ports["n"]["tx"]["bytes"] == 500 * 60


def test_questions(pollux_path, supervisor):
    switch = PolluxSwitch(supervisor, ["a"], specs={"n": "null:"})
    control = ["--control", switch.control]
    for words, expected in ((["stats"], "vhost-user:"), (["stats", "--drops"], "dropped"),
                            (["stats", "--queues"], "rx0"), (["ports"], "link down"),
                            (["fdb", "show"], "no address")):
        done = pollux(*words, *control)
        assert done.returncode == 0 and expected in done.stdout, (words, done.stdout, done.stderr)
    assert switch.ask("fdb", "show") == {"entries": []}
    assert {p["name"] for p in switch.stats()["ports"]} == {"a", "n"}
    done = pollux("stats", "--watch", "--interval", "0.1", "--count", "3", *control)
    assert done.returncode == 0 and done.stdout.count("port") == 3 and "0 pps" in done.stdout
    watching = supervisor.start([pollux_bin(), "stats", "--watch", "--interval", "0.1", *control])
    watching.wait_for("pps", 20)
    assert watching.stop(signal.SIGINT) == 0
    switch.finish()


def test_control_socket_is_private(pollux_path, supervisor):
    switch = PolluxSwitch(supervisor, specs={"n": "null:"})
    assert os.stat(switch.control).st_mode & 0o777 == 0o600
    done = pollux("switch", "--port", "m=null:", "--control", switch.control)
    assert "--control" in complaint(done)
    switch.child.kill()
    PolluxSwitch(supervisor, specs={"n": "null:"}).finish()


def test_doctor(pollux_path):
    done = pollux("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    subjects = {f["subject"] for f in report["findings"]}
    assert {"huge pages", "CPUs", "control socket", "/dev/net/tun"} <= subjects
    table = pollux("doctor").stdout
    assert "huge pages" in table and "what to do" in table


@pytest.mark.parametrize("words", [[], ["switch"], ["stats"], ["ports"], ["port", "add"],
                                   ["port", "del"], ["fdb", "show"], ["doctor"], ["version"]])
def test_help(pollux_path, words):
    done = pollux(*words, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "--help" in done.stdout


def test_version(pollux_path):
    assert pollux("--version").stdout == pollux("version").stdout
    assert pollux("version").stdout.startswith("pollux ")


class Ordinary:
    """The command as a user without any privilege, in a directory of that user."""

    def __init__(self, supervisor):
        self.entry = pwd.getpwnam("nobody")
        os.chmod(supervisor.dir, 0o755)
        self.binary = shutil.copy(pollux_bin(), supervisor.path("pollux"))
        self.home = supervisor.path("home")
        os.mkdir(self.home, 0o700)
        os.chown(self.home, self.entry.pw_uid, self.entry.pw_gid)

    def options(self):
        return {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": [],
                "env": {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": self.home}}

    def run(self, *argv):
        return subprocess.run([self.binary, *argv], capture_output=True, text=True, timeout=30,
                              **self.options())

    def start(self, *argv):
        return subprocess.Popen([self.binary, *argv], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, **self.options())


@pytest.fixture
def ordinary(pollux_path, supervisor):
    if not is_root():
        pytest.skip("NOT TESTED: becoming another user needs root")
    return Ordinary(supervisor)


def test_missing_permissions(ordinary, supervisor):
    os.mkdir(supervisor.path("closed"), 0o700)
    socket = supervisor.path("closed") + "/s"
    assert socket in complaint(ordinary.run("switch", "--control", "none", "--port",
                                            f"a=vhost-user:{socket}"))
    assert "tap0" in complaint(ordinary.run("switch", "--control", "none", "--port",
                                            "a=tap:tap0"))
    config = supervisor.path("s.toml")
    with open(config, "w") as file:
        file.write("")
    os.chmod(config, 0o600)
    assert "Permission denied" in complaint(ordinary.run("switch", "--config", config))


def test_default_socket_of_an_ordinary_user(ordinary):
    """Without --control the commands find each other, and a second switch is told what to do."""
    child = ordinary.start("switch", "--port", "n=null:")
    try:
        assert child.stdout.readline() == "ready\n"
        path = ordinary.home + "/pollux/control.sock"
        assert os.path.exists(path)
        assert json.loads(ordinary.run("ports", "--json").stdout)["ports"][0]["name"] == "n"
        assert "--control" in complaint(ordinary.run("switch", "--port", "n=null:"))
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0
        wait_until(lambda: not os.path.exists(path), 5, "the socket is removed")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
