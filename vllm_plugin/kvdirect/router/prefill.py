# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The first half of a request's way: a prefill instance computes the prompt's cache and keeps it for a reader."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .bodies import encode, parse_object, returned_headers
from .client import Answer
from .outcomes import PrefillOutcome
from .upstream import BrokenError, LateError, UnreachableError, Upstream

if TYPE_CHECKING:
    from .client import Call
    from .config import ProxyConfig
    from .instances import Instance, Pool
    from .metrics import RouterMetrics

_log = logging.getLogger("kvdirect.proxy")


@dataclass(slots=True)
class PrefillResult:
    """What decode is told about the prompt's cache.

    Attributes:
        ticket: The kv_transfer_params of the prefill instance, encoded; None: decode computes the prompt itself.
        owner: The prefill instance, which may not stop until `close` is called.
    """

    ticket: bytes | None = None
    owner: Instance | None = None

    def close(self) -> None:
        """The cache was read, or will not be; may be called again."""
        if self.owner is not None:
            self.owner.release_cache()
            self.owner = None


class _NotPrefilledError(Exception):
    """No prefill instance's cache can be used for this request; `outcome` says what it counts as."""

    def __init__(self, outcome: PrefillOutcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Prefill:
    """Asks prefill instances."""

    _config: ProxyConfig
    _pool: Pool
    _upstream: Upstream
    _metrics: RouterMetrics

    async def run(self, call: Call) -> PrefillResult | Answer:
        """Have a prompt prefilled, or say that decode must do it; counts which.

        Returns:
            The result, to be closed; or the prefill instance's 4xx answer, for the client.
        """
        try:
            result = await self._ask(call)
        except _NotPrefilledError as error:
            self._metrics.count(error.outcome)
            level = logging.INFO if error.outcome is PrefillOutcome.LOCAL_REQUEST else logging.WARNING
            _log.log(level, "request %s: not prefilled apart, the decode instance does it: %s", call.request_id, error)
            return PrefillResult()
        refused = isinstance(result, Answer)
        self._metrics.count(PrefillOutcome.REFUSED if refused else PrefillOutcome.DISAGGREGATED)
        return result

    async def _ask(self, call: Call) -> PrefillResult | Answer:
        if call.body.skips_prefill is not None:
            raise _NotPrefilledError(PrefillOutcome.LOCAL_REQUEST, call.body.skips_prefill)
        content = call.body.for_prefill()
        refused = ""
        for _ in range(len(self._pool)):  # each one that refuses the connection is taken out
            instance = self._pool.pick()
            if instance is None:
                break
            try:
                with instance.held():
                    return await self._ask_one(instance, call, content)
            except UnreachableError as error:
                refused = str(error)
        if refused:
            raise _NotPrefilledError(PrefillOutcome.LOCAL_UNREACHABLE, refused)
        why = f"no prefill instance can take it ({self._pool.why_none()})"
        raise _NotPrefilledError(PrefillOutcome.LOCAL_NO_PREFILL, why)

    async def _ask_one(self, instance: Instance, call: Call, content: bytes) -> PrefillResult | Answer:
        limit = self._config.prefill_timeout
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                reply = await self._upstream.ask(instance, "POST", call.path, call.headers, content, seconds=limit)
                answer = await reply.whole()
        except (TimeoutError, LateError):
            text = f"{instance}: no answer within {limit} s (--prefill-timeout)"
            raise _NotPrefilledError(PrefillOutcome.LOCAL_TIMEOUT, text) from None
        except BrokenError as error:
            raise _NotPrefilledError(PrefillOutcome.LOCAL_BROKEN, str(error)) from error
        if 400 <= reply.status < 500:
            return Answer(reply.status, returned_headers(reply.headers, call.request_id), answer)
        ticket = _ticket(instance, reply.status, answer)
        self._metrics.prefilled(time.monotonic() - started)
        instance.keep_cache()
        return PrefillResult(ticket, instance)


def _ticket(instance: Instance, status: int, answer: bytes) -> bytes:
    if not 200 <= status < 300:
        instance.record_failure()
        raise _NotPrefilledError(PrefillOutcome.LOCAL_FAILED, f"{instance}: answered {status}")
    try:
        params = parse_object(answer).get("kv_transfer_params")
        if params and isinstance(params, dict):
            return encode(params)
    except ValueError as error:
        text = f"{instance}: its answer cannot be read: {error}"
        raise _NotPrefilledError(PrefillOutcome.LOCAL_FAILED, text) from error
    raise _NotPrefilledError(
        PrefillOutcome.LOCAL_NO_PARAMS,
        f"{instance}: no kv_transfer_params in its answer; was it started with a KV connector, as a producer?",
    )
