# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How the churn's requests are made: prefill at one engine, decode at another, and clients that go in between."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from churn_mix import LEAVING
from engines import Engine, completion_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from churn_mix import Job

ASKED = {"do_remote_decode": True, "do_remote_prefill": False}
PATIENCE = 300.0
CERTIFICATES = httpx.create_ssl_context()  # read once: it takes longer than a request
# Slots are taken in order, and there are 65536.
UNUSED_SLOT = 60000


@dataclass(slots=True)
class Answer:
    """What one client got: the tokens of each sample, or a status that is not 200, or that it left before the end.

    Attributes:
        age: Of its lease when the answer had come, in seconds, at most.
    """

    status: int = 0
    samples: list[list[int]] = field(default_factory=list)
    error: str = ""
    age: float = 0.0

    @property
    def left(self) -> bool:
        return self.status == 0


@dataclass(frozen=True, slots=True)
class Site:
    """The engines, and what the clients know of them."""

    owner: Engine
    readers: list[Engine]
    first_term: float
    dead_port: int


async def run(site: Site, job: Job, calm: asyncio.Semaphore) -> Answer:
    """One request from beginning to end; `calm` bounds how many are at the engines at a time."""
    async with calm:
        began = time.monotonic()
        params = await _prefill(site.owner, job)
        if params is None or job.kind == "leaves_with_ticket":
            return Answer()
        if job.kind != "expired":
            answer = await _decode(site, job, params)
            answer.age = time.monotonic() - began
            return answer
    await asyncio.sleep(site.first_term + 3)
    async with calm:
        return await _decode(site, job, params)


async def _decode(site: Site, job: Job, params: dict[str, Any]) -> Answer:
    body = completion_body(job.prompt, job.max_tokens, kv_transfer_params=_misled(site, job, params))
    if job.samples > 1:
        # vLLM wants a temperature for n > 1; with one candidate left it is as good as greedy.
        body |= {"n": job.samples, "top_k": 1, "temperature": 1.0}
    return await _complete(site.readers[job.reader], job, body)


async def _prefill(owner: Engine, job: Job) -> dict[str, Any] | None:
    """The ticket; None if the client went before it came."""
    body = completion_body(job.prompt, 1, stream=False, kv_transfer_params=ASKED)
    patience = job.patience if job.kind == "leaves_prefill" else PATIENCE
    try:
        async with asyncio.timeout(patience), client(owner, job.name) as http:
            answer = await http.post("/v1/completions", json=body)
    except TimeoutError:
        if job.kind == "leaves_prefill":
            return None
        raise
    answer.raise_for_status()
    params: dict[str, Any] = answer.json()["kv_transfer_params"]
    return params


def _misled(site: Site, job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """The ticket, made useless for the kinds that want it so."""
    if job.kind == "dead_port":
        return params | {"remote_port": site.dead_port}
    # version:incarnation:slot:epoch:..., hexadecimal
    fields = params["kvdirect_lease"].split(":")
    if job.kind == "restarted":
        fields[1] = f"{int(fields[1], 16) ^ 1:x}"
    elif job.kind == "unknown_lease":
        fields[2] = f"{UNUSED_SLOT:x}"
    return params | {"kvdirect_lease": ":".join(fields)}


async def _complete(engine: Engine, job: Job, body: dict[str, Any]) -> Answer:
    answer = Answer(samples=[[] for _ in range(body.get("n", 1))])
    patience = job.patience if job.kind == "leaves_decode" else PATIENCE
    try:
        async with asyncio.timeout(patience), client(engine, job.name) as http:
            if job.stream:
                await _stream(http, job, body, answer)
            else:
                response = await http.post("/v1/completions", json=body)
                answer.status = response.status_code
                if answer.status == httpx.codes.OK:
                    for choice in response.json()["choices"]:
                        answer.samples[choice["index"]] = choice["token_ids"]
                else:
                    answer.error = response.text
    except TimeoutError:
        if job.kind not in LEAVING:
            raise
        return Answer()
    return answer


async def _stream(http: httpx.AsyncClient, job: Job, body: dict[str, Any], answer: Answer) -> None:
    """Read the stream into `answer`, whose status is set at the end: a client that leaves has none."""
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        if response.status_code != httpx.codes.OK:
            answer.error = (await response.aread()).decode(errors="replace")
            answer.status = response.status_code
            return
        async for chunk in _events(response):
            if "error" in chunk:
                answer.error, answer.status = json.dumps(chunk["error"]), int(chunk["error"].get("code") or 500)
                return
            for choice in chunk["choices"]:
                answer.samples[choice["index"]] += choice.get("token_ids") or []
            if job.kind == "leaves_stream" and len(answer.samples[0]) >= job.patience:
                return
        answer.status = response.status_code


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events; httpx's own lines also end at characters that may be in a completion (U+0085, U+2028)."""
    rest = b""
    async for data in response.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield json.loads(line[6:])


def client(engine: Engine, request_id: str) -> httpx.AsyncClient:
    """A client of its own for each request, so that no connection stays behind it."""
    return httpx.AsyncClient(
        base_url=engine.url, headers={"X-Request-Id": request_id}, timeout=PATIENCE, verify=CERTIFICATES
    )
