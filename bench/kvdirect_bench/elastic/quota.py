# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A share of a CPU for each engine, kept by the kernel: what engines on one machine do to each other is then small.

Control groups of version 1 (kernel.org: Documentation/scheduler/sched-bwc.rst). They are made below the group that this
process is in, and removed at the end. In version 2 a group that has processes cannot be divided so.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect_bench.command import say
from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Short, so that a step of some milliseconds is slowed down and not, now and then, stopped.
PERIOD_US = 10_000
_EMPTY_WITHIN = 10.0
LEAST = 0.1  # of a CPU: the kernel takes no quota below a millisecond
_HELP = "run as root where control groups of version 1 are mounted, or give no quota (--cpus 0)"


class Quota:
    """A control group whose processes together may use so much of a CPU's time, from `limit` on.

    Attributes:
        folder: The kernel's, of the group.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def around(self, command: Sequence[str]) -> list[str]:
        """That command, which puts itself into the group before it becomes what it is."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    def let_out(self, process: int) -> None:
        """That process, and none of its children, is back in the group of this one.

        Raises:
            BenchError: The kernel does not permit it.
        """
        try:
            (self.folder.parent / "cgroup.procs").write_text(str(process))
        except OSError as error:
            raise BenchError(f"{self.folder}: process {process} cannot leave ({error.strerror}); {_HELP}") from error

    def limit(self, cpus: float) -> None:
        """From now on they may use so many CPUs' worth of time.

        Raises:
            BenchError: The kernel does not permit it.
        """
        try:
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(round(cpus * PERIOD_US)))
        except OSError as error:
            raise BenchError(f"{self.folder}: {cpus:g} CPUs cannot be set ({error.strerror}); {_HELP}") from error


@contextlib.contextmanager
def quotas(names: Sequence[str]) -> Iterator[list[Quota]]:
    """A group for each name while the context is open; what is in them must have ended when it closes.

    Args:
        names: Of this process's groups, each once.

    Raises:
        BenchError: The kernel or this process's rights do not permit it; says what to do.
    """
    parent = _own_group()
    with contextlib.ExitStack() as stack:
        found = []
        for name in names:
            folder = parent / f"kvdirect-bench-{os.getpid()}-{name}"
            try:
                folder.mkdir()
            except OSError as error:
                raise BenchError(f"{folder}: no control group can be made ({error.strerror}); {_HELP}") from error
            stack.callback(_remove, folder)
            found.append(Quota(folder))
        yield found


def _own_group() -> Path:
    """The folder of this process's group for CPU time; of a container that sees no other ones, the topmost."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup" and "cpu" in options.split(","):
            own = Path(where) / _own_path().lstrip("/")
            return own if own.is_dir() else Path(where)
    raise BenchError(f"no control groups of version 1 for CPU time are mounted here; {_HELP}")


def _own_path() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return path
    return "/"


def _remove(folder: Path) -> None:
    """A group is busy for a moment after its last process has ended."""
    deadline = time.monotonic() + _EMPTY_WITHIN
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                say(f"{folder} still has processes, or cannot be removed; `rmdir` does it once they have ended")
                return
            time.sleep(0.05)
        else:
            return
