# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One request's way: a prefill instance keeps its cache for a reader, a decode instance reads it and answers.

Nothing of a request is kept here once it is answered; the counters and the health of the instances are the only state.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
from starlette.requests import ClientDisconnect, Request

from kvdirect.proxy_exchange import (
    Answer,
    Outgoing,
    read_body,
    run_until,
    until_gone,
)
from kvdirect.proxy_instances import Instance, Pool, describe_failure
from kvdirect.proxy_messages import (
    Body,
    ProxyError,
    RawHeaders,
    decode_request,
    encode,
    forwarded_headers,
    parse_object,
    prefill_request,
    reason_to_skip_prefill,
    returned_headers,
    take_request_id,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from kvdirect.proxy_config import ProxyConfig

_log = logging.getLogger("kvdirect.proxy")

_COUNTERS = (
    "requests",  # asked of the router
    "disaggregated",  # decode was given a prefill instance's parameters
    "local_request",  # decode alone: the request cannot use another engine's cache
    "local_no_prefill",  # decode alone: no prefill instance was healthy
    "local_unreachable",  # decode alone: the connection to the prefill instance failed
    "local_timeout",  # decode alone: the prefill took too long
    "local_failed",  # decode alone: the prefill instance answered with something else than 2xx or 4xx, or no JSON
    "local_no_params",  # decode alone: the prefill instance handed nothing over
    "refused",  # answered 4xx by the router itself
    "refused_by_prefill",  # answered 4xx by the prefill instance
    "no_decode",  # answered 503: no decode instance
    "decode_failed",  # the connection to the decode instance broke, or it answered 5xx
    "client_gone",  # the client left before the end
)


class _NotPrefilledError(Exception):
    """No prefill instance's cache can be used for this request; `counter` counts why."""

    def __init__(self, counter: str, why: str) -> None:
        super().__init__(why)
        self.counter = counter


@dataclass(eq=False)
class Router:
    """Carries requests through the instances.

    `client` is set while the application runs; setting `stopping` ends what still runs with an error that says so.
    """

    config: "ProxyConfig"
    prefill: Pool
    decode: Pool
    client: httpx.AsyncClient | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0))

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one completion or chat completion (an ASGI application)."""
        request = Request(scope, receive)
        self.counters["requests"] += 1
        out = Outgoing(send, "unknown")
        try:
            finished = await self._serve(request, out)
        except ClientDisconnect:
            finished = False
        except ProxyError as error:
            await out.error(error)
            return
        if finished:
            return
        if self.stopping.is_set():
            await out.error(ProxyError(503, "the proxy is stopping; send the request again", close=True))
        else:
            self.counters["client_gone"] += 1
            _log.info("request %s: the client left; whatever it had running is cancelled", out.request_id)

    async def _serve(self, request: Request, out: Outgoing) -> bool:
        """Read the request and answer it; returns whether that came to its end."""
        bounds = self.config
        try:
            out.request_id = take_request_id(request.headers.raw)
            reading = read_body(request, limit=bounds.max_body_bytes, seconds=bounds.body_timeout)
            raw = await run_until(reading, self.stopping.wait())
            if raw is None:
                return False
            body = parse_object(raw)
            encode(body)
        except ValueError as exc:
            self.counters["refused"] += 1
            raise ProxyError(400, f"the request cannot be read: {exc}") from exc
        except ProxyError:
            self.counters["refused"] += 1
            raise
        headers = forwarded_headers(request.headers.raw, out.request_id)
        answering = self._answer(request.url.path, body, headers, out)
        return bool(await run_until(answering, until_gone(request.receive), self.stopping.wait()))

    async def _answer(self, path: str, body: Body, headers: RawHeaders, out: Outgoing) -> bool:
        decode = self.decode.pick()
        if decode is None:  # before a prefill is spent on it
            raise self.no_decode()
        prefilled = await self._prefill(path, body, headers, out.request_id)
        if isinstance(prefilled, Answer):
            await out.whole(prefilled)
            return True
        content = encode(decode_request(body, prefilled))
        if not decode.healthy:
            decode = self.decode.pick() or decode
        instance, response = await self.open_decode("POST", path, headers, content, first=decode)
        try:
            self.counters["decode_failed"] += response.status_code >= 500
            await self._relay(response, instance, out)
        finally:
            await response.aclose()
        return True

    async def _relay(self, response: httpx.Response, instance: Instance, out: Outgoing) -> None:
        """Pass an answer on: an event stream as it comes, anything else whole, so that a broken one is an error."""
        headers = returned_headers(response.headers.raw, out.request_id)
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        if streamed:
            await out.begin_stream(response.status_code, headers)
        whole: list[bytes] = []
        try:
            async for chunk in response.aiter_raw():
                if streamed:
                    await out.chunk(chunk)
                else:
                    whole.append(chunk)
        except httpx.RequestError as exc:
            self.counters["decode_failed"] += 1
            error = broken(instance, exc)
            _log.warning("request %s: %s", out.request_id, error)
            raise error from exc
        if streamed:
            await out.end_stream()
        else:
            await out.whole(Answer(response.status_code, headers, b"".join(whole)))

    async def _prefill(self, path: str, body: Body, headers: RawHeaders, request_id: str) -> Body | Answer | None:
        """Ask a prefill instance.

        Returns:
            Its kv_transfer_params; or its refusal, for the client; or None where the decode instance must prefill.
        """
        try:
            prefilled = await self._ask_prefill(path, body, headers, request_id)
        except _NotPrefilledError as exc:
            self.counters[exc.counter] += 1
            level = logging.INFO if exc.counter == "local_request" else logging.WARNING
            _log.log(level, "request %s: not prefilled apart, the decode instance does it: %s", request_id, exc)
            return None
        self.counters["refused_by_prefill" if isinstance(prefilled, Answer) else "disaggregated"] += 1
        return prefilled

    async def _ask_prefill(self, path: str, body: Body, headers: RawHeaders, request_id: str) -> Body | Answer:
        skip = reason_to_skip_prefill(body)
        if skip is not None:
            raise _NotPrefilledError("local_request", skip)
        instance = self.prefill.pick()
        if instance is None:
            raise _NotPrefilledError("local_no_prefill", f"no healthy prefill instance ({self.prefill.why_none()})")
        try:
            async with asyncio.timeout(self.config.prefill_timeout):
                response = await self._send("POST", instance, path, headers, encode(prefill_request(body)), read=None)
                try:
                    answer = b"".join([chunk async for chunk in response.aiter_raw()])
                finally:
                    await response.aclose()
        except TimeoutError:
            text = f"{instance}: no answer within {self.config.prefill_timeout} s (--prefill-timeout)"
            raise _NotPrefilledError("local_timeout", text) from None
        except httpx.RequestError as exc:
            raise _NotPrefilledError("local_unreachable", f"{instance}: {describe_failure(exc)}") from exc
        if 400 <= response.status_code < 500:
            return Answer(response.status_code, returned_headers(response.headers.raw, request_id), answer)
        if not response.is_success:
            raise _NotPrefilledError("local_failed", f"{instance}: answered {response.status_code}")
        try:
            params = parse_object(answer).get("kv_transfer_params")
            if params and isinstance(params, dict):
                encode(params)
                return params
        except ValueError as exc:
            raise _NotPrefilledError("local_failed", f"{instance}: its answer cannot be read: {exc}") from exc
        raise _NotPrefilledError(
            "local_no_params",
            f"{instance}: no kv_transfer_params in its answer; was it started with a KV connector, as a producer?",
        )

    async def open_decode(
        self, method: str, path: str, headers: RawHeaders, content: bytes | None, *, first: Instance | None = None
    ) -> tuple[Instance, httpx.Response]:
        """Send a request to a decode instance; where none answers the connection, to the next.

        Raises:
            ProxyError: 503 none could be reached; 502 the connection broke after the request had left.
        """
        instance = first or self.decode.pick()
        for _ in range(len(self.decode)):
            if instance is None:
                break
            try:
                read = self.config.decode_timeout
                return instance, await self._send(method, instance, path, headers, content, read=read)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                instance = self.decode.pick()
            except httpx.RequestError as exc:
                self.counters["decode_failed"] += 1
                raise broken(instance, exc) from exc
        raise self.no_decode()

    def no_decode(self) -> ProxyError:
        """The error for a request that no decode instance can take; counts it."""
        self.counters["no_decode"] += 1
        return ProxyError(
            503,
            f"no healthy decode instance ({self.decode.why_none()}); start one or correct --decode, then retry; "
            "GET /health shows the state of each",
        )

    async def _send(
        self,
        method: str,
        instance: Instance,
        path: str,
        headers: RawHeaders,
        content: bytes | None,
        *,
        read: float | None,
    ) -> httpx.Response:
        """Send and return with the head of the answer; an instance that refuses the connection is taken out."""
        if self.client is None:
            raise RuntimeError("the application's lifespan is not running: serve it with an ASGI server that runs it")
        timeout = httpx.Timeout(connect=self.config.connect_timeout, read=read, write=read, pool=None)
        request = self.client.build_request(
            method, f"{instance.url}{path}", headers=headers, content=content, timeout=timeout
        )
        try:
            return await self.client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            instance.failed(describe_failure(exc))
            raise

    def state(self) -> dict[str, object]:
        """What `/health` answers with."""
        status = "unavailable" if not self.decode.healthy else "ok" if self.prefill.healthy else "degraded"
        return {
            "status": status,
            "prefill": [instance.state() for instance in self.prefill],
            "decode": [instance.state() for instance in self.decode],
            "counters": dict(self.counters),
        }


def broken(instance: Instance, exc: httpx.RequestError) -> ProxyError:
    """The error for a connection that broke after the request had left."""
    late = " (no byte within --decode-timeout)" if isinstance(exc, httpx.ReadTimeout) else ""
    text = f"{instance} broke off: {describe_failure(exc)}{late}; see its log, then send the request again"
    return ProxyError(502, text)
