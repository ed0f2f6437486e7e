# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What is looked at first where much has come: answers that have not begun, then new requests, then streams that run.

In each turn of the loop a few requests begin, so that those that began before get their first byte before all have had
their first step, and so that connections to instances become free for them. While requests begin, few streams go on:
one that waits for some turns gets more events at once, which costs less; a request that waits has nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

# Requests that begin in one turn: it takes them a few milliseconds.
_STARTS = 32
# Streams that go on in a turn in which requests begin, and in another one.
_STREAMS_BESIDE, _STREAMS = 4, 64


class Paced(Protocol):
    """What waits for its turn."""

    def go_on(self) -> None:
        """It may."""


class _Lane:
    """Those of one kind, in their order."""

    def __init__(self) -> None:
        self.left = 0
        self.waiting: deque[Paced] = deque()

    def take(self, one: Paced) -> bool:
        if self.left > 0 and not self.waiting:
            self.left -= 1
            return True
        self.waiting.append(one)
        return False

    def serve(self, most: int) -> int:
        self.left = most
        while self.left > 0 and self.waiting:
            self.left -= 1
            self.waiting.popleft().go_on()
        return most - self.left


class _Start:
    """A request that awaits its turn."""

    def __init__(self) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def go_on(self) -> None:
        if not self.begun.done():
            self.begun.set_result(None)


class Pace:
    """The turns of one loop."""

    def __init__(self) -> None:
        self._starts, self._streams = _Lane(), _Lane()
        self._scheduled = False

    async def start(self) -> None:
        """Return when a request may begin."""
        self._schedule()
        start = _Start()
        if not self._starts.take(start):
            await start.begun

    def ask(self, stream: Paced) -> bool:
        """Whether a stream may go on now; else it is told when it may, and asks again only after that."""
        self._schedule()
        return self._streams.take(stream)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._starts.left, self._streams.left = _STARTS, _STREAMS
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        began = self._starts.left < _STARTS
        began = self._starts.serve(_STARTS) > 0 or began
        most = _STREAMS_BESIDE if began else _STREAMS
        going = self._streams.serve(most) > 0
        self._scheduled = began or going
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._turn)
