# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router: takes requests within its limits, has each prefilled and decoded, and counts how it ended.

Nothing of a request is kept once it is answered; the counts and the health of the instances are the only state.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from .auth import token_matches
from .bodies import Body, RequestBody, RouterError, forwarded_headers, returned_headers, take_request_id
from .body_budget import BodyBudget
from .client import Answer, Call, ClientResponse, Stop, discard_body, read_body, run_until, until_gone
from .connections import Connections
from .decode import Attempts, Decode, gave_up, no_decode
from .fleet import Fleet
from .metrics import RouterMetrics
from .outcomes import Outcome
from .prefill import Prefill, PrefillResult
from .returns import Returns
from .upstream import UnreachableError, Upstream, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from .body_budget import BodyShare
    from .config import ProxyConfig
    from .instances import Instance

_log = logging.getLogger("kvdirect.proxy")


class Router:
    """Carries requests through the instances.

    Attributes:
        in_flight: Requests taken and not answered, those that are being refused included: nothing is dropped while one
            is told so.
        draining: Set it, and new requests are refused while those that run go on.
        stopping: Set it, and those that run end with an error that says so.
        connections: Those of clients, where the server counts them.
        returns: Tickets that are given back; settled before the application ends.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.fleet = Fleet(config)
        self.in_flight = 0
        self.connections = Connections(config.max_connections)
        self.metrics = RouterMetrics(self.fleet, self.connections, lambda: self.in_flight)
        self.upstream = Upstream(config)
        self.draining = False
        self.stopping = Stop()
        self._bodies = BodyBudget(config.max_bodies_bytes)
        self._worked_on = 0
        self._more_headers = frozenset(name.lower().encode("ascii") for name in config.forward_header)
        self.returns = Returns(self.fleet.decode, self.upstream, self.metrics)
        self._prefill = Prefill(config, self.fleet.prefill, self.upstream, self.metrics, self.returns)
        self._decode = Decode(config, self.fleet.decode, self.upstream, self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one completion or chat completion (an ASGI application)."""
        request = Request(scope, receive)
        response = ClientResponse(send, "unknown", patience=self.config.idle_timeout)
        started = time.monotonic()
        outcome = Outcome.INTERNAL
        self.in_flight += 1
        try:
            await self._admit(request, response)
            with self._bodies.share() as share:
                call = await self._read(request, response, share, started)
                with self._working():
                    outcome = await self._answer(call, request)
        except ClientDisconnect:
            outcome = Outcome.CLIENT_GONE
        except RouterError as error:
            outcome = error.outcome
            await response.error(error)
        finally:
            self.in_flight -= 1
            self.metrics.finished(request.scope["path"], outcome, time.monotonic() - started)
        if outcome is Outcome.CLIENT_GONE:
            _log.info("request %s: the client left; whatever it had running is cancelled", response.request_id)

    async def _admit(self, request: Request, response: ClientResponse) -> None:
        """Refuse what cannot be taken now, before its body is read."""
        response.request_id = request_id_of(request)
        if self.draining:
            await discard_body(request)
            text = "the router is stopping and takes no new requests; send it to another one, or again later"
            raise RouterError(503, text, outcome=Outcome.STOPPING, retry_after=1, close=True)
        self._keep_token(request)
        self._refuse_if_full()

    def _keep_token(self, request: Request) -> None:
        """Refuse what presents our own token: it would go to an instance as any other key."""
        token = self.config.admin_token
        given = [value for key, value in request.headers.raw if key == b"authorization"]
        if token is not None and any(token_matches(token, value) for value in given):
            text = "this is the router's admin token, which no instance may see; present the engines' API key here"
            raise RouterError(403, text, outcome=Outcome.REFUSED)

    def _refuse_if_full(self) -> None:
        if self._worked_on >= self.config.max_in_flight:
            text = f"{self.config.max_in_flight} requests are in flight, the router's limit; try again later"
            raise RouterError(429, f"{text} (--max-in-flight)", outcome=Outcome.LIMITED, retry_after=1)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One of the requests that count against the limit: those whose bodies are here."""
        self._refuse_if_full()
        self._worked_on += 1
        try:
            yield
        finally:
            self._worked_on -= 1

    async def _read(self, request: Request, response: ClientResponse, share: BodyShare, started: float) -> Call:
        """Read the request's body, unless the router is stopped meanwhile."""
        raw = await run_until(
            read_body(request, share, limit=self.config.max_body_bytes, seconds=self.config.body_timeout),
            self.stopping,
        )
        if raw is None:
            raise _stopped()
        try:
            body = RequestBody(raw)
        except ValueError as error:
            raise RouterError(400, f"the request cannot be read: {error}", outcome=Outcome.REFUSED) from error
        headers = forwarded_headers(request.headers.raw, response.request_id, self._more_headers)
        return Call(request.scope["path"], headers, body, response, started)

    async def _answer(self, call: Call, request: Request) -> Outcome:
        """Carry the request until it is answered, the client leaves, or the router is stopped."""
        outcome = await run_until(self._carry(call), self.stopping, until_gone(request.receive))
        if outcome is None and self.stopping.is_set():
            raise _stopped()
        return outcome or Outcome.CLIENT_GONE

    async def _carry(self, call: Call) -> Outcome:
        """Prefill, then decode, and again as far as the client has nothing yet."""
        attempts = Attempts()
        prefill: PrefillResult | None = None
        try:
            while True:
                instance = self._decode.pick(attempts)
                with instance.held():  # before the prefill, so that none is spent on a request nobody can decode
                    if prefill is None:
                        prefill = await self._prefill.run(call)
                    try:
                        return await self._decode.run(instance, call, prefill, attempts)
                    except UpstreamError as error:
                        prefill = self._decode.after(error, instance, call, prefill, attempts)
        finally:
            if prefill is not None:
                prefill.close()

    async def models(self, request: Request, request_id: str) -> Answer:
        """The models of a decode instance, which is the one that answers.

        Raises:
            RouterError: None did.
        """
        self._keep_token(request)
        headers = forwarded_headers(request.headers.raw, request_id, self._more_headers)
        limit = self.config.health_timeout
        tried: list[Instance] = []
        last: UpstreamError | None = None
        while instance := next(iter(self.fleet.decode.free(tried)), None):
            tried.append(instance)
            try:
                with instance.held():
                    reply = await self.upstream.ask(instance, "GET", "/v1/models", headers, None, seconds=limit)
                    body = await reply.whole()
            except UpstreamError as error:
                last = error
            else:
                return Answer(reply.status, returned_headers(reply.headers, request_id), body)
        if last is None or isinstance(last, UnreachableError):
            raise no_decode(self.fleet.decode, self.config) from last
        raise gave_up(last) from last

    @property
    def status(self) -> str:
        """`ok`, `degraded` (decode prefills for itself), `unavailable` (nobody decodes), or `draining`."""
        if self.draining:
            return "draining"
        if not self.fleet.decode.up:
            return "unavailable"
        return "ok" if self.fleet.prefill.up else "degraded"

    def describe(self) -> Body:
        """What `/status` answers with."""
        return {
            "status": self.status,
            "in_flight": self.in_flight,
            "connections": {"open": len(self.connections), "turned_away": self.connections.refused},
            "instances": [instance.describe() for instance in self.fleet],
            "counters": self.metrics.counts,
        }


def request_id_of(request: Request) -> str:
    """The request's id, the client's or a new one.

    Raises:
        RouterError: The client's cannot be passed on.
    """
    try:
        return take_request_id(request.headers.raw)
    except ValueError as error:
        raise RouterError(400, str(error), outcome=Outcome.REFUSED) from error


def _stopped() -> RouterError:
    text = "the router is stopping; send the request again"
    return RouterError(503, text, outcome=Outcome.STOPPING, retry_after=1, close=True)
