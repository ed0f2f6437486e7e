# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The processes of the demo are never forgotten, whenever the signal comes, and gone when stop() returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from kvdirect.harness import processes
from kvdirect.harness.processes import ManagedProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def sigterm_interrupts() -> Iterator[None]:
    """As in the demo."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.usefixtures("sigterm_interrupts")
def test_a_signal_while_a_process_starts_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:  # noqa: ANN401
            super().__init__(command, **options)
            started.append(self.pid)
            signal.raise_signal(signal.SIGTERM)  # before the caller has the object

    monkeypatch.setattr(processes.subprocess, "Popen", Interrupted)
    process = ManagedProcess("sleeper", ["sleep", "60"], "", tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        process.start()
    process.ask_to_stop()
    process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_nothing_of_the_group_lives_when_stop_returns(tmp_path: Path) -> None:
    """As vLLM's helpers do, the child ignores SIGTERM; it holds memory that takes the kernel a while to give back."""
    child = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); x = bytearray(400 << 20); print('ready', flush=True)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child + '; time.sleep(60)'!r}]).wait()"
    log = tmp_path / "log"
    process = ManagedProcess("parent", [sys.executable, "-c", parent], "", log)
    process.start()
    while "ready" not in log.read_text():
        time.sleep(0.05)
    process.ask_to_stop()
    process.stop(0.5)
    group = process.group
    assert group > 0
    assert not processes.alive_in_group(group)
