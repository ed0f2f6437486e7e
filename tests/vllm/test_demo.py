# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect demo` from the outside: what it prints, how it exits, and that it leaves nothing behind."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from marked import processes_with, start

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.vllm

LAST_LINE = re.compile(r"^demo: (\d+) of (\d+) completions identical, ([\d.]+) MiB pulled over (\w+)$")


def start_demo(mark: str, *arguments: str) -> subprocess.Popen[str]:
    return start(mark, "-m", "kvdirect", "demo", *arguments)


@pytest.mark.parametrize("model", ["", "tiny-gpt-oss", "tiny-qwen3-next"])
def test_every_completion_is_identical_and_nothing_is_left(mark: str, model: str) -> None:
    demo = start_demo(mark, "--model", model)
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
