# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A program that plays a vLLM engine with a KV connector, for tests that stop and kill instances under load.

`python played_engine.py NAME` listens on a free port and prints its URL. As far as a router can tell it does what vLLM
does: asked to keep a cache it hands out a ticket that is good for one read; given a ticket it reads the cache from the
process that has it, over HTTP, and answers 500 where that fails; on SIGTERM it aborts what it runs, which is answered
200 with a part of the text and finish_reason "abort". An answer's text is a digest of the prompt.
"""

import asyncio
import hashlib
import json
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PIECES = 4


def right_text(prompt: str) -> str:
    """What a whole answer to this prompt says."""
    return hashlib.sha256(prompt.encode()).hexdigest()


class Engine:
    """The program's state: its tickets, and whether it was told to stop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.aborted = asyncio.Event()
        self._caches: dict[str, str] = {}
        self._client = httpx.AsyncClient(trust_env=False, timeout=30)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        params = body.get("kv_transfer_params") or {}
        if body.get("model") == "kvdirect-gives-a-ticket-back":
            await self._pull(params, "")
            return JSONResponse({"error": {"message": "no such model", "code": 404}}, 404)
        text = right_text(body["prompt"])
        if params.get("do_remote_decode"):
            return await self._prefill(text)
        if params.get("do_remote_prefill") and not await self._pull(params, text):
            return JSONResponse({"error": {"message": "the pull failed", "code": 500}}, 500)
        if body.get("stream"):
            return StreamingResponse(self._stream(text), media_type="text/event-stream")
        done = ""
        for piece in _pieces(text):
            if await self._interrupted():
                return self._answer(done, "abort")
            done += piece
        return self._answer(done, "stop")

    async def read_cache(self, request: Request) -> Response:
        """A reader takes a cache, which is freed with it."""
        text = self._caches.pop(request.path_params["ticket"], None)
        return JSONResponse({"text": text}, 200 if text else 404)

    async def health(self, _request: Request) -> Response:
        return Response()

    async def _prefill(self, text: str) -> Response:
        if await self._interrupted():
            return self._answer("", "abort")
        ticket = uuid.uuid4().hex
        self._caches[ticket] = text
        return self._answer(text[:1], "length", {"do_remote_prefill": True, "remote_port": self.port, "ticket": ticket})

    async def _pull(self, params: dict[str, Any], text: str) -> bool:
        url = f"http://127.0.0.1:{params['remote_port']}/cache/{params['ticket']}"
        try:
            return bool((await self._client.post(url)).json()["text"] == text)
        except (httpx.HTTPError, ValueError):
            return False

    async def _stream(self, text: str) -> AsyncIterator[bytes]:
        for piece in _pieces(text):
            if await self._interrupted():
                yield _event({"choices": [{"text": "", "finish_reason": "abort"}]})
                return
            yield _event({"choices": [{"text": piece, "finish_reason": None}], "served_by": self.name})
        yield b"data: [DONE]\n\n"

    async def _interrupted(self) -> bool:
        """Work for a moment; whether it was told to stop meanwhile."""
        try:
            async with asyncio.timeout(random.uniform(0.005, 0.05)):  # noqa: S311 (no secret)
                await self.aborted.wait()
        except TimeoutError:
            return False
        return True

    def _answer(self, text: str, reason: str, params: dict[str, Any] | None = None) -> Response:
        choice = {"index": 0, "text": text, "finish_reason": reason}
        return JSONResponse({"served_by": self.name, "choices": [choice], "kv_transfer_params": params})


def _pieces(text: str) -> list[str]:
    size = len(text) // PIECES
    return [text[index * size : (index + 1) * size] for index in range(PIECES)]


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class _Server(uvicorn.Server):
    """Aborts what runs when it is told to stop."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401 (uvicorn's)
        await super().startup(sockets)
        self._engine.port = self.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{self._engine.port}", flush=True)

    async def shutdown(self, sockets: Any = None) -> None:  # noqa: ANN401 (uvicorn's)
        self._engine.aborted.set()
        await super().shutdown(sockets)


async def _main(name: str) -> None:
    engine = Engine(name)
    routes = [
        Route("/v1/completions", engine.complete, methods=["POST"]),
        Route("/cache/{ticket}", engine.read_cache, methods=["POST"]),
        Route("/health", engine.health),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=2
    )
    await _Server(config, engine).serve()


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again once it has stopped
    asyncio.run(_main(sys.argv[1]))
