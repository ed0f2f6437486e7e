# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Numbers that several workers count together, in memory that all of them map.

Each number has a cell for each worker, and a worker writes its own cells only: nothing is locked, and a sum is what the
cells hold. A cell is one aligned word of eight bytes, which the processor stores whole. Where one process serves alone
the same numbers have one cell each.
"""

from __future__ import annotations

import enum
import math
import mmap
import os
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .config import ProxyConfig

_WORD = 8
MOST_KEYS = 4096  # of clients


class Area(enum.Enum):
    """Numbers of one kind; `GAUGES` are those that end with the worker that counted them."""

    GAUGE = enum.auto()
    COUNTER = enum.auto()
    HISTOGRAM = enum.auto()
    INSTANCE_GAUGE = enum.auto()
    INSTANCE_COUNTER = enum.auto()
    KEY_GAUGE = enum.auto()
    KEY_COUNTER = enum.auto()
    KEY_CLOCK = enum.auto()


class Gauge(enum.IntEnum):
    """Numbers of the first area."""

    IN_FLIGHT = 0
    WORKED_ON = 1
    CONNECTIONS = 2
    BODIES = 3
    BODY_SINCE = 4  # seconds on the monotonic clock since when the oldest of a kind has been there; 0: there is none
    STRANGER_SINCE = 5
    RESTING_SINCE = 6


_TIMES = (Gauge.BODY_SINCE, Gauge.STRANGER_SINCE, Gauge.RESTING_SINCE)
_GAUGES = (Area.GAUGE, Area.INSTANCE_GAUGE, Area.KEY_GAUGE)
_COUNTERS = 64  # labels of counters, with room
TURNED_AWAY = _COUNTERS - 1
_HISTOGRAM_WORDS = 512
# For each instance and key, and as many that have left and whose requests have not ended.
_TWICE = 2


class Count:
    """One number."""

    __slots__ = ("_cells", "_end", "_first", "_own")

    def __init__(self, cells: memoryview[Any], first: int, workers: int, worker: int) -> None:
        self._cells = cells
        self._first, self._end = first, first + workers
        self._own = first + worker

    @classmethod
    def alone(cls, *, real: bool = False) -> Self:
        """One that nobody shares; a `real` one is a float."""
        memory = memoryview(bytearray(_WORD))
        return cls(memory.cast("d") if real else memory.cast("q"), 0, 1, 0)

    @property
    def own(self) -> Any:
        """This worker's part."""
        return self._cells[self._own]

    @own.setter
    def own(self, value: float) -> None:
        self._cells[self._own] = value

    @property
    def total(self) -> Any:
        """All workers' parts together."""
        return sum(self._cells[self._first : self._end])

    @property
    def parts(self) -> list[Any]:
        """Each worker's part."""
        return self._cells[self._first : self._end].tolist()

    def add(self, amount: float = 1) -> None:
        """Count."""
        self._cells[self._own] += amount

    def clear(self) -> None:
        """Begin anew, for all workers; nobody may count meanwhile."""
        for index in range(self._first, self._end):
            self._cells[index] = 0


class CountTable:
    """All numbers of a router."""

    def __init__(self, config: ProxyConfig, workers: int = 1, worker: int = 0, descriptor: int | None = None) -> None:
        """Map it.

        Args:
            config: Says how many instances there may be.
            workers: How many there are.
            worker: Whose cells are written here.
            descriptor: Of the memory, where another process made it; else it is made.
        """
        self.worker = worker
        self.workers = workers
        self.instances = _TWICE * config.max_instances
        self.keys = _TWICE * MOST_KEYS
        sizes = {
            Area.GAUGE: len(Gauge),
            Area.COUNTER: _COUNTERS,
            Area.HISTOGRAM: _HISTOGRAM_WORDS,
            Area.INSTANCE_GAUGE: 2 * self.instances,
            Area.INSTANCE_COUNTER: 2 * self.instances,
            Area.KEY_GAUGE: self.keys,
            Area.KEY_COUNTER: 2 * self.keys,
            Area.KEY_CLOCK: self.keys,
        }
        self._areas: dict[Area, range] = {}
        end = 0
        for area, size in sizes.items():
            self._areas[area] = range(end, end + size)
            end += size
        size = end * workers * _WORD
        self.descriptor = descriptor
        if descriptor is None and workers > 1:
            self.descriptor = os.memfd_create("kvdirect-router")
            os.ftruncate(self.descriptor, size)
        memory = memoryview(bytearray(size) if self.descriptor is None else mmap.mmap(self.descriptor, size))
        self._whole = memory.cast("q")
        self._real = memory.cast("d")

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one worker."""
        return self.workers > 1

    def count(self, area: Area, index: int, *, real: bool = False) -> Count:
        """One of its numbers; a `real` one is a float."""
        first = self._areas[area][index] * self.workers
        return Count(self._real if real else self._whole, first, self.workers, self.worker)

    def gauge(self, gauge: Gauge) -> Count:
        """One of those that there is one of."""
        return self.count(Area.GAUGE, gauge, real=gauge in _TIMES)

    def earlier(self, since: Count, than: float) -> int | None:
        """The worker whose time is the earliest, if it is another one's and earlier than this; 0 is none."""
        if not self.is_shared:
            return None
        when, worker = min((when or math.inf, worker) for worker, when in enumerate(since.parts))
        return worker if worker != self.worker and when < than else None

    def clock(self, place: int) -> Count:
        """A time that all workers write, of the key at a place."""
        return Count(self._real, self._areas[Area.KEY_CLOCK][place] * self.workers, 1, 0)

    def forget(self, worker: int) -> None:
        """A worker has died: nothing is in flight with it any more; what it counted stays."""
        for area in _GAUGES:
            for number in self._areas[area]:
                self._whole[number * self.workers + worker] = 0
