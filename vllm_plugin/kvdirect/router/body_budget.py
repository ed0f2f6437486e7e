# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How many bytes the bodies of all requests may have together."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .bodies import RouterError
from .counts import Count, Gauge
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .crew import Crew


# Seconds that another worker has to end a body, and between two looks at whether it has.
_ROOM_SECONDS = 1.0
_LOOK_EVERY = 0.005


class BodyShare:
    """One request's part of the budget.

    Attributes:
        since: When it began, on the monotonic clock.
        expelled: Set when others need its part and its body is still arriving: then it must not be read on.
        on_expelled: Called then.
    """

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0
        self.since = time.monotonic()
        self.expelled = False
        self.on_expelled: Callable[[], object] = lambda: None

    @property
    def limit(self) -> int:
        """Bytes of all shares."""
        return self._budget.limit

    async def add(self, size: int) -> None:
        """Count bytes that have arrived; waits only where another process has to make room for them.

        Raises:
            RouterError: 429; there is no room, and nobody's arrival began earlier.
        """
        if not self._budget.add(self, size):
            await self._budget.wait(self, size)

    def arrived(self) -> None:
        """No more of the body is waited for: it keeps its room until its request has ended."""
        self._budget.arrived(self)


class BodyBudget:
    """Bytes of bodies; the one that has been arriving longest makes room for others.

    So clients that send slowly, or never send the last byte, hold what nobody else asks for.
    """

    def __init__(self, limit: int, crew: Crew | None = None) -> None:
        """Allow so many bytes, to all workers together where there is a crew."""
        self.limit = limit
        self._crew = crew
        self._held = Count.alone() if crew is None else crew.counts.gauge(Gauge.BODIES)
        self._since = Count.alone(real=True) if crew is None else crew.counts.gauge(Gauge.BODY_SINCE)
        self._arriving: dict[BodyShare, None] = {}

    @contextmanager
    def share(self) -> Iterator[BodyShare]:
        """A request's part, given back at the end."""
        share = BodyShare(self)
        self._arriving[share] = None
        self._tell_oldest()
        try:
            yield share
        finally:
            self.arrived(share)
            self._held.add(-share.size)
            share.size = 0

    def add(self, share: BodyShare, size: int) -> bool:
        """See BodyShare; False: a body of another worker has been arriving longer."""
        while self._held.total + size > self.limit:
            oldest = next(iter(self._arriving), share)
            if self._elsewhere(oldest) is not None:
                return False
            if oldest is share:
                raise too_many_bytes(self.limit)
            self._expel(oldest)
        share.size += size
        self._held.add(size)
        return True

    async def wait(self, share: BodyShare, size: int) -> None:
        """Have other workers make room, and wait for it."""
        ends = time.monotonic() + _ROOM_SECONDS
        while not self.add(share, size):
            if self._crew is None or time.monotonic() > ends:
                raise too_many_bytes(self.limit)
            worker = self._elsewhere(share)
            if worker is not None:
                self._crew.make_room(worker, "body")
            await asyncio.sleep(_LOOK_EVERY)

    def arrived(self, share: BodyShare) -> None:
        """See BodyShare."""
        if share in self._arriving:
            del self._arriving[share]
            self._tell_oldest()

    def give_way(self) -> bool:
        """End the arrival of the body that has been arriving longest; whether there is one."""
        oldest = next(iter(self._arriving), None)
        if oldest is not None:
            self._expel(oldest)
        return oldest is not None

    def _expel(self, share: BodyShare) -> None:
        self.arrived(share)
        self._held.add(-share.size)
        share.size = 0
        share.expelled = True
        share.on_expelled()

    def _elsewhere(self, share: BodyShare) -> int | None:
        """The worker that has a body which has been arriving longer than this one."""
        return None if self._crew is None else self._crew.counts.earlier(self._since, share.since)

    def _tell_oldest(self) -> None:
        oldest = next(iter(self._arriving), None)
        self._since.own = 0.0 if oldest is None else oldest.since


def too_many_bytes(limit: int) -> RouterError:
    """The error for a body that finds no room, or has to make some."""
    text = f"the bodies of all requests have {limit} bytes, the router's limit (--max-bodies-bytes); try again later"
    return RouterError(429, text, outcome=Outcome.LIMITED, retry_after=1, close=True)
