# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A decode instance answers, or another one does as long as the client has nothing.

What a retry may use again depends on how far the failed attempt got. A ticket (the kv_transfer_params of a prefill
instance) can be redeemed once: the decode instance that reads the cache has it freed. So

- where the instance refused the connection, the ticket is unused and goes to the next instance;
- where the connection broke after the request had left, or the engine aborted it, the ticket may be spent: prefill is
  asked again, which is cheap (its prefix cache has the prompt) and keeps prompts off the decode instances that remain;
- where the instance answered that it failed, reading that cache may be what failed: the next attempt computes the
  prompt on decode.

A ticket that is used no more, and was not redeemed for sure, is given back.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .bodies import RouterError, returned_headers
from .client import Answer
from .events import says_error
from .outcomes import Outcome, PrefillOutcome, RetryReason
from .prefill import PrefillResult
from .upstream import (
    BrokenError,
    LateError,
    Reply,
    UnreachableError,
    Upstream,
    UpstreamError,
    broken,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .client import Call
    from .config import ProxyConfig
    from .instances import Instance, Pool
    from .journal import Part
    from .metrics import RouterMetrics
    from .models import Models

_log = logging.getLogger("kvdirect.proxy")
_ABORTED = "it is being stopped and aborted the request"


class _NoModelError(UpstreamError):
    """The instance does not have the model, and another one has; the client was sent nothing."""


class _FailedError(UpstreamError):
    """The instance answered that it failed, and the client was sent nothing."""


@dataclass(slots=True)
class Attempts:
    """Of one request, those that did not succeed; `failures` are those that count against `retries`."""

    tried: list[Instance] = field(default_factory=list)
    lacking: list[Instance] = field(default_factory=list)  # those known not to have the model
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Decode:
    """Asks decode instances, and knows what may be tried after one failed."""

    _config: ProxyConfig
    _pool: Pool
    _upstream: Upstream
    _metrics: RouterMetrics
    _models: Models

    def pick(self, attempts: Attempts) -> Instance:
        """The instance for the next attempt.

        Raises:
            RouterError: There is none.
        """
        instance = self._pool.pick(attempts.tried, attempts.lacking)
        if instance is None or len(attempts.tried) > self._config.retries + self._config.max_instances:
            raise no_decode(self._pool, self._config)
        return instance

    async def run(self, instance: Instance, call: Call, prefill: PrefillResult, attempts: Attempts) -> Outcome:
        """Have one instance answer the client.

        Raises:
            UpstreamError: It did not; `after` says what may be done.
        """
        if not instance.healthy:
            raise UnreachableError(instance, f"went out while the request was prefilled: {instance.error}")
        with call.journal.asks("decode", instance, call.headers) as part:
            return await self._ask(instance, call, prefill, attempts, part)

    async def _ask(
        self, instance: Instance, call: Call, prefill: PrefillResult, attempts: Attempts, part: Part
    ) -> Outcome:
        content = call.body.for_decode(prefill.ticket.content if prefill.ticket is not None else None)
        seconds = self._config.first_byte_timeout
        if prefill.leg is not None and not prefill.leg.done():
            seconds += self._config.prefill_timeout
        prefill.shown = True
        try:
            reply = await self._upstream.ask(instance, call.method, call.path, part.headers, content, seconds=seconds)
        except UnreachableError:
            prefill.shown = False
            raise
        try:
            part.answered(reply.status)
            parts = reply.chunks()
            body = await self._beginning(parts, call) if reply.streamed else await reply.whole()
            part.first_byte()
            if call.api.aborted_at(body, streamed=reply.streamed) >= 0:
                raise broken(instance, _ABORTED)
            if await self._models.others_have(call, instance, reply.status, body):
                raise _NoModelError(instance, "does not have the model, and another one has")
            failed = self._is_last_word(reply, body, prefill, attempts)
            if failed or reply.status >= 400:  # what refuses a request may do so before the connector hears of it
                prefill.close()
            else:
                prefill.redeemed()  # the first byte of an answer comes after the cache was read
            if reply.streamed:
                failed = await self._stream(reply, parts, body, call) or failed
            else:
                self._metrics.first_byte(call.path, time.monotonic() - call.started)
                headers = returned_headers(reply.headers, call.request_id)
                await call.response.whole(Answer(reply.status, headers, body))
        finally:
            await reply.aclose()
        if failed:
            return Outcome.FAILED
        return Outcome.REFUSED_BY_INSTANCE if 400 <= reply.status < 500 else Outcome.OK

    async def _beginning(self, parts: AsyncIterator[bytes], call: Call) -> bytes:
        """A stream as far as nothing of it was computed yet, and the next part."""
        body = await anext(parts, b"")
        while not call.api.has_begun(body) and len(body) < self._config.max_answer_bytes:
            more = await anext(parts, b"")
            if not more:
                break
            body += more
        return body

    async def _stream(self, reply: Reply, parts: AsyncIterator[bytes], first: bytes, call: Call) -> bool:
        """Pass an event stream on; whether a later part of it told of a failure."""
        failed = False
        await call.response.begin_stream(reply.status, returned_headers(reply.headers, call.request_id))
        self._metrics.first_byte(call.path, time.monotonic() - call.started)
        await call.response.chunk(first)
        reply.take_turns(self._upstream.pace)
        async for chunk in parts:
            end = call.api.aborted_at(chunk, streamed=True)
            await call.response.chunk(chunk if end < 0 else chunk[:end])
            if end >= 0:
                raise broken(reply.instance, _ABORTED)
            failed = failed or says_error(reply.status, chunk, streamed=True)
        await call.response.chunk(b"", more=False)
        return failed

    def _is_last_word(self, reply: Reply, body: bytes, prefill: PrefillResult, attempts: Attempts) -> bool:
        """Whether the answer is a failure that the client must be shown, for nothing is left to try."""
        if not says_error(reply.status, body, streamed=reply.streamed):
            return False
        reply.instance.record_failure(suspect=True)
        another_way = prefill.ticket is not None or self._pool.free(
            [*attempts.tried, *attempts.lacking, reply.instance]
        )
        if attempts.failures < self._config.retries and another_way:
            raise _FailedError(reply.instance, f"failed with the request (status {reply.status})")
        return True

    def after(
        self, error: UpstreamError, instance: Instance, call: Call, prefill: PrefillResult, attempts: Attempts
    ) -> PrefillResult | None:
        """What the next attempt starts from; None: prefill again.

        Raises:
            RouterError: There may be none.
        """
        reason = RetryReason.UNREACHABLE
        if isinstance(error, _NoModelError):
            reason = RetryReason.NO_MODEL
        elif not isinstance(error, UnreachableError):
            reason = RetryReason.FAILED if isinstance(error, _FailedError) else RetryReason.BROKEN
            attempts.failures += 1
        if call.response.begun or isinstance(error, LateError) or attempts.failures > self._config.retries:
            answer = gave_up(error)
            _log.warning("request %s: %s", call.request_id, answer)
            raise answer from error
        attempts.tried.append(instance)
        self._metrics.count(reason)
        _log.warning("request %s: sent to a decode instance again, for %s", call.request_id, error)
        if reason is RetryReason.UNREACHABLE or prefill.ticket is None:
            return prefill
        prefill.close()
        if reason in {RetryReason.BROKEN, RetryReason.NO_MODEL}:
            return None
        self._metrics.count(PrefillOutcome.LOCAL_RETRY)
        return PrefillResult()


def gave_up(error: UpstreamError) -> RouterError:
    """The error for a request whose decode instance failed, and that is not tried again."""
    if isinstance(error, LateError):
        text = f"{error}; it may be overloaded: try again later, or raise --first-byte-timeout or --idle-timeout"
        return RouterError(504, text, outcome=Outcome.TIMEOUT)
    if isinstance(error, BrokenError):
        return RouterError(502, f"{error}, then send the request again", outcome=Outcome.FAILED)
    return RouterError(503, str(error), outcome=Outcome.NO_DECODE, retry_after=1)


def no_decode(pool: Pool, config: ProxyConfig) -> RouterError:
    """The error for a request that no decode instance can take."""
    if pool.up:
        limit = config.max_in_flight_per_instance
        text = f"every decode instance has its limit of {limit} requests in flight; try again later"
        text += " (--max-in-flight-per-instance)"
        return RouterError(503, text, outcome=Outcome.NO_DECODE, retry_after=1)
    return RouterError(
        503,
        f"no healthy decode instance ({pool.why_none()}); start one, correct --decode or let one join, then retry; "
        "GET /status shows the state of each",
        outcome=Outcome.NO_DECODE,
        retry_after=math.ceil(config.health_interval),
    )
