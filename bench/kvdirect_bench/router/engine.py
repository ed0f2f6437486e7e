# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A fake engine: `python -m kvdirect_bench.router.engine PORT EVENTS`. Both roles, and cheaper than any router.

Streams get their events in steps, one for each stream, as a batch that decodes does; each event is a write of its own.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools

from .loops import run
from .traffic import LAST, event, lease_of, plain_answer, tag_of, ticket_answer

_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class _Batch:
    """The streams that get an event in each step."""

    def __init__(self, events: int) -> None:
        self.events = events
        self._running: dict[_Connection, None] = {}
        self._stepping = False

    def add(self, connection: _Connection) -> None:
        self._running[connection] = None
        if not self._stepping:
            self._stepping = True
            asyncio.get_running_loop().call_soon(self._step)

    def drop(self, connection: _Connection) -> None:
        self._running.pop(connection, None)

    def _step(self) -> None:
        for connection in tuple(self._running):
            connection.step()
        self._stepping = bool(self._running)
        if self._stepping:
            asyncio.get_running_loop().call_soon(self._step)


class _Connection(asyncio.Protocol):
    """One connection of the router's."""

    def __init__(self, batch: _Batch) -> None:
        self._batch = batch
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._tag = b""
        self._next = -1  # event of the stream; -1: none runs

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._batch.drop(self)

    def pause_writing(self) -> None:
        self._batch.drop(self)

    def resume_writing(self) -> None:
        if self._next >= 0:
            self._batch.add(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        tag = tag_of(body)
        if not body:
            self._whole(200, b"{}")
        elif b'"do_remote_decode":true' in body.replace(b" ", b""):
            self._whole(200, ticket_answer(tag))
        elif lease_of(body) != tag:
            self._whole(500, b'{"error":{"message":"not the ticket of this prompt","code":500}}')
        elif b'"stream":true' in body.replace(b" ", b""):
            self._transport.write(_STREAM)
            self._tag, self._next = tag, 0
            self._batch.add(self)
        else:
            self._whole(200, plain_answer(tag))

    def step(self) -> None:
        """Send the next event."""
        last = self._next == self._batch.events - 1
        part = LAST if last else event(self._tag, self._next)
        self._next += 1
        self._transport.write(b"%x\r\n%b\r\n%b" % (len(part), part, b"0\r\n\r\n" if last else b""))
        if last:
            self._next = -1
            self._batch.drop(self)

    def _whole(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


async def _serve(port: int, events: int) -> None:
    batch = _Batch(events)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(batch), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    run(_serve(int(sys.argv[1]), int(sys.argv[2])))
