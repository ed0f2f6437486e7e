# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect demo` from the outside: what it prints, how it exits, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vllm

LAST_LINE = re.compile(r"^demo: (\d+) of (\d+) completions identical, ([\d.]+) MiB pulled over (\w+)$")


@pytest.fixture
def mark() -> Iterator[str]:
    """An environment variable by which everything that a demo started can be found."""
    value = f"KVDIRECT_TEST_MARK={uuid.uuid4()}"
    yield value
    for pid in processes_with(value):
        os.kill(pid, signal.SIGKILL)


def processes_with(mark: str) -> list[int]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked, or is not ours to read
        if mark.encode() in variables:
            found.append(int(environ.parent.name))
    return found


def start_demo(mark: str, *arguments: str) -> subprocess.Popen[str]:
    name, value = mark.split("=")
    return subprocess.Popen(
        [sys.executable, "-m", "kvdirect", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, name: value},
        # A shell's background job starts with SIGINT ignored, and so would everything below it.
        preexec_fn=_heed_interrupts,  # noqa: PLW1509  (no threads here)
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_every_completion_is_identical_and_nothing_is_left(mark: str) -> None:
    demo = start_demo(mark)
    output, _ = demo.communicate(timeout=600)
    assert demo.returncode == 0, output
    match = LAST_LINE.match(output.splitlines()[-1])
    assert match, output
    same, total, mebibytes, _lane = match.groups()
    assert int(same) == int(total) >= 8
    assert float(mebibytes) > 1
    assert processes_with(mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_it_started(mark: str, number: signal.Signals) -> None:
    demo = start_demo(mark)
    try:
        deadline = time.monotonic() + 60
        while len(processes_with(mark)) < 5:  # itself, three engines and the router
            assert time.monotonic() < deadline, "the demo started nothing"
            time.sleep(0.2)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 130, output
    assert processes_with(mark) == []


def test_a_model_that_is_not_there_is_named(mark: str, tmp_path: Path) -> None:
    demo = start_demo(mark, "--model", str(tmp_path / "nothing-here"))
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert "nothing-here" in output.splitlines()[-1]
