# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whole connections of the router's clients: heads, bodies and trailers, however they are cut."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from kvdirect.router.bounded_http import MAX_AHEAD, MAX_HEAD, BoundedHttp
from kvdirect.router.config import ProxyConfig
from kvdirect.router.connections import Connections
from kvdirect.router.crew import Crew

from .pieces import Input, cut

_LOOP = asyncio.new_event_loop()
_TURNS = 40  # of the loop, after which everything has been said


class _Wire(asyncio.Transport):
    """A client that reads everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _App:
    """Reads each request to its end, and keeps what it was."""

    def __init__(self) -> None:
        self.requests: list[tuple[object, ...]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            if not event["more_body"]:
                break
        self.requests.append((scope["method"], scope["path"], tuple(map(tuple, scope["headers"])), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def _talk(pieces: list[bytes]) -> list[tuple[object, ...]]:
    app = _App()
    config = uvicorn.Config(cast("Any", app), log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    everybody = Connections(Crew.alone(ProxyConfig(prefill=("http://p",), decode=("http://d",))), 4)
    given = {"config": config, "server_state": ServerState(), "app_state": {}, "_loop": _LOOP}
    connection = BoundedHttp(everybody, 20.0, **given)
    wire = _Wire()
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        connection.data_received(piece)
        assert len(connection._head) <= MAX_HEAD + len(piece)
        assert len(connection._ahead) <= 8 * MAX_AHEAD + len(piece)
        for _ in range(4):
            await asyncio.sleep(0)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    assert len(everybody) == 0
    connection._unset_keepalive_if_required()
    return app.requests


def heads(data: bytes) -> None:
    """A connection is served or refused; the application gets the same requests, however their bytes arrive."""
    parts = Input(data)
    sizes = parts.take(1 + parts.below(4))
    stream = parts.rest()
    whole = _LOOP.run_until_complete(_talk([stream]))
    pieces = _LOOP.run_until_complete(_talk(list(cut(stream, sizes))))
    shorter, longer = sorted((whole, pieces), key=len)
    # What stands behind a request that is refused may be dropped earlier or later.
    assert longer[: len(shorter)] == shorter
