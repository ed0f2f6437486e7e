# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The first half of a request's way: a prefill instance computes the prompt's cache and keeps it for a reader."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .bodies import parse_object
from .journal import NO_PART, Part
from .outcomes import PrefillOutcome
from .returns import Ticket
from .upstream import BrokenError, LateError, UnreachableError, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Call
    from .config import ProxyConfig
    from .instances import Instance, Pool
    from .metrics import RouterMetrics
    from .returns import Returns

_log = logging.getLogger("kvdirect.proxy")


@dataclass(slots=True)
class PrefillResult:
    """What decode is told about the prompt's cache.

    Attributes:
        ticket: The kv_transfer_params of the prefill instance; None: decode computes the prompt itself.
        owner: The prefill instance, which may not stop until `close` or `redeemed` is called.
        shown: A decode instance may know of the ticket.
    """

    ticket: Ticket | None = None
    owner: Instance | None = None
    shown: bool = False
    told: Part = NO_PART  # how the ticket ends
    _give_back: Callable[[PrefillResult], None] | None = None

    def redeemed(self) -> None:
        """The cache was read; may be called again."""
        if self.owner is not None:
            self.told.end("redeemed")
            self.owner.release_cache()
            self.owner = None

    def close(self) -> None:
        """The cache will not be read, unless it was: its ticket is given back then. May be called again."""
        if self.owner is not None and self._give_back is not None:
            self.told.end("not_used")
            self._give_back(self)
        self.redeemed()


class _NotPrefilledError(Exception):
    """No prefill instance's cache can be used for this request; `outcome` says what it counts as."""

    def __init__(self, outcome: PrefillOutcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class _RefusedError(_NotPrefilledError):
    """The instance answered 4xx. Decode may know a model, an adapter or a key that it does not, or have more room."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """Asks prefill instances."""

    _config: ProxyConfig
    _pool: Pool
    _upstream: Upstream
    _metrics: RouterMetrics
    _returns: Returns

    async def run(self, call: Call) -> PrefillResult:
        """Have a prompt prefilled, or say that decode must do it; counts which.

        Returns:
            The result, to be closed.
        """
        try:
            result = await self._ask(call)
        except _NotPrefilledError as error:
            self._metrics.count(error.outcome)
            expected = error.outcome in (PrefillOutcome.LOCAL_REQUEST, PrefillOutcome.LOCAL_REFUSED)
            level = logging.INFO if expected else logging.WARNING
            _log.log(level, "request %s: not prefilled apart, the decode instance does it: %s", call.request_id, error)
            return PrefillResult()
        self._metrics.count(PrefillOutcome.DISAGGREGATED)
        return result

    async def _ask(self, call: Call) -> PrefillResult:
        if call.body.skips_prefill is not None:
            raise _NotPrefilledError(PrefillOutcome.LOCAL_REQUEST, call.body.skips_prefill)
        claim = secrets.token_hex(16)
        content = call.body.for_prefill(claim)
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
            except _RefusedError:
                raise
            except BaseException:  # it may have ended all the same, and its ticket be lost
                self._returns.claim(claim, instance, call.headers)
                raise
        if refused:
            raise _NotPrefilledError(PrefillOutcome.LOCAL_UNREACHABLE, refused)
        why = f"no prefill instance can take it ({self._pool.why_none()})"
        raise _NotPrefilledError(PrefillOutcome.LOCAL_NO_PREFILL, why)

    async def _ask_one(self, instance: Instance, call: Call, content: bytes) -> PrefillResult:
        limit = self._config.prefill_timeout
        started = time.monotonic()
        try:
            with call.journal.asks("prefill", instance, call.headers) as part:
                async with asyncio.timeout(limit):
                    reply = await self._upstream.ask(instance, "POST", call.path, part.headers, content, seconds=limit)
                    part.answered(reply.status)
                    answer = await reply.whole()
        except (TimeoutError, LateError):
            text = f"{instance}: no answer within {limit} s (--prefill-timeout)"
            raise _NotPrefilledError(PrefillOutcome.LOCAL_TIMEOUT, text) from None
        except BrokenError as error:
            raise _NotPrefilledError(PrefillOutcome.LOCAL_BROKEN, str(error)) from error
        if 400 <= reply.status < 500:
            raise _RefusedError(PrefillOutcome.LOCAL_REFUSED, f"{instance}: answered {reply.status}")
        ticket = _ticket(instance, reply.status, answer)
        self._returns.made_by(instance, ticket)
        self._metrics.prefilled(time.monotonic() - started)
        instance.keep_cache()

        def give_back(result: PrefillResult) -> None:
            self._returns.ticket(ticket, instance, call.headers, shown=result.shown)

        told = call.journal.ticket(instance, ticket.request_id)
        return PrefillResult(ticket, instance, told=told, _give_back=give_back)


def _ticket(instance: Instance, status: int, answer: bytes) -> Ticket:
    if not 200 <= status < 300:
        instance.record_failure()
        raise _NotPrefilledError(PrefillOutcome.LOCAL_FAILED, f"{instance}: answered {status}")
    try:
        params = parse_object(answer).get("kv_transfer_params")
        if params and isinstance(params, dict):
            return Ticket.of(params)
    except ValueError as error:
        text = f"{instance}: its answer cannot be read: {error}"
        raise _NotPrefilledError(PrefillOutcome.LOCAL_FAILED, text) from error
    raise _NotPrefilledError(
        PrefillOutcome.LOCAL_NO_PARAMS,
        f"{instance}: no kv_transfer_params in its answer; was it started with a KV connector, as a producer?",
    )
