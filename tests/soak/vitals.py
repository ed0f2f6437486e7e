# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the kernel says of a process, and what becomes of it over time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
# A line through less than this says little, and a process is still getting used to its work at first.
LEAST_SECONDS = 240.0
WARM_UP_SECONDS = 60.0


def held(pid: int) -> dict[str, int]:
    """Descriptors and threads."""
    return {
        what: len(list(Path(f"/proc/{pid}/{of}").iterdir()))
        for what, of in (("descriptors", "fd"), ("threads", "task"))
    }


def memory(pid: int) -> int:
    """Bytes that are its own or shared; pages of files come and go with the kernel's page cache."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(status.split(f"{name}:")[1].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


@dataclass(slots=True)
class Growth:
    """A process's memory since it was started."""

    started: float = field(default_factory=time.monotonic)
    samples: list[tuple[float, int]] = field(default_factory=list)

    def look(self, pid: int) -> None:
        self.samples.append((time.monotonic() - self.started, memory(pid)))

    def slope(self) -> float | None:
        """MiB a minute, once it is warm; None where it did not live long enough to say."""
        warm = [(when, size) for when, size in self.samples if when >= WARM_UP_SECONDS]
        if not warm or warm[-1][0] - warm[0][0] < LEAST_SECONDS:
            return None
        times, sizes = zip(*warm, strict=True)
        return statistics.linear_regression(times, sizes).slope * 60 / MIB
