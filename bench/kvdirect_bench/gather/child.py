# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Processes of the measurement that keep rows: told a workload, heard by lines, killed in the end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .workload import Workload


@contextlib.contextmanager
def child(module: str, workload: Workload, *arguments: str, silent: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a module of this package; its input ends with this process. `silent`: without its standard error."""
    with subprocess.Popen(  # noqa: S603  (the command is ours)
        [sys.executable, "-m", f"{__package__}.{module}", json.dumps(asdict(workload)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if silent else None,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
