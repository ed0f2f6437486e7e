# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The half of a node that owns: it lends its areas, and overwrites one the moment that its lease has ended."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kvtransfer as kt

from .board import Board, Ticket
from .cache import AREAS, RECLAIMED, TABLES, stamp

if TYPE_CHECKING:
    from transfer.layout import Cache

MAX_HOLD = 4.0  # seconds; no lease may live longer, whoever renews it
SLOTS = len(AREAS) + 16
_FULL_SECONDS = 0.5
_AREAS_A_TURN = 4


@dataclass(slots=True)
class Lent:
    """A lease of an area."""

    lease: kt.LeaseRef
    written: int = 0  # positions that its watermark promises
    timed: bool = False


class Lending:
    """Runs in a thread of its own between `start` and `stop`."""

    THREAD = 0  # its number on the board

    def __init__(self, node: str, shard: int | None, engine: kt.Engine, cache: Cache, board: Board, seed: int) -> None:
        self._node, self._shard = node, shard
        self._engine, self._cache, self._board = engine, cache, board
        self._dice = random.Random(seed)  # noqa: S311
        self._lent: dict[int, Lent] = {}
        self._areas: dict[kt.LeaseRef, int] = {}
        self._extra: set[kt.LeaseRef] = set()
        self._fill = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.tally: Counter[str] = Counter()

    def start(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="lending")
        self._thread.start()

    def stop(self) -> None:
        assert self._thread is not None
        self._over.set()
        self._thread.join()
        self._board.rest(self._node, self.THREAD)

    def fill_table(self) -> None:
        """Soon, and for half a second, there is no free slot."""
        self._fill.set()

    def leaked(self) -> dict[str, int]:
        """Leases and blocks that nothing has given back, by when the longest lease must have ended."""
        deadline = time.monotonic() + 2 * MAX_HOLD
        for lent in self._lent.values():
            self._start_term(lent)
        while (self._lent or self._engine.live_leases) and time.monotonic() < deadline:
            self._take_ended()
            time.sleep(0.02)
        return {"leases": self._engine.live_leases, "blocks": sum(AREAS[area] for area in self._lent)}

    def _run(self) -> None:
        while not self._over.is_set():
            self._board.beat(self._node, self.THREAD)
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
            if area in self._lent:
                self._advance(area)
            else:
                self._lend(area)
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
            self._board.withdraw(self._node, area)
            del self._lent[area]

    def _lend(self, area: int) -> None:
        try:
            lease = self._engine.reserve()
        except kt.ConfigError:
            self.tally["table full"] += 1
            return
        self._lent[area] = lent = Lent(lease)
        self._areas[lease] = area
        stamp(self._cache, area, lease.epoch, self._shard)
        table = TABLES[area]
        middle = self._dice.randrange(len(table) + 1) if self._dice.random() < 0.2 else 0
        for part in (table[:middle], table[middle:]):
            if len(part):
                self._engine.grant([part], lease=lease)
        if self._dice.random() < 0.9:
            self._promise(area, lent)
        if self._dice.random() < 0.8:
            self._start_term(lent)
        self._board.show(self._node, Ticket(area, lease))

    def _advance(self, area: int) -> None:
        lent = self._lent[area]
        if self._dice.random() < 0.7:
            self._promise(area, lent)
        if not lent.timed:
            self._start_term(lent)
        elif self._dice.random() < 0.3:
            self._engine.revoke(lent.lease)

    def _promise(self, area: int, lent: Lent) -> None:
        whole = Ticket(area, lent.lease).positions
        lent.written = whole if self._dice.random() < 0.8 else self._dice.randint(lent.written, whole)
        self._engine.raise_watermark(lent.lease, lent.written)

    def _start_term(self, lent: Lent) -> None:
        lent.timed = True
        try:
            self._engine.start_term(lent.lease, self._dice.uniform(0.02, 1.0))
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
            self._board.beat(self._node, self.THREAD)
            self._take_ended()
            self._pause()
        for lease in list(self._extra):
            self._engine.revoke(lease)
        self._take_ended()
