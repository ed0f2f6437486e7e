# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The half of a node that owns: it grants its areas, and overwrites one the moment that its lease has ended."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kvtransfer as kt

from .cache import AREAS, RECLAIMED, TABLES, stamp
from .notices import Notices, Ticket

if TYPE_CHECKING:
    from transfer.layout import Cache

MAX_HOLD = 4.0  # seconds; no lease may live longer, whoever renews it
SLOTS = len(AREAS) + 16
_FULL_SECONDS = 0.5
_AREAS_A_TURN = 4


@dataclass(slots=True)
class Granted:
    """A lease of an area."""

    lease: kt.LeaseRef
    written: int = 0  # positions that its watermark promises
    timed: bool = False


class Owning:
    """Runs in a thread of its own between `start` and `stop`."""

    THREAD = 0  # its number among those that show signs of life

    def __init__(
        self, node: str, shard: int | None, engine: kt.Engine, cache: Cache, notices: Notices, seed: int
    ) -> None:
        self._node, self._shard = node, shard
        self._engine, self._cache, self._notices = engine, cache, notices
        self._dice = random.Random(seed)  # noqa: S311
        self._granted: dict[int, Granted] = {}
        self._areas: dict[kt.LeaseRef, int] = {}
        self._extra: set[kt.LeaseRef] = set()
        self._fill = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.tally: Counter[str] = Counter()

    def start(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="owning")
        self._thread.start()

    def stop(self) -> None:
        assert self._thread is not None
        self._over.set()
        self._thread.join()
        self._notices.rest(self._node, self.THREAD)

    def fill_table(self) -> None:
        """Soon, and for half a second, there is no free slot."""
        self._fill.set()

    def leaked(self) -> dict[str, int]:
        """Leases and blocks that nothing has given back, by when the longest lease must have ended."""
        deadline = time.monotonic() + 2 * MAX_HOLD
        for granted in self._granted.values():
            self._start_term(granted)
        while (self._granted or self._engine.live_leases) and time.monotonic() < deadline:
            self._take_ended()
            time.sleep(0.02)
        return {"leases": self._engine.live_leases, "blocks": sum(AREAS[area] for area in self._granted)}

    def _run(self) -> None:
        while not self._over.is_set():
            self._notices.beat(self._node, self.THREAD)
            self._take_ended()
            if self._fill.is_set():
                self._be_full()
            for area in self._dice.choices(range(len(AREAS)), k=_AREAS_A_TURN):
                self._see_to(area)
                self._take_ended()
            self._pause()
        self._take_ended()

    def _see_to(self, area: int) -> None:
        try:
            if area in self._granted:
                self._advance(area)
            else:
                self._grant(area)
        except kt.LeaseExpired:
            self.tally["ended under its owner's hands"] += 1

    def _pause(self) -> None:
        time.sleep(self._dice.uniform(0, 0.002))

    def _take_ended(self) -> None:
        for end in self._engine.take_ended():
            self.tally[f"lease {end.reason}"] += 1
            area = self._areas.pop(end.lease, None)
            if area is None:
                self._extra.discard(end.lease)
                continue
            self._cache[:, :, TABLES[area]] = RECLAIMED
            self._notices.withdraw(self._node, area)
            del self._granted[area]

    def _grant(self, area: int) -> None:
        try:
            lease = self._engine.reserve()
        except kt.ConfigError:
            self.tally["table full"] += 1
            return
        self._granted[area] = granted = Granted(lease)
        self._areas[lease] = area
        stamp(self._cache, area, lease.epoch, self._shard)
        table = TABLES[area]
        middle = self._dice.randrange(len(table) + 1) if self._dice.random() < 0.2 else 0
        for part in (table[:middle], table[middle:]):
            if len(part):
                self._engine.grant([part], lease=lease)
        if self._dice.random() < 0.9:
            self._promise(area, granted)
        if self._dice.random() < 0.8:
            self._start_term(granted)
        self._notices.show(self._node, Ticket(area, lease))

    def _advance(self, area: int) -> None:
        granted = self._granted[area]
        if self._dice.random() < 0.7:
            self._promise(area, granted)
        if not granted.timed:
            self._start_term(granted)
        elif self._dice.random() < 0.3:
            self._engine.revoke(granted.lease)

    def _promise(self, area: int, granted: Granted) -> None:
        whole = Ticket(area, granted.lease).positions
        granted.written = whole if self._dice.random() < 0.8 else self._dice.randint(granted.written, whole)
        self._engine.raise_watermark(granted.lease, granted.written)

    def _start_term(self, granted: Granted) -> None:
        granted.timed = True
        try:
            self._engine.start_term(granted.lease, self._dice.uniform(0.02, 1.0))
        except kt.LeaseExpired:
            self.tally["ended before its term"] += 1

    def _be_full(self) -> None:
        self._fill.clear()
        try:
            while True:
                self._extra.add(self._engine.reserve())
        except kt.ConfigError:
            self.tally["filled"] += 1
        until = time.monotonic() + _FULL_SECONDS
        while time.monotonic() < until and not self._over.is_set():
            self._notices.beat(self._node, self.THREAD)
            self._take_ended()
            self._pause()
        for lease in list(self._extra):
            self._engine.revoke(lease)
        self._take_ended()
