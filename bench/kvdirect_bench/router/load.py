# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The client: `python -m kvdirect_bench.router.load PORT STREAMS REQUESTS EVENTS`, no EVENTS for plain answers.

So many connections each send one request after the other; what was measured is printed as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools

from .loops import run
from .traffic import plain_answer, request, whole_stream

# Without a byte on any connection for so many seconds, what is missing counts as wrong.
_PATIENCE = 20.0


@dataclass(slots=True)
class Measured:
    """One turn.

    Attributes:
        requests: That were answered.
        wrong: Of those, with another status or other bytes than they should have; and those that were not answered.
        seconds: For all of them.
        first_byte: Seconds from a request to the first byte of its answer's body.
    """

    requests: int = 0
    wrong: int = 0
    seconds: float = 0.0
    first_byte: list[float] = field(default_factory=list)


class _Load:
    """The connections of one turn."""

    def __init__(self, port: int, streams: int, requests: int, events: int) -> None:
        self.events = events
        self.measured = Measured()
        self.left = requests
        self.last_byte = time.perf_counter()
        self._open = streams
        self._port = port
        self._streams = streams
        self._tags = itertools.count(1)
        self._done = asyncio.Event()

    async def run(self) -> Measured:
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port))[1]
            for _ in range(self._streams)
        ]
        wanted, began = self.left, time.perf_counter()
        for connection in connections:
            connection.ask()
        while not self._done.is_set() and time.perf_counter() - max(began, self.last_byte) < _PATIENCE:
            try:
                async with asyncio.timeout(1.0):
                    await self._done.wait()
            except TimeoutError:
                continue
        self.measured.seconds = time.perf_counter() - began
        self.measured.wrong += wanted - self.measured.requests
        return self.measured

    def next_tag(self) -> int:
        """The next request's; 0: there is none."""
        if self.left == 0:
            return 0
        self.left -= 1
        return next(self._tags)

    def ended(self) -> None:
        """A connection has nothing more to ask."""
        self._open -= 1
        if self._open == 0:
            self._done.set()


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._tag = 0
        self._asked = 0.0
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._tag:
            self._load.ended()

    def ask(self) -> None:
        """Send the next request, or end."""
        self._tag = self._load.next_tag()
        if not self._tag:
            self._transport.close()
            self._load.ended()
            return
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self._asked = time.perf_counter()
        self._transport.write(request(self._tag, streamed=self._load.events > 0))

    def data_received(self, data: bytes) -> None:
        self._load.last_byte = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._body:
            self._load.measured.first_byte.append(time.perf_counter() - self._asked)
        self._body.append(body)

    def on_message_complete(self) -> None:
        load, tag = self._load, str(self._tag).encode()
        load.measured.requests += 1
        expected = whole_stream(tag, load.events) if load.events else plain_answer(tag)
        if self._parser.get_status_code() != 200 or b"".join(self._body) != expected:
            load.measured.wrong += 1
        self.ask()


async def _measure(port: int, streams: int, requests: int, events: int) -> Measured:
    return await _Load(port, streams, requests, events).run()


if __name__ == "__main__":
    measured = run(_measure(*map(int, sys.argv[1:])))
    # Not print(): where PYTHONUNBUFFERED is set, what one write to the pipe leaves of 100 kB is lost.
    with open(sys.stdout.fileno(), "w", closefd=False) as out:
        json.dump(asdict(measured), out)
