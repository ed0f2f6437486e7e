# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One request's answer of an instance, as it comes: what reads it waits here, within bounds of bytes and of time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .bodies import RawHeaders
    from .pace import Pace

# Bytes of a body that wait for whoever reads them before the connection is not read any more.
_MAX_WAITING = 256 << 10
_TICK = 0.002  # seconds; clocks of loops count in thousandths


class ExchangeError(Exception):
    """The connection ended too early, or what came over it is no answer."""


class Carrier(Protocol):
    """The connection that an answer comes over."""

    def resume(self) -> None:
        """What waited was taken."""

    def abort(self) -> None:
        """Nobody waits for the rest."""


class Exchange:
    """One request's answer: its head, then the parts of its body as they come.

    Attributes:
        status: HTTP status.
        headers: As they came, names in lower case.
    """

    def __init__(self, connection: Carrier) -> None:
        self.status = 0
        self.headers: RawHeaders = []
        self._connection: Carrier | None = connection
        self._pace: Pace | None = None
        self._queued = False  # it waits for its turn
        self._has_head = False
        self._parts: list[bytes] = []
        self._begun = False  # part of it was taken
        self._size = 0
        self._ended = False
        self._error: ExchangeError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0  # when what is waited for must be there
        self._timer: asyncio.TimerHandle | None = None

    async def head(self, seconds: float | None) -> None:
        """Wait for the head; raises as `part` does."""
        while not self._has_head:
            await self._wait(seconds)

    async def part(self, seconds: float | None = None) -> bytes:
        """All of the body that is there, at least a byte; b"" at its end. The first part comes alone, as it was sent.

        Args:
            seconds: That may pass until it comes.

        Raises:
            ExchangeError: It ended too early.
            TimeoutError: Nothing came in time.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait(seconds)
        taken = len(self._parts) if self._begun else 1
        self._begun = True
        parts, self._parts = self._parts[:taken], self._parts[taken:]
        if self._size > _MAX_WAITING and self._connection is not None:
            self._connection.resume()
        self._size = sum(map(len, self._parts))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def take_turns(self, pace: Pace) -> None:
        """What comes from now on can wait for its turn."""
        self._pace = pace

    def go_on(self) -> None:
        """It has its turn."""
        self._queued = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Let go of it; where the answer is not complete the connection ends, which cancels the request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    # ---- for the connection

    def began(self, status: int, headers: RawHeaders) -> None:
        """The head has come."""
        self.status, self.headers, self._has_head = status, headers, True
        self._wake()

    def feed(self, parts: list[bytes]) -> bool:
        """Parts of the body have come; whether no more should."""
        self._parts += parts
        self._size += sum(map(len, parts))
        self._wake()
        return self._size > _MAX_WAITING

    def end(self, error: ExchangeError | None = None) -> None:
        """Nothing more comes."""
        self._connection = None
        self._ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is None or self._waiter.done() or self._queued:
            return
        if self._pace is None or self._pace.ask(self):
            self._waiter.set_result(None)
        else:
            self._queued = True

    async def _wait(self, seconds: float | None) -> None:
        if self._error is not None:
            raise self._error
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._due = math.inf if seconds is None else loop.time() + seconds
        if seconds is not None and (self._timer is None or self._timer.when() > self._due + _TICK):
            self._watch(loop)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again when it is due; a timer that is earlier is left, for one serves many parts so."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done() or self._due == math.inf or self._parts:
            return  # what has come may wait for its turn
        if loop.time() >= self._due - _TICK:
            self._waiter.set_exception(TimeoutError())
        else:
            self._watch(loop)
