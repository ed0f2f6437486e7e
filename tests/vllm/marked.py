# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Programs whose processes can all be found afterwards, by a variable in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


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


def start(mark: str, *words: str) -> subprocess.Popen[str]:
    """A Python program with these words after `python`; all it says comes by one pipe."""
    name, value = mark.split("=")
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, name: value},
        # A shell's background job starts with SIGINT ignored, and so would everything below it.
        preexec_fn=_heed_interrupts,  # noqa: PLW1509  (no threads here)
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
