# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The second half of a request's way: a decode instance answers, or another one does as long as the client has nothing.

What a retry may use again depends on how far the failed attempt got. A ticket (the kv_transfer_params of a prefill
instance) can be redeemed once: the decode instance that reads the cache has it freed. So

- where the instance refused the connection, the ticket is unused and goes to the next instance;
- where the connection broke after the request had left, or the engine aborted it, the ticket may be spent: prefill is
  asked again, which is cheap (its prefix cache has the prompt) and keeps prompts off the decode instances that remain;
- where the instance answered that it failed, reading that cache may be what failed: the next attempt computes the
  prompt on decode.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from .bodies import (
    Body,
    RawHeaders,
    RouterError,
    decode_request,
    encode,
    returned_headers,
)
from .client import Answer, ClientResponse
from .prefill import Prefiller, PrefillResult
from .upstream import (
    BrokenError,
    LateError,
    Reply,
    UnreachableError,
    Upstream,
    UpstreamError,
    aborted_at,
    broken,
    says_error,
)

if TYPE_CHECKING:
    from .config import ProxyConfig
    from .instances import Instance, Pool
    from .metrics import RouterMetrics

_log = logging.getLogger("kvdirect.proxy")
_ABORTED = "it is being stopped and aborted the request"


class _FailedError(UpstreamError):
    """The instance answered that it failed, and the client was sent nothing."""


class Journey:
    """One request on its way."""

    def __init__(
        self,
        config: ProxyConfig,
        pool: Pool,
        upstream: Upstream,
        metrics: RouterMetrics,
        out: ClientResponse,
    ) -> None:
        """Prepare; `pool` has the decode instances."""
        self._config = config
        self._pool = pool
        self._upstream = upstream
        self._metrics = metrics
        self._out = out
        self._started = time.monotonic()
        self._tried: list[Instance] = []
        self._failures = 0  # attempts that count against `retries`

    async def run(self, prefiller: Prefiller, path: str, body: Body, headers: RawHeaders) -> str:
        """Answer the request.

        Returns:
            Its outcome, a label of the counter `requests`.

        Raises:
            RouterError: No instance answered.
        """
        handover: PrefillResult | None = None
        try:
            while True:
                instance = self._next()
                with instance.held():  # before the prefill, so that none is spent on a request nobody can decode
                    if handover is None:
                        result = await prefiller.hand_over(path, body, headers, self._out.request_id)
                        if isinstance(result, Answer):
                            await self._out.whole(result)
                            return "refused_by_instance"
                        handover = result
                    try:
                        return await self._deliver(instance, path, body, headers, handover)
                    except UpstreamError as error:
                        handover = self._after(error, instance, handover)
        finally:
            if handover is not None:
                handover.close()

    def _next(self) -> Instance:
        instance = self._pool.pick(self._tried)
        if instance is None or len(self._tried) > self._config.retries + self._config.max_instances:
            raise no_decode(self._pool, self._config)
        return instance

    async def _deliver(
        self, instance: Instance, path: str, body: Body, headers: RawHeaders, handover: PrefillResult
    ) -> str:
        if not instance.healthy:
            raise UnreachableError(instance, f"went out while the request was prefilled: {instance.error}")
        content = encode(decode_request(body, handover.params))
        seconds = self._config.first_byte_timeout
        reply = await self._upstream.ask(instance, "POST", path, headers, content, seconds=seconds)
        try:
            handover.close()  # the first byte of an answer comes after the cache was read
            if reply.streamed:
                return await self._stream(reply, path, handover)
            return await self._whole(reply, path, handover)
        finally:
            await reply.aclose()

    async def _whole(self, reply: Reply, path: str, handover: PrefillResult) -> str:
        answer = await reply.whole()
        if aborted_at(answer, streamed=False) >= 0:
            raise broken(reply.instance, _ABORTED)
        failed = self._is_last_word(reply, answer, handover)
        self._metrics.first_byte(path, time.monotonic() - self._started)
        await self._out.whole(Answer(reply.status, returned_headers(reply.headers, self._out.request_id), answer))
        return _outcome(reply.status, failed=failed)

    async def _stream(self, reply: Reply, path: str, handover: PrefillResult) -> str:
        if aborted_at(reply.first, streamed=True) >= 0:
            raise broken(reply.instance, _ABORTED)
        failed = self._is_last_word(reply, reply.first, handover)
        await self._out.begin_stream(reply.status, returned_headers(reply.headers, self._out.request_id))
        self._metrics.first_byte(path, time.monotonic() - self._started)
        async for chunk in reply.chunks():
            end = aborted_at(chunk, streamed=True)
            await self._out.chunk(chunk if end < 0 else chunk[:end])
            if end >= 0:
                raise broken(reply.instance, _ABORTED)
            failed = failed or says_error(reply.status, chunk, streamed=True)
        await self._out.end_stream()
        return _outcome(reply.status, failed=failed)

    def _is_last_word(self, reply: Reply, body: bytes, handover: PrefillResult) -> bool:
        """Whether the answer is a failure that the client must be shown, for nothing is left to try."""
        if not says_error(reply.status, body, streamed=reply.streamed):
            return False
        reply.instance.failures += 1
        reply.instance.suspect()
        another_way = handover.params is not None or self._pool.free([*self._tried, reply.instance])
        if self._failures < self._config.retries and another_way:
            raise _FailedError(reply.instance, f"failed with the request (status {reply.status})")
        return True

    def _after(self, error: UpstreamError, instance: Instance, handover: PrefillResult) -> PrefillResult | None:
        """What the next attempt starts from, or a RouterError if there may be none; None: prefill again."""
        reason = "unreachable"
        if not isinstance(error, UnreachableError):
            reason = "failed" if isinstance(error, _FailedError) else "broken"
            self._failures += 1
        if self._out.begun or isinstance(error, LateError) or self._failures > self._config.retries:
            answer = gave_up(error)
            _log.warning("request %s: %s", self._out.request_id, answer)
            raise answer from error
        self._tried.append(instance)
        self._metrics.count("retries", reason)
        _log.warning("request %s: sent to a decode instance again, for %s", self._out.request_id, error)
        if reason == "unreachable" or handover.params is None:
            return handover
        handover.close()
        if reason == "broken":
            return None
        self._metrics.count("prefills", "local_retry")
        return PrefillResult()


def _outcome(status: int, *, failed: bool) -> str:
    if failed:
        return "failed"
    return "refused_by_instance" if 400 <= status < 500 else "ok"


def gave_up(error: UpstreamError) -> RouterError:
    """The error for a request whose decode instance failed, and that is not tried again."""
    if isinstance(error, LateError):
        text = f"{error}; it may be overloaded: try again later, or raise --first-byte-timeout or --idle-timeout"
        return RouterError(504, text, outcome="timeout")
    if isinstance(error, BrokenError):
        return RouterError(502, f"{error}, then send the request again", outcome="failed")
    return RouterError(503, str(error), outcome="no_decode", retry_after=1)


def no_decode(pool: Pool, config: ProxyConfig) -> RouterError:
    """The error for a request that no decode instance can take."""
    if pool.up:
        limit = config.max_in_flight_per_instance
        text = f"every decode instance has its limit of {limit} requests in flight; try again later"
        text += " (--max-in-flight-per-instance)"
        return RouterError(503, text, outcome="no_decode", retry_after=1)
    return RouterError(
        503,
        f"no healthy decode instance ({pool.why_none()}); start one, correct --decode or let one join, then retry; "
        "GET /status shows the state of each",
        outcome="no_decode",
        retry_after=math.ceil(config.health_interval),
    )
