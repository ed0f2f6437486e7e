# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Programs that the doctor runs: each check that could crash or hang does so in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Generous: machines that need a doctor are often busy. Seconds.
DEADLINE = 60.0
_GRACE = 15.0
_HERE = Path(__file__).resolve().parent


class ProgramError(Exception):
    """A program ended without an answer; the message says how, in its own last words where it had any."""


def run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Raises:
        ProgramError: It does not exist, may not be started, or did not end within DEADLINE.
    """
    try:
        return subprocess.run(  # noqa: S603  (our own programs, and ucx_info beside the library in use)
            list(command),
            input=given,
            env=None if environment is None else dict(environment),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{Path(command[0]).name} did not end within {DEADLINE:.0f} s") from error
    except OSError as error:
        raise ProgramError(f"{command[0]} could not be started: {error.strerror}") from error


def python(program: str, *arguments: str) -> list[str]:
    """The command line of one of our programs, by the name of its file here."""
    return [sys.executable, "-P", str(_HERE / f"{program}.py"), *arguments]


def environment() -> dict[str, str]:
    """Ours, with modules found where this process finds them."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def ask(program: str, *arguments: str, given: str = "") -> dict[str, Any]:
    """Run one of our programs, and return the JSON object it answers with.

    Raises:
        ProgramError: There is no answer.
    """
    done = run(python(program, *arguments), environment=environment(), given=given)
    return answer(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def answering(program: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """One of our programs that goes on running after it has answered, until the block ends.

    Raises:
        ProgramError: There is no answer within DEADLINE.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603  (our own program)
            python(program, *arguments),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            line = _first_line(process)
            if not line.endswith(b"\n"):
                process.wait(_GRACE)
                errors.seek(0)
                raise _silent(process.returncode, errors.read().decode(errors="replace"))
            yield answer(0, line.decode(errors="replace"), "")
        except subprocess.TimeoutExpired:
            raise ProgramError("it closed its output and went on running") from None
        finally:
            _end(process)


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """What it writes up to its first line's end, or up to the end of its output."""
    assert process.stdout is not None  # noqa: S101  (we asked for a pipe)
    output, line, deadline = process.stdout.fileno(), b"", time.monotonic() + DEADLINE
    ready = select.poll()  # select() takes no descriptor above 1023
    ready.register(output, select.POLLIN)
    while not line.endswith(b"\n"):
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ProgramError(f"it did not answer within {DEADLINE:.0f} s")
        chunk = os.read(output, 1 << 16)
        if not chunk:
            break
        line += chunk
    return line


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its stdin ends, which tells it to stop; if it does not, it is killed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_GRACE)


def answer(status: int, out: str, err: str) -> dict[str, Any]:
    """The JSON object in a program's output; ProgramError if there is none."""
    try:
        value = json.loads(out)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    raise _silent(status, err)


def _silent(status: int, err: str) -> ProgramError:
    words = err.strip().splitlines()
    last = f": {words[-1].strip()}" if words else ""
    if status >= 0:
        return ProgramError(f"it ended with status {status} and no answer{last}")
    named = {number.value: number.name for number in signal.Signals}
    return ProgramError(f"it was killed by {named.get(-status, f'signal {-status}')}{last}")
