# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A test that hangs shows where every one of its processes stands: seen in a pytest of its own, which really hangs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stacks

HERE = Path(__file__).parent
HANGS = '''
import subprocess, sys, time

CHILD = """
import os, subprocess, sys
import kvtransfer as kt
engine = kt.Engine(kt.EngineConfig(), name="hangs")
def waits_for_ever_in_the_child():
    subprocess.Popen(["sleep", "1234"]).wait()
os.setsid()
waits_for_ever_in_the_child()
"""

def waits_for_its_child(child):
    child.wait()

def test_hangs():
    child = subprocess.Popen([sys.executable, "-c", CHILD])
    try:
        waits_for_its_child(child)
    finally:
        child.kill()

def test_goes_on():
    pass
'''


def pytest_that_hangs(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_hangs.py"
    file.write_text(text)
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    # One session each: what hangs there is not this one's.
    rest = {name: value for name, value in os.environ.items() if name != stacks.MARK}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "stacks", "-p", "no:cacheprovider", *words, str(file)],
        cwd=folder,
        env={**rest, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(not stacks._has_pystack(), reason="pystack is not installed (`make setup` does)")
def test_every_process_of_a_test_that_hangs_shows_its_stacks(tmp_path: Path) -> None:
    done = pytest_that_hangs(tmp_path, HANGS, "--timeout", "10")
    said = done.stdout
    assert done.returncode == 1, said
    assert "test_hangs.py::test_hangs hangs after 10 s" in said
    assert "in waits_for_its_child" in said
    assert "in waits_for_ever_in_the_child" in said
    # A thread of the core's, which knows no Python.
    assert "(kvd-control)" in said
    assert "epoll_wait" in said
    # A program that is not Python is listed, and read where there is a gdb.
    assert "sleep 1234" in said
    assert ("nanosleep" in said) == (shutil.which("gdb") is not None)
    # pytest-timeout has ended the test as usual, and the next one has run.
    assert "Failed: Timeout (>10.0s)" in said
    assert "1 failed, 1 passed" in said


STUCK = """
import ctypes, signal

def test_is_stuck():
    ctypes.CDLL(None).pause.restype = None
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        ctypes.CDLL(None).pause()
"""


def test_a_test_that_does_not_end_when_told_ends_all(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import stacks\nstacks.END_DEADLINE = 3.0\n")
    done = pytest_that_hangs(tmp_path, STUCK, "--timeout", "2")
    assert done.returncode == 1, done.stdout
    assert "test_is_stuck does not end either" in done.stdout


def test_without_tools_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_has_pystack", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    said = stacks.stacks_of(stacks.Process(1, 0, "S", "init", marked=False))
    assert said.startswith("no stacks: pystack is not installed; gdb is not installed. `pip install pystack`")


def test_threads_in_one_place_stand_together() -> None:
    said = "Traceback for thread 1\n  a\n  b\n\nTraceback for thread 2\n  c\n\nTraceback for thread 3\n  a\n  b\n"
    expected = "Traceback for thread 1\nTraceback for thread 3\n  a\n  b\n\nTraceback for thread 2\n  c"
    assert stacks._together(said) == expected
