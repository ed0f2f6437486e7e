# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A forked process of the tests is to them what one is that was started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import nursery
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEADLINE = 60.0
PROGRAM = """
import json, os, sys
import numpy as np
os.write(2, b"complaint\\n")
asked = sys.stdin.readline().strip()
memory = np.zeros(1 << 20, dtype=np.uint8)
said = {"name": __name__, "words": sys.argv[1:], "pid": os.getpid(), "here": os.getcwd(),
        "late": sorted(name for name in os.environ if name.startswith("KVDIRECT_OF_")),
        "value": os.environ["OF_TEST"], "open": sorted(os.listdir("/proc/self/fd"), key=int)[:-1], "asked": asked,
        "lies": memory.ctypes.data}
print(json.dumps(said), flush=True)
if asked == "fail":
    sys.exit(7)
if asked == "crash":
    raise ValueError
sys.stdin.readline()
"""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of these tests is kept for others, nor the other way round."""
    before = dict(nursery._nurseries)
    nursery._nurseries.clear()
    monkeypatch.setattr(nursery, "ANEW", 1)
    yield
    for kin in nursery._nurseries.values():
        for one in kin:
            one.close()
    nursery._nurseries.clear()
    nursery._nurseries.update(before)


def start(
    folder: Path, *, value: str = "1", late: Mapping[str, str] | None = None
) -> nursery.Forked | subprocess.Popen[bytes]:
    program = folder / "program.py"
    if not program.exists():  # Another process may be about to read it.
        program.write_text(PROGRAM)
    variables = {**os.environ, "OF_TEST": value, **(late or {})}
    return nursery.start(
        "program", ["a", "b"], imports=["numpy"], environment=variables, folder=str(folder), merged=True
    )


def talk(process: nursery.Forked | subprocess.Popen[bytes], asked: str) -> dict[str, object]:
    """What it says of itself, after what it complains of."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{asked}\n".encode())
    assert process.stdout.readline() == b"complaint\n"
    told = json.loads(process.stdout.readline())
    assert isinstance(told, dict)
    return told


@pytest.mark.usefixtures("kept")
def test_it_is_what_a_new_process_is(tmp_path: Path) -> None:
    anew, *forked = (start(tmp_path) for _ in range(1 + nursery.IN_TURN))
    assert isinstance(anew, subprocess.Popen), "the first of a kind is really started"
    assert all(isinstance(one, nursery.Forked) for one in forked)
    told = [talk(one, "stay") for one in (anew, *forked)]
    assert [one.pop("pid") for one in told] == [anew.pid, *(one.pid for one in forked)]
    assert len({one.pop("lies") for one in told}) == len(told), "an address of one says nothing in another"
    common = {"late": [], "name": "__main__", "words": ["a", "b"], "here": str(tmp_path), "value": "1", "asked": "stay"}
    assert told == [{**common, "open": ["0", "1", "2"]}] * len(told)
    for one in (anew, *forked):
        assert one.poll() is None
        assert one.stdin
        one.stdin.close()
        assert one.wait(DEADLINE) == 0


@pytest.mark.usefixtures("kept")
def test_it_ends_as_a_new_process_does(tmp_path: Path) -> None:
    start(tmp_path).kill()
    failed, crashed, killed, stopped = (start(tmp_path) for _ in range(4))
    assert all(isinstance(one, nursery.Forked) for one in (failed, crashed, killed, stopped))
    talk(failed, "fail")
    assert (failed.wait(DEADLINE), failed.poll()) == (7, 7)
    talk(crashed, "crash")
    assert crashed.wait(DEADLINE) == 1
    assert crashed.stdout
    assert crashed.stdout.readline().startswith(b"Traceback")
    talk(killed, "stay")
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(0.01)
    killed.kill()
    assert killed.wait(DEADLINE) == -signal.SIGKILL
    killed.kill()  # It is gone, and nobody else is hit.
    talk(stopped, "stay")
    stopped.terminate()
    assert stopped.wait(DEADLINE) == -signal.SIGTERM


@pytest.mark.usefixtures("kept")
def test_another_environment_is_another_kind(tmp_path: Path) -> None:
    for value in ("1", "2"):
        anew, forked = start(tmp_path, value=value), start(tmp_path, value=value)
        assert isinstance(anew, subprocess.Popen)
        assert [talk(one, "fail")["value"] for one in (anew, forked)] == [value, value]
        assert [one.wait(DEADLINE) for one in (anew, forked)] == [7, 7]


@pytest.mark.usefixtures("kept")
def test_late_variables_are_those_of_each(tmp_path: Path) -> None:
    start(tmp_path, late={"KVDIRECT_OF_ONE": "1"}).kill()
    for late in ({"KVDIRECT_OF_ONE": "1"}, {"KVDIRECT_OF_ANOTHER": "1"}, {}, {"KVDIRECT_OF_ONE": "1"}):
        forked = start(tmp_path, late=late)
        assert isinstance(forked, nursery.Forked)
        assert talk(forked, "fail")["late"] == [*late]
        assert forked.wait(DEADLINE) == 7


@pytest.mark.usefixtures("kept")
def test_nobody_is_left_of_whom_nobody_knows(tmp_path: Path) -> None:
    """Whoever asks waits only so long, on a machine that has no time at all."""
    start(tmp_path).kill()
    start(tmp_path).kill()
    [[one]] = nursery._nurseries.values()
    one._process.send_signal(signal.SIGSTOP)
    one._control.settimeout(0.1)
    (words, speaker), (listener, said) = os.pipe(), os.pipe()
    with pytest.raises(TimeoutError):
        one.ask({"words": ["program"], "late": {}}, [words, said, said])
    os.close(said)
    one._process.send_signal(signal.SIGCONT)
    assert one._process.wait(DEADLINE) == 0
    # Somebody who lived on would wait for a word for ever, and this for the end.
    with os.fdopen(listener, "rb") as heard:
        assert heard.read() in {b"", b"complaint\n"}
    os.close(words)
    os.close(speaker)
