# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A share of a CPU for each engine, kept by the kernel: what engines on one machine do to each other is then small.

Control groups of either version (kernel.org: Documentation/scheduler/sched-bwc.rst, Documentation/admin-guide/
cgroup-v2.rst). They are made below the group that this process is in, and removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Short, so that a step of some milliseconds is slowed down and not, now and then, stopped.
PERIOD_US = 10_000
_EMPTY_WITHIN = 10.0
_HELP = "run as root where a cpu control group can be made, or give no quota (--cpus 0)"


class Quota:
    """A control group whose processes together may use so much of a CPU's time, from `limit` on.

    Attributes:
        folder: The kernel's, of the group.
    """

    def __init__(self, folder: Path, *, second: bool) -> None:
        self.folder = folder
        self._second = second

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
        quota = round(cpus * PERIOD_US)
        try:
            if self._second:
                (self.folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            else:
                (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self.folder / "cpu.cfs_quota_us").write_text(str(quota))
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
    parent, second = _own_group()
    with contextlib.ExitStack() as stack:
        found = []
        for name in names:
            folder = parent / f"kvdirect-bench-{os.getpid()}-{name}"
            try:
                folder.mkdir()
            except OSError as error:
                raise BenchError(f"{folder}: no control group can be made ({error.strerror}); {_HELP}") from error
            stack.callback(_remove, folder)
            found.append(Quota(folder, second=second))
        yield found


def _own_group() -> tuple[Path, bool]:
    """The folder of this process's group for CPU time, and whether it is of the second version."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup" and "cpu" in options.split(",") and "cpu" in own:
            return Path(where) / own["cpu"].lstrip("/"), False
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if kind == "cgroup2" and "" in own:
            folder = Path(where) / own[""].lstrip("/")
            with contextlib.suppress(OSError):
                if "cpu" in (folder / "cgroup.subtree_control").read_text().split():
                    return folder, True
                (folder / "cgroup.subtree_control").write_text("+cpu")
                return folder, True
    raise BenchError(f"this kernel or container has no control group for CPU time that can be divided; {_HELP}")


def _remove(folder: Path) -> None:
    """A group is busy for a moment after its last process has ended."""
    deadline = time.monotonic() + _EMPTY_WITHIN
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        else:
            return
