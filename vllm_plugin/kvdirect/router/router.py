# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router: takes requests within its limits, has each prefilled and decoded, and counts how it ended.

Nothing of a request is kept once it is answered; the counts and the health of the instances are the only state.
"""

from __future__ import annotations

import logging
import re
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from .apis import OTHER, Endpoint, Who, endpoint_of
from .auth import token_matches
from .bodies import Body, PassedBody, RawHeaders, RequestBody, RouterError, forwarded_headers, take_request_id
from .body_budget import BodyBudget
from .client import Answer, Call, ClientResponse, Stop, beside, discard_body, read_body, run_until, until_gone
from .config import CONCURRENT
from .connections import Connections
from .counts import Gauge
from .decode import Attempts, Decode, gave_up, no_decode
from .forms import refuse_transfer_params
from .journal import SILENT, Journal, Journals
from .metrics import RouterMetrics
from .models import Models
from .outcomes import Outcome
from .prefill import Prefill, PrefillResult
from .returns import MOST_RETURNS, Returns
from .upstream import UnreachableError, Upstream, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from starlette.types import Receive, Scope, Send

    from .body_budget import BodyShare
    from .config import ProxyConfig
    from .crew import Crew

_log = logging.getLogger("kvdirect.proxy")
_NOTHING = Endpoint(Who.PASSED, OTHER)
_QUERY = re.compile(r"[\w=&.-]{1,256}", re.ASCII)


class Router:
    """Carries requests through the instances.

    Attributes:
        draining: Set it, and new requests are refused while those that run go on.
        stopping: Set it, and those that run end with an error that says so.
        connections: Those of clients, where the server counts them.
        returns: Tickets that are given back; settled before the application ends.
        journals: What is told of each request; open while the application runs.
    """

    def __init__(self, config: ProxyConfig, crew: Crew) -> None:
        self.config = config
        self.crew = crew
        self.fleet = crew.fleet
        self._in_flight = crew.counts.gauge(Gauge.IN_FLIGHT)
        self.connections = Connections(crew, config.max_connections)
        self.metrics = RouterMetrics(crew.counts, self.fleet, self.connections, lambda: self.in_flight)
        self.upstream = Upstream(config)
        self.journals = Journals(config)
        self.draining = False
        self.stopping = Stop()
        self.bodies = BodyBudget(config.max_bodies_bytes, crew)
        self._worked_on = crew.counts.gauge(Gauge.WORKED_ON)
        self._more_headers = frozenset(name.lower().encode("ascii") for name in config.forward_header)
        self.returns = Returns(self.fleet.decode, self.upstream, self.metrics, MOST_RETURNS // crew.counts.workers)
        self._prefill = Prefill(config, self.fleet.prefill, self.upstream, self.metrics, self.returns)
        self.models = Models(config, self.fleet.decode, self.upstream)
        self._decode = Decode(config, self.fleet.decode, self.upstream, self.metrics, self.models)
        self._begin = self._prefill.begin if config.dispatch == CONCURRENT else self._prefill.run
        self._keys = crew.keys
        if self._keys is not None:
            self.metrics.registry.register(self._keys)

    @property
    def in_flight(self) -> int:
        """Requests taken and not answered, those being refused included: nothing is dropped while one is told so."""
        return int(self._in_flight.total)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what instances answer (an ASGI application)."""
        request = Request(scope, receive)
        endpoint = endpoint_of(scope["path"]) or _NOTHING
        response = ClientResponse(send, "unknown", patience=self.config.idle_timeout, api=endpoint.api)
        started = time.monotonic()
        outcome = Outcome.INTERNAL
        try:
            with self.counted():
                outcome = await self._serve(request, response, endpoint, started)
        except ClientDisconnect:
            outcome = Outcome.CLIENT_GONE
        finally:
            self.metrics.finished(request.scope["path"], outcome, time.monotonic() - started)
        if outcome is Outcome.CLIENT_GONE:
            _log.info("request %s: the client left; whatever it had running is cancelled", response.request_id)

    async def _serve(self, request: Request, response: ClientResponse, endpoint: Endpoint, started: float) -> Outcome:
        """Answer a request, whichever way; raises ClientDisconnect where nobody takes the answer."""
        journal, outcome = SILENT, Outcome.INTERNAL
        try:
            await self._admit(request, response)
            with self.key_of(request), self.bodies.share() as share:
                journal = self.journals.of(request.scope, response.request_id)
                call = await self._read(request, response, endpoint, share, started, journal)
                with self._working():
                    await self.upstream.pace.start()
                    outcome = await self._answer(call, request, endpoint)
        except ClientDisconnect:
            outcome = Outcome.CLIENT_GONE
            raise
        except RouterError as error:
            outcome = error.outcome
            await response.error(error)
        finally:
            journal.finished(outcome, response.status)
        return outcome

    async def _admit(self, request: Request, response: ClientResponse) -> None:
        """Refuse what cannot be taken now, before its body is read."""
        response.request_id = request_id_of(request)
        if endpoint_of(request.scope["path"]) is None:  # what is sent on; `url` leaves out line ends
            text = f"{request.url.path} names nothing that is served here"
            raise RouterError(404, text, outcome=Outcome.REFUSED)
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

    def key_of(self, request: Request) -> AbstractContextManager[None]:
        """While the context is open the request counts as one of its API key's.

        Raises:
            RouterError: It has no key, or has none left to ask for.
        """
        return nullcontext() if self._keys is None else self._keys.request(request.headers.raw)

    def headers_for_instances(
        self, request: Request, request_id: str, *, content_type: bytes = b"application/json"
    ) -> RawHeaders:
        """What an instance is to have of a request's headers; where clients have keys of ours, not those."""
        more = self._more_headers
        headers = forwarded_headers(request.headers.raw, request_id, more, content_type=content_type)
        if self._keys is not None:
            headers = [(name, value) for name, value in headers if name not in {b"authorization", b"x-api-key"}]
            headers += self.instance_key
        return headers

    @property
    def instance_key(self) -> RawHeaders:
        """The header that presents the router's own key to an instance."""
        key = self.config.instance_key
        return [] if key is None else [(b"authorization", b"Bearer " + key.encode("ascii"))]

    def _refuse_if_full(self) -> None:
        if self._worked_on.total >= self.config.max_in_flight:
            text = f"{self.config.max_in_flight} requests are in flight, the router's limit; try again later"
            raise RouterError(429, f"{text} (--max-in-flight)", outcome=Outcome.LIMITED, retry_after=1)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One of the requests that a stop waits for, while the context is open."""
        self._in_flight.add()
        try:
            yield
        finally:
            self._in_flight.add(-1)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One of the requests that count against the limit: those whose bodies are here."""
        self._refuse_if_full()
        self._worked_on.add()
        try:
            yield
        finally:
            self._worked_on.add(-1)

    async def _read(
        self,
        request: Request,
        response: ClientResponse,
        endpoint: Endpoint,
        share: BodyShare,
        started: float,
        journal: Journal,
    ) -> Call:
        """Read the request's body, unless the router is stopped meanwhile."""
        raw = await run_until(
            read_body(request, share, limit=self.config.max_body_bytes, seconds=self.config.body_timeout),
            self.stopping,
        )
        if raw is None:
            raise _stopped()
        try:
            read = endpoint.who in {Who.BOTH, Who.DECODE}
            body = RequestBody(raw, endpoint.api.form) if read else PassedBody(raw)
        except ValueError as error:
            raise RouterError(400, f"the request cannot be read: {error}", outcome=Outcome.REFUSED) from error
        if endpoint.who is Who.STORED or body.previous is not None:
            self._refuse_if_elsewhere()
        content_type = b"application/json"
        if not read:
            content_type = request.headers.get("content-type", "application/json").encode("latin-1")
            if endpoint.takes_forms:
                await refuse_transfer_params(raw, content_type)
        headers = self.headers_for_instances(request, response.request_id, content_type=content_type)
        path = request.scope["path"] + (_query(request) if endpoint.who is Who.STORED else "")
        return Call(path, headers, body, response, started, endpoint.method, journal)

    def _refuse_if_elsewhere(self) -> None:
        """Refuse what only the instance can answer that stored a Response, where there are several."""
        count = len(self.fleet.decode)
        if count > 1:
            text = f"a stored Response is with the engine that made it, and there are {count} decode instances; send "
            text += "the whole conversation as input, with store false"
            raise RouterError(400, text, outcome=Outcome.REFUSED)

    async def _answer(self, call: Call, request: Request, endpoint: Endpoint) -> Outcome:
        """Carry the request until it is answered, the client leaves, or the router is stopped."""
        first = None if endpoint.who in {Who.BOTH, Who.DECODE} else PrefillResult()
        outcome = await run_until(self._carry(call, first), self.stopping, until_gone(request.receive))
        if outcome is None and self.stopping.is_set():
            raise _stopped()
        return outcome or Outcome.CLIENT_GONE

    async def _carry(self, call: Call, prefill: PrefillResult | None) -> Outcome:
        """Prefill, unless there is nothing to, then decode, and again as far as the client has nothing yet."""
        attempts = Attempts()
        try:
            while True:
                attempts.lacking = self.models.lacking(call.body)
                instance = self._decode.pick(attempts)
                with instance.held():  # before the prefill, so that none is spent on a request nobody can decode
                    if prefill is None:
                        prefill = await self._begin(call)
                    try:
                        answering = self._decode.run(instance, call, prefill, attempts)
                        outcome = await beside(prefill.leg, answering, call.response)
                        if outcome is not None:
                            return outcome
                        prefill.close()
                        prefill = PrefillResult()
                    except UpstreamError as error:
                        prefill = self._decode.after(error, instance, call, prefill, attempts)
        finally:
            if prefill is not None:
                prefill.close()

    async def list_models(self, request: Request, request_id: str) -> Answer:
        """The models that can be asked for.

        Raises:
            RouterError: No instance could tell, or the client has no key.
        """
        self._keep_token(request)
        with self.counted(), self.key_of(request), self._working():
            answer = await self.models.answer(self.headers_for_instances(request, request_id), request_id)
        if isinstance(answer, Answer):
            return answer
        if answer is None or isinstance(answer, UnreachableError):
            raise no_decode(self.fleet.decode, self.config) from answer
        raise gave_up(answer) from answer

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


def _query(request: Request) -> str:
    """What an instance is to have of a query."""
    query = request.url.query
    if not query:
        return ""
    if not _QUERY.fullmatch(query):
        text = "the query cannot be passed on; expected stream and starting_after"
        raise RouterError(400, text, outcome=Outcome.REFUSED)
    return f"?{query}"


def _stopped() -> RouterError:
    text = "the router is stopping; send the request again"
    return RouterError(503, text, outcome=Outcome.STOPPING, retry_after=1, close=True)
