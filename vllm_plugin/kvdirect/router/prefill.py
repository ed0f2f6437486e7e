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
        leg: Is asking the prefill instance still, or has; whether that went well. None: all is known.
    """

    ticket: Ticket | None = None
    owner: Instance | None = None
    shown: bool = False
    told: Part = NO_PART  # how the ticket ends
    leg: asyncio.Task[bool] | None = None
    _give_back: Callable[[PrefillResult], None] | None = None

    def came(self, result: PrefillResult) -> None:
        """The instance has answered what this one stood for."""
        if self.owner is None:  # the cache was read before the answer was
            result.redeemed()
            return
        self.owner.release_cache()
        self.ticket, self.owner, self.told, self._give_back = (
            result.ticket,
            result.owner,
            result.told,
            result._give_back,
        )

    def redeemed(self) -> None:
        """The cache was read; may be called again."""
        if self.owner is not None:
            self.told.end("redeemed")
            self.owner.release_cache()
            self.owner = None

    def close(self) -> None:
        """The cache will not be read, unless it was: its ticket is given back then. May be called again."""
        if self.leg is not None and self.owner is not None:
            self.leg.cancel()  # it gives back what it asked for; no-op once it has ended
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

    async def begin(self, call: Call) -> PrefillResult:
        """As `run`, but where the instance answers readers for claims, do not wait for its own answer.

        Returns:
            The result, to be closed. If it has a `leg`, and that comes to False, decode would wait in vain.
        """
        instance = self._pool.pick() if call.body.skips_prefill is None else None
        made_at = None if instance is None else self._returns.answers_at(instance)
        if instance is None or made_at is None:
            return await self.run(call)
        claim = secrets.token_hex(16)
        instance.keep_cache()
        result = PrefillResult(Ticket.to_come(claim, made_at), instance)
        result.leg = asyncio.create_task(self._leg(instance, call, claim, result))
        await asyncio.sleep(0)  # it is sent first: decode has nothing to do before prefill has
        return result

    async def _leg(self, instance: Instance, call: Call, claim: str, result: PrefillResult) -> bool:
        try:
            with instance.held():
                result.came(await self._ask_one(instance, call, call.body.for_prefill(claim)))
        except (_NotPrefilledError, UnreachableError) as error:
            outcome = error.outcome if isinstance(error, _NotPrefilledError) else PrefillOutcome.LOCAL_UNREACHABLE
            if not isinstance(error, UnreachableError | _RefusedError):
                self._returns.claim(claim, instance, call.headers)
            self._metrics.count(outcome)
            _log.warning("request %s: not prefilled apart, decode does it: %s", call.request_id, error)
            return False
        except BaseException:  # it may have ended all the same
            self._returns.claim(claim, instance, call.headers)
            raise
        self._metrics.count(PrefillOutcome.DISAGGREGATED)
        return True

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
