# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A real HTTP server that speaks enough of vLLM's APIs to record what the router asks of it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

DEADLINE = 10.0  # seconds after which a wait counts as a hang


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Poll until `condition` holds; fail the test naming `what` otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.01)


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes
    query: str = ""

    @property
    def body(self) -> dict[str, Any]:
        body = json.loads(self.raw)
        assert isinstance(body, dict)
        return body


@dataclass
class Reply:
    """What the server answers to a completion."""

    status: int = 200
    json: object = None  # None: a completion that names the server
    params: object = None  # kv_transfer_params of the completion; a callable makes new ones for each
    raw: bytes | None = None  # instead of any JSON
    media: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hold: bool = False  # answer (or: send the stream's second half) only once `gate` is set
    break_off: bool = False  # end in the middle of the body
    events: bytes | None = None  # instead of the usual stream
    first: bytes = b'data: {"choices":[{"text":"first"}]}\n\n'  # the first half of a stream
    last: bytes = b'data: {"choices":[{"text":"last"}]}\n\ndata: [DONE]\n\n'  # the second half of a stream


class Backend:
    """A server in a thread; `seen` has its requests, `reply` its next answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.cancelled = threading.Event()  # a client left before its answer was complete
        self.gate = threading.Event()
        self.seen: list[Seen] = []
        self.returned: list[Seen] = []  # requests that only give a ticket back
        self.reply = Reply()
        self.health = 200
        self.models = [f"model-of-{name}"]
        self.lists_after = 0.0  # seconds that its list of models takes
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def only(self) -> Seen:
        """The one request seen."""
        assert len(self.seen) == 1, [item.path for item in self.seen]
        return self.seen[0]

    def reset(self) -> None:
        self.gate.set()  # frees what a failed test left behind
        self.seen = []
        self.returned = []
        self.reply = Reply()
        self.health = 200
        self.cancelled = threading.Event()
        self.gate = threading.Event()

    def start(self) -> None:
        """Serve, on the same port as before if there was one."""
        routes = [Route("/v1/models", self._models), Route("/health", self._health)]
        routes += [Route("/{path:path}", self._complete, methods=["GET", "POST"])]
        config = uvicorn.Config(
            Starlette(routes=routes), port=self.port, log_config=None, timeout_graceful_shutdown=1, lifespan="off"
        )
        server = uvicorn.Server(config)
        self._server = server
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: server.started, f"{self.name} to listen")
        self.port = server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self.gate.set()
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), f"{self.name} did not stop"
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=self.health)

    async def _models(self, request: Request) -> Response:
        await asyncio.sleep(self.lists_after)
        self.seen.append(Seen(request.url.path, dict(request.headers), b""))
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model"} for model in self.models]})

    async def _complete(self, request: Request) -> Response:
        raw = await request.body()
        if raw.startswith(b'{"model":"kvdirect-gives-a-ticket-back"'):
            self.returned.append(Seen(request.url.path, dict(request.headers), raw))
            return JSONResponse({"error": {"message": "no such model", "code": 404}}, 404)
        self.seen.append(Seen(request.url.path, dict(request.headers), raw, request.url.query))
        reply, gate, cancelled = self.reply, self.gate, self.cancelled
        # A body that is answered with bytes is not looked into: one of the largest would take this process longer than
        # its deadlines.
        if reply.raw is None and raw and json.loads(raw).get("stream"):
            return StreamingResponse(self._events(reply, gate, cancelled), media_type="text/event-stream")
        if reply.hold:
            await _until_open(gate, cancelled, request)
        if reply.break_off:
            return Response(b'{"half', headers={"content-length": "100"}, media_type=reply.media)
        if reply.raw is not None:
            return Response(reply.raw, reply.status, media_type=reply.media, headers=reply.headers)
        params = reply.params() if callable(reply.params) else reply.params
        default = {"served_by": self.name, "choices": [{"text": "hello"}], "kv_transfer_params": params}
        return JSONResponse(reply.json or default, reply.status, headers=reply.headers)

    async def _events(self, reply: Reply, gate: threading.Event, cancelled: threading.Event) -> AsyncIterator[bytes]:
        try:
            if reply.events is not None:
                yield reply.events
                return
            yield reply.first
            if reply.break_off:
                yield b'data: {"half'
                raise ConnectionResetError("the test wants this stream to break")
            while reply.hold and not gate.is_set():  # noqa: ASYNC110 (the gate belongs to another thread)
                await asyncio.sleep(0.01)
            yield reply.last
        except (asyncio.CancelledError, GeneratorExit):
            cancelled.set()
            raise


async def _until_open(gate: threading.Event, cancelled: threading.Event, request: Request) -> None:
    while not gate.is_set():
        if await request.is_disconnected():
            cancelled.set()
            return
        await asyncio.sleep(0.01)
