# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets that nobody will use go back, so that prefill instances keep no cache for them until its lease ends.

An engine is told by a completion that it is sure to refuse: it names a model that there is not, and brings the ticket.
vLLM computes nothing for it, and has its connector do what a request's end asks for. The engine that made the ticket
frees the cache itself, where its connector is ours; other connectors' tickets go to a decode instance, whose connector
tells the owner. Nothing is dialled but the instances.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kvdirect.transfer_params import CLAIM_KEY, LEASE_KEY, RANK_KEY

from .bodies import encode
from .outcomes import ReturnOutcome
from .upstream import UpstreamError

if TYPE_CHECKING:
    from .bodies import Body, RawHeaders
    from .instances import Instance, Pool
    from .metrics import RouterMetrics
    from .upstream import Upstream

_log = logging.getLogger("kvdirect.proxy")

NO_MODEL = "kvdirect-gives-a-ticket-back"
_PATH = "/v1/completions"
_MOST_ID = 512  # characters of a request's id that are kept
_RANK_HEADER = b"x-data-parallel-rank"
# Returns under way, in all workers; a further one is dropped, and its cache ends by its lease.
MOST_RETURNS = 1024
# Of one instance: one is used, and two say that there are several.
_MOST_PLACES = 2
# For one return, once it is sent.
RETURN_SECONDS = 1.0
# A decode instance that was shown the ticket may know it; then its connector frees the cache when it hears of the end.
GRACE = 0.5


@dataclass(frozen=True, slots=True)
class Ticket:
    """The kv_transfer_params of a prefill instance.

    Attributes:
        content: Encoded, as they go to decode.
        is_ours: They are KVDirect's.
        can_go_back: Connectors that free a cache for a refused request take them for theirs.
        rank: The data-parallel rank that made them; None: not said.
        request_id: What their maker calls the request; empty: not said.
        made_at: Host and port where their maker answers readers; None: not said.
    """

    content: bytes
    is_ours: bool
    can_go_back: bool
    rank: int | None
    request_id: str = ""
    made_at: tuple[str, int] | None = None

    @classmethod
    def of(cls, params: Body) -> Ticket:
        """Take them as they came.

        Raises:
            ValueError: They cannot be encoded.
        """
        rank = params.get(RANK_KEY)
        known = isinstance(rank, int) and not isinstance(rank, bool) and 0 <= rank < 1 << 16
        ours = LEASE_KEY in params
        made_for = params.get("remote_request_id")
        request_id = made_for[:_MOST_ID] if isinstance(made_for, str) else ""
        back = params.get("do_remote_prefill") is True
        host, port = params.get("remote_host"), params.get("remote_port")
        made_at = (host, port) if isinstance(host, str) and isinstance(port, int) else None
        return cls(encode(params), ours, back, rank if known else None, request_id, made_at)

    @classmethod
    def to_come(cls, claim: str, made_at: tuple[str, int]) -> Ticket:
        """What a reader gets before there is a ticket: where to ask, and after what."""
        host, port = made_at
        params = {"do_remote_prefill": True, "remote_host": host, "remote_port": port, CLAIM_KEY: claim}
        return cls(encode(params), is_ours=True, can_go_back=True, rank=None)


class Returns:
    """Gives tickets back, in tasks of its own, so that no client waits for it."""

    def __init__(self, decode: Pool, upstream: Upstream, metrics: RouterMetrics, most: int = MOST_RETURNS) -> None:
        """Give back at most so many at a time."""
        self._most = most
        self._decode = decode
        self._upstream = upstream
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        # Of those that make tickets of ours: since when they are up, and where their tickets say that they answer.
        self._ours: WeakKeyDictionary[Instance, tuple[float, set[tuple[str, int]]]] = WeakKeyDictionary()

    def made_by(self, instance: Instance, ticket: Ticket) -> None:
        """An instance made a ticket; if that is ours, it knows claims too."""
        if not ticket.is_ours:
            return
        since, places = self._ours.get(instance, (0.0, set()))
        if since != instance.since:  # it may have been started again
            places = set()
            self._ours[instance] = (instance.since, places)
        if ticket.made_at is not None and len(places) < _MOST_PLACES:
            places.add(ticket.made_at)

    def answers_at(self, instance: Instance) -> tuple[str, int] | None:
        """Where an instance answers for claims; None: not known, or its ranks do at several places."""
        since, places = self._ours.get(instance, (0.0, set()))
        return next(iter(places)) if since == instance.since and len(places) == 1 else None

    def ticket(self, ticket: Ticket, owner: Instance, headers: RawHeaders, *, shown: bool) -> None:
        """Give a ticket back.

        Args:
            ticket: What nobody will use any more.
            owner: Who made it.
            headers: Of the request that it was made for.
            shown: A decode instance may know of it.
        """
        if ticket.can_go_back:
            to = owner if ticket.is_ours else None
            self._begin(to, _with_rank(headers, ticket.rank) if to else headers, ticket.content, GRACE * shown)

    def claim(self, claim: str, owner: Instance, headers: RawHeaders) -> None:
        """Give back what was prefilled under a claim and whose ticket did not come, if there is such a thing."""
        if owner in self._ours:  # another connector could make no sense of it, and might fail over it
            self._begin(owner, headers, encode({"do_remote_prefill": True, CLAIM_KEY: claim}), GRACE)

    async def settle(self) -> None:
        """The router stops: what is under way is sent at once, and waited for as long as it may take."""
        self._stopping.set()
        if self._running:
            await asyncio.wait(self._running, timeout=2 * RETURN_SECONDS)

    def _begin(self, to: Instance | None, headers: RawHeaders, params: bytes, wait: float) -> None:
        if len(self._running) >= self._most:
            self._metrics.count(ReturnOutcome.DROPPED)
            return
        task = asyncio.create_task(self._give_back(to, headers, params, wait))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _give_back(self, to: Instance | None, headers: RawHeaders, params: bytes, wait: float) -> None:
        outcome, problem = ReturnOutcome.FAILED, "no decode instance is up"
        try:
            if wait:
                await self._pause(wait)
            free = [to] if to is not None else self._decode.free()
            if free:
                outcome, problem = await self._ask(free[0], headers, params)
        except UpstreamError as error:
            problem = str(error)
        finally:
            self._metrics.count(outcome)
        if outcome is ReturnOutcome.FAILED:
            _log.warning("a ticket could not be given back, its cache is kept until the lease ends: %s", problem)

    async def _ask(self, to: Instance, headers: RawHeaders, params: bytes) -> tuple[ReturnOutcome, str]:
        body = b'{"model":"%s","prompt":[0],"max_tokens":1,"kv_transfer_params":%s}' % (NO_MODEL.encode(), params)
        try:
            async with asyncio.timeout(RETURN_SECONDS):
                reply = await self._upstream.ask(to, "POST", _PATH, headers, body, seconds=RETURN_SECONDS)
                await reply.aclose()
        except TimeoutError:
            return ReturnOutcome.FAILED, f"{to} did not answer within {RETURN_SECONDS} s"
        if reply.status == 404:
            return ReturnOutcome.RETURNED, ""
        return ReturnOutcome.FAILED, f"{to} answered {reply.status} where it should know no such model"

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _with_rank(headers: RawHeaders, rank: int | None) -> RawHeaders:
    if rank is None:
        return headers
    return [*(pair for pair in headers if pair[0] != _RANK_HEADER), (_RANK_HEADER, b"%d" % rank)]
