# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A pytest plugin: when a test takes too long, the stacks of every process that it has started, native and Python.

pytest-timeout counts the seconds and ends the test; the stacks are written before it does, while all of them still
stand where they hang. pystack (PyPI) reads Python processes with their native threads, gdb the others. What neither can
read is named, with the reason.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# In the environment of all that the tests start: what was orphaned is found by it.
MARK = "KVDIRECT_TEST_SESSION"
TOOL_DEADLINE = 30.0
ALL_DEADLINE = 240.0
# How long a test may take to end after it was told to; the main thread may never come back from native code.
END_DEADLINE = 60.0
_OUTPUT = pytest.StashKey[int]()


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    state: str
    command: str
    marked: bool


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(MARK, str(uuid.uuid4()))
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # so that a Python process that crashes says where
    config.stash[_OUTPUT] = os.dup(2)  # before pytest captures it


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_OUTPUT])


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Generator[None, object, object]:
    """pytest-timeout's handler stays, but our thread calls it, when the stacks are written."""
    result = yield
    handler = signal.getsignal(signal.SIGALRM)
    if threading.current_thread() is threading.main_thread() and callable(handler):
        seconds, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        watch = _Watch(seconds, item.nodeid, item.config.stash[_OUTPUT], item.cancel_timeout)  # type: ignore[attr-defined]
        item.cancel_timeout = watch.cancel  # type: ignore[attr-defined]
        watch.start()
    return result


class _Watch(threading.Thread):
    """Waits for the end of one test, or else writes down where everybody is and ends it."""

    def __init__(self, seconds: float, test: str, output: int, usual: Callable[[], None]) -> None:
        super().__init__(name="stacks", daemon=True)
        self._seconds, self._test, self._output, self._usual = seconds, test, output, usual
        self._lock, self._over = threading.Lock(), threading.Event()

    def cancel(self) -> None:
        with self._lock:
            self._over.set()
        self._usual()

    def run(self) -> None:
        if self._over.wait(self._seconds):
            return
        self._say(f"\n++++ {self._test} hangs after {self._seconds:.0f} s\n{stacks()}\n++++\n")
        with self._lock:
            if self._over.is_set():
                return
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        if not self._over.wait(END_DEADLINE):
            self._say(f"++++ {self._test} does not end either: all its processes are killed\n")
            for process in mine():
                if process.pid != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            os._exit(1)

    def _say(self, text: str) -> None:
        with os.fdopen(os.dup(self._output), "w", errors="replace") as output:
            output.write(text)


def stacks() -> str:
    """Of this process and all that it has started, directly or not."""
    deadline = time.monotonic() + ALL_DEADLINE
    parts = []
    for process in mine():
        late = time.monotonic() > deadline
        found = f"(not looked at: {ALL_DEADLINE:.0f} s are over)" if late else stacks_of(process)
        parts.append(f"==== process {process.pid}, of {process.parent}, {process.state}: {process.command}\n{found}")
    return "\n\n".join(parts)


def stacks_of(process: Process) -> str:
    """Threads that stand at the same place together; or why there is nothing to be said."""
    pid = str(process.pid)
    reasons = []
    for name, command, installed in (
        ("pystack", [sys.executable, "-m", "pystack", "remote", "--native-all", pid], _has_pystack()),
        ("gdb", ["gdb", "-batch", "-nx", "-p", pid, "-ex", "thread apply all backtrace"], shutil.which("gdb")),
    ):
        if not installed:
            reasons.append(f"{name} is not installed")
            continue
        status, said, complaints = _run(command)
        if status == 0 and said.strip():
            return _together(said)
        reasons.append(f"{name}: {(complaints or said).strip().splitlines()[-1:] or [f'status {status}']}")
    return (
        f"no stacks: {'; '.join(reasons)}. `pip install pystack` or gdb gives them; both need to be allowed to trace."
    )


def _has_pystack() -> bool:
    return importlib.util.find_spec("pystack") is not None


def _run(command: list[str]) -> tuple[int, str, str]:
    """Status and what it said. Into files: a tool that has stopped this process must not wait for it to read."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=complaints, timeout=TOOL_DEADLINE, check=False
            )
            status = done.returncode
        except (subprocess.TimeoutExpired, OSError) as error:
            return 1, "", str(error)
        texts = []
        for file in (said, complaints):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return status, texts[0], texts[1]


def _together(said: str) -> str:
    """Engines have dozens of idle threads in one place: each place once, with the threads that stand there."""
    places: dict[str, list[str]] = {}
    for block in said.strip().split("\n\n"):
        thread, _, place = block.partition("\n")
        places.setdefault(place, []).append(thread)
    return "\n\n".join("\n".join([*threads, place]) for place, threads in places.items())


def mine() -> list[Process]:
    """This process and its descendants, and what has its mark though its parents are gone; oldest first."""
    everybody = {process.pid: process for process in map(_look, Path("/proc").glob("[0-9]*")) if process}
    found = {pid for pid, process in everybody.items() if process.marked or pid == os.getpid()}
    while more := {pid for pid, process in everybody.items() if process.parent in found} - found:
        found |= more
    return [everybody[pid] for pid in sorted(found)]


def _look(folder: Path) -> Process | None:
    """None for what has ended, or is not ours to read."""
    try:
        # After the name in brackets: state, parent. (proc(5))
        state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        variables = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    marked = f"{MARK}={os.environ.get(MARK)}".encode() in variables
    return Process(int(folder.name), int(parent), state, command[:300], marked) if state != "Z" else None
