# SPDX-License-Identifier: Apache-2.0
"""Children and other things that must be gone when a test is over, however it ends.

A `Supervisor` owns processes, a scratch directory and undo steps. It only ever ends what it
started itself, by process group. Should this interpreter be killed, the kernel kills its
children (PR_SET_PDEATHSIG), and the next Supervisor sweeps up what has the dead one's pid in
its name (network namespaces, taps, hugepage reservations).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class HarnessError(Exception):
    """A counterpart did not do what the harness needs; the text holds its last output."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One running program, its output so far, and its standard input.

    A reader thread collects standard output and standard error in the order of arrival.
    """

    def __init__(self, argv: Sequence[str], *, env: dict[str, str] | None = None,
                 cwd: str | os.PathLike | None = None, cpus: Sequence[int] | None = None,
                 name: str | None = None, log: Path | None = None,
                 separate_stderr: bool = False) -> None:
        self.argv = [str(a) for a in argv]
        self.name = name or Path(self.argv[0]).name
        self._text = ""
        self._changed = threading.Condition()
        self._eof = False
        self._log = log.open("a") if log else None

        def prepare() -> None:
            _die_with_parent()
            if cpus:
                os.sched_setaffinity(0, cpus)

        # The death signal follows the thread that forks, so only a thread that stays may.
        assert threading.current_thread() is threading.main_thread()
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if separate_stderr else subprocess.STDOUT,
            env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True,
            preexec_fn=prepare)
        self.stderr_text = ""
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        if separate_stderr:
            self._readers.append(threading.Thread(target=self._read_stderr, daemon=True))
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        fd = self.process.stdout.fileno()
        while chunk := os.read(fd, 65536):
            text = chunk.decode("utf-8", "replace")
            if self._log:
                self._log.write(text)
                self._log.flush()
            with self._changed:
                self._text += text
                self._changed.notify_all()
        with self._changed:
            self._eof = True
            self._changed.notify_all()

    def _read_stderr(self) -> None:
        while chunk := os.read(self.process.stderr.fileno(), 65536):
            self.stderr_text += chunk.decode("utf-8", "replace")

    @property
    def output(self) -> str:
        with self._changed:
            return self._text

    def mark(self) -> int:
        """The present end of the output: a place to wait from."""
        with self._changed:
            return len(self._text)

    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, line: str) -> None:
        try:
            self.process.stdin.write((line + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise HarnessError(f"{self.describe()}: gone before '{line}'") from None

    def wait_for(self, pattern: str, timeout: float, since: int = 0) -> re.Match:
        """The first match of `pattern` in the output from `since` on."""
        regex = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if match := regex.search(self._text, since):
                    return match
                left = deadline - time.monotonic()
                if self._eof or left <= 0:
                    why = "ended" if self._eof else f"said nothing for {timeout:g} s"
                    raise HarnessError(f"{self.describe()}: {why}, waited for /{pattern}/")
                self._changed.wait(left)

    def wait(self, timeout: float) -> int:
        """Waits for the program to end by itself; its exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise HarnessError(f"{self.describe()}: still there after {timeout:g} s") from None
        for reader in self._readers:
            reader.join(5)
        return status

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Asks the program to end; kills its process group if it does not. Exit status."""
        if self.alive():
            self.send_signal(number)
        try:
            return self.wait(timeout)
        except HarnessError:
            self.kill()
            raise
        finally:
            self._close()

    def kill(self) -> None:
        """Ends the whole process group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
        if self._log:
            self._log.close()

    def describe(self, lines: int = 25) -> str:
        """Command, state and last output, for messages."""
        state = "running" if self.alive() else f"exit status {self.process.returncode}"
        tail = "\n".join(("    " + t) for t in
                         (self.output + self.stderr_text).splitlines()[-lines:])
        return f"{self.name} ({state}): {shlex.join(self.argv)}\n{tail}\n"

    def resident_kib(self) -> int:
        """VmRSS less what is shared file memory: a peer's own pages do not count."""
        fields = dict(line.split(":", 1) for line in
                      Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def mappings(self) -> int:
        return len(Path(f"/proc/{self.pid}/maps").read_text().splitlines())

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


class Supervisor:
    """Starts things and undoes them in reverse order when it closes."""

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self._stack = contextlib.ExitStack()
        _sweep_scratch()
        # Socket paths end at 108 bytes, so the scratch directory has to be near the root.
        self.dir = Path(tempfile.mkdtemp(prefix=f"plx{os.getpid()}-", dir="/tmp"))
        if not keep:
            self._stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.children: list[Child] = []
        self._names = 0

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def defer(self, undo: Callable, *args: object) -> None:
        self._stack.callback(undo, *args)

    def enter(self, context):
        """Enters a context manager that is left when this supervisor closes."""
        return self._stack.enter_context(context)

    def start(self, argv: Sequence[str], **options) -> Child:
        """Starts a program that does not outlive this supervisor."""
        child = Child(argv, **options)
        self.children.append(child)
        self._stack.callback(self._reap, child)
        return child

    def _reap(self, child: Child) -> None:
        with contextlib.suppress(ValueError):
            self.children.remove(child)
        child.kill()

    def path(self, name: str) -> str:
        return str(self.dir / name)

    def unique(self, stem: str) -> str:
        """A name with this interpreter's pid in it, short enough for an interface."""
        self._names += 1
        return f"px{os.getpid()}{stem}{self._names}"

    def report(self) -> str:
        """What every child said last."""
        return "\n".join(child.describe() for child in self.children)


def _sweep_scratch() -> None:
    """Removes scratch directories of interpreters that were killed."""
    for path in Path("/tmp").glob("plx[0-9]*-*"):
        if not process_alive(int(path.name[3:].split("-")[0])):
            shutil.rmtree(path, ignore_errors=True)


def clean_up_on_sigterm() -> None:
    """Makes SIGTERM unwind the stack, as Ctrl-C does, so that what was borrowed goes back."""
    def leave(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(f"signal {number}")
    signal.signal(signal.SIGTERM, leave)


def call(argv: Sequence[str], timeout: float = 30, check: bool = True,
         env: dict[str, str] | None = None) -> str:
    """Runs a short program to its end; its standard output."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True,
                          timeout=timeout, env={**os.environ, **(env or {})},
                          preexec_fn=_die_with_parent)
    if check and done.returncode:
        raise HarnessError(f"{shlex.join(map(str, argv))}: exit status {done.returncode}\n"
                           f"{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(condition: Callable[[], object], timeout: float, what: str,
               interval: float = 0.02):
    """Asks again and again until `condition()` is true; its value."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise HarnessError(f"not within {timeout:g} s: {what}")
        select.select([], [], [], interval)


def process_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0))


def cpu_pair() -> tuple[int, int]:
    """One CPU for the switch and one for its peers (the same one if there is only one)."""
    allowed = cpus()
    return allowed[0], allowed[-1] if len(allowed) > 1 else allowed[0]
