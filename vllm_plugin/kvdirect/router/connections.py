# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How many connections the router has, and which of them make room for others."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from .counts import TURNED_AWAY, Area, Gauge

if TYPE_CHECKING:
    from .crew import Crew

# Connections for which other workers are asked to make room within so many seconds.
_MOST_ASKED = 64
_ASKED_SECONDS = 0.1


class Waiting(Protocol):
    """A connection that can be closed while it waits for a request."""

    def give_way(self) -> None:
        """Close."""


class Connections:
    """All connections of clients: those that were never served, those that were and wait, those being served.

    At the limit a new one takes the place of the one that has waited longest: strangers who only connect keep nobody
    out, and clients whose connections are at rest lose them only when no stranger has one. Where another worker has
    that one it is asked to close it, and the new one is taken meanwhile.

    Attributes:
        limit: That all workers may have together.
        room: That this process has descriptors for.
    """

    def __init__(self, crew: Crew, limit: int) -> None:
        self.limit = self.room = limit
        self._crew = crew
        self._count = crew.counts.gauge(Gauge.CONNECTIONS)
        self._refused = crew.counts.count(Area.COUNTER, TURNED_AWAY)
        self._strangers: dict[Waiting, float] = {}  # with the time since when
        self._resting: dict[Waiting, float] = {}
        self._served: set[Waiting] = set()
        self._waiting = [
            (self._strangers, crew.counts.gauge(Gauge.STRANGER_SINCE)),
            (self._resting, crew.counts.gauge(Gauge.RESTING_SINCE)),
        ]
        self._asked: deque[float] = deque(maxlen=_MOST_ASKED)  # when another worker was asked to make room

    def __len__(self) -> int:
        return int(self._count.total)

    @property
    def own(self) -> int:
        """Those of this process."""
        return int(self._count.own)

    @property
    def more_than_elsewhere(self) -> bool:
        """Whether another worker has fewer."""
        return bool(min(self._count.parts) < self._count.own)

    @property
    def refused(self) -> int:
        """Requests and connections that were turned away before the application saw them."""
        return int(self._refused.total)

    def refuse(self) -> None:
        """One was turned away."""
        self._refused.add()

    def admit(self, connection: Waiting) -> bool:
        """Count a new connection, if there is room or some can be made."""
        if (self.own >= self.room or len(self) >= self.limit) and not self._make_room():
            return False
        self._strangers[connection] = time.monotonic()
        self._tell()
        return True

    def serve(self, connection: Waiting) -> None:
        """Its request has come."""
        if self._drop(connection):
            self._served.add(connection)
            self._tell()

    def wait(self, connection: Waiting) -> None:
        """Its request was answered."""
        if self._drop(connection):
            self._resting[connection] = time.monotonic()
            self._tell()

    def forget(self, connection: Waiting) -> None:
        """It is closed, or about to be."""
        if self._drop(connection):
            self._tell()

    def give_way(self) -> bool:
        """Close the connection that has waited longest; whether there is one."""
        longest = next(iter(self._strangers or self._resting), None)
        if longest is None:
            return False
        self.forget(longest)
        self.refuse()
        longest.give_way()
        return True

    def settle(self) -> None:
        """Close what other workers were asked for and did not have any more, until there are as many as may be."""
        for waiting, since in self._waiting:
            while len(self) > self.limit and waiting:
                if self._crew.counts.earlier(since, next(iter(waiting.values()))) is not None:
                    return
                self.give_way()

    def _make_room(self) -> bool:
        if self.own >= self.room:
            return self.give_way()
        for waiting, since in self._waiting:
            worker = self._crew.counts.earlier(since, next(iter(waiting.values()), math.inf))
            if worker is not None:
                return self._ask(worker)
            if waiting:
                return self.give_way()
        return False

    def _ask(self, worker: int) -> bool:
        """Have another worker close one; not too many at a time, for it may be slow."""
        now = time.monotonic()
        if len(self._asked) == _MOST_ASKED and now - self._asked[0] < _ASKED_SECONDS:
            return False
        self._asked.append(now)
        self._crew.make_room(worker, "connection")
        return True

    def _drop(self, connection: Waiting) -> bool:
        """Take it out of where it is, if it is anywhere."""
        if self._strangers.pop(connection, None) is not None or self._resting.pop(connection, None) is not None:
            return True
        known = connection in self._served
        self._served.discard(connection)
        return known

    def _tell(self) -> None:
        self._count.own = len(self._strangers) + len(self._resting) + len(self._served)
        for waiting, since in self._waiting:
            since.own = next(iter(waiting.values()), 0.0)
