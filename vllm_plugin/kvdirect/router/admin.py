# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The admin calls: instances join, leave and drain at run time, for whoever presents the admin token."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kvdirect.log import SeldomLog
from kvdirect.parties import party_of

from .auth import token_matches
from .bodies import Body, RouterError, error_object, parse_object
from .body_budget import BodyBudget
from .channel import ChannelError
from .client import read_body
from .config import checked_url
from .fleet import Fleet, FleetFullError, RoleError
from .instances import ROLES, Instance, Role
from .origin import Origin
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .config import ProxyConfig

T = TypeVar("T")
_Handler = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger("kvdirect.proxy")
_MAX_BODY_BYTES = 16384
_MAX_BODIES_BYTES = 1 << 20
# A wrong token is answered so many seconds later, to so many of an address's calls at a time: others are not looked at.
WRONG_TOKEN_SECONDS = 0.2
MOST_WRONG_TOKENS = 4


class Admin:
    """Serves `/admin/instances`. Nothing of a call is looked at before its token was."""

    def __init__(self, fleet: Fleet, config: ProxyConfig, changed: Callable[[Role], object] = bool) -> None:
        """Serve that fleet; `changed` is called with the new role of each instance that has changed."""
        self._fleet = fleet
        self._changed = changed
        self._config = config
        self._bodies = BodyBudget(_MAX_BODIES_BYTES)
        self._most_wrong = max(1, MOST_WRONG_TOKENS // config.workers)  # each worker counts for itself
        self._wrong: Counter[str] = Counter()  # answers held back, by who gets them
        self._log = SeldomLog(_log)

    def routes(self) -> list[Route]:
        """The routes of the application."""
        return [
            Route("/admin/instances", self.guarded(self._list), methods=["GET"]),
            Route("/admin/instances", self.guarded(self._join), methods=["POST"]),
            Route("/admin/instances", self.guarded(self._leave), methods=["DELETE"]),
            Route("/admin/instances/drain", self.guarded(self._drain), methods=["POST"]),
            Route("/admin/instances/role", self.guarded(self._change), methods=["POST"]),
        ]

    def guarded(self, handler: _Handler) -> _Handler:
        """A handler whose calls must present the token."""

        async def guarded(request: Request) -> Response:
            try:
                await self._authorize(request)
                return await handler(request)
            except RouterError as error:
                headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(error.status)
                content = error_object(error.status, error.message)
                return JSONResponse(content, status_code=error.status, headers=headers)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return guarded

    async def _authorize(self, request: Request) -> None:
        expected = self._config.admin_token
        if expected is None:
            raise _refused(403, "admin calls are off: start the router with --admin-token-file to allow them")
        client = request.client.host if request.client else "unknown"
        guesser = party_of(client)
        if self._wrong[guesser] >= self._most_wrong:
            raise _refused(429, "too many calls with a wrong admin token come from your address; try again later")
        given = next((value for key, value in request.headers.raw if key == b"authorization"), b"")
        if token_matches(expected, given):
            return
        self._log.warning("admin call %s %s from %s without the right token", request.method, request.url.path, client)
        self._wrong[guesser] += 1
        try:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
        finally:
            self._wrong -= Counter({guesser: 1})  # none is kept at 0
        raise _refused(401, "expected the admin token in the header Authorization: Bearer TOKEN")

    async def _kept(self, change: Coroutine[object, object, T]) -> T:
        """What a change of the fleet returns, which the router's keeper has to know of."""
        try:
            return await change
        except ChannelError as error:
            text = f"the router's other processes did not take it: {error}; look at the list, and try again"
            raise RouterError(503, text, outcome=Outcome.FAILED) from error

    async def _list(self, _request: Request) -> Response:
        return self._answer(list(self._fleet))

    async def _join(self, request: Request) -> Response:
        body = await self._body(request, {"url", "role"})
        role = _role(body.get("role"))
        url = _url(role, body.get("url"))
        try:
            instance, new = await self._kept(self._fleet.join(role, url))
        except FleetFullError as error:
            raise _refused(409, str(error)) from error
        return self._answer([instance], status=201 if new else 200)

    async def _leave(self, request: Request) -> Response:
        query = request.query_params
        unknown = sorted(set(query) - {"url", "role"})
        if unknown:
            raise _refused(400, f"unknown parameter {unknown[0]!r}; url and role are known")
        instances = self._named(query.get("url"), query.get("role"))
        for instance in instances:
            await self._kept(self._fleet.leave(instance))
        return self._answer(instances)

    async def _drain(self, request: Request) -> Response:
        body = await self._body(request, {"url", "role", "remove"})
        remove = body.get("remove", True)
        if not isinstance(remove, bool):
            raise _refused(400, f"remove is {remove!r}; expected true or false")
        instances = self._named(body.get("url"), body.get("role"))
        for instance in instances:
            await self._kept(self._fleet.drain(instance, remove=remove))
        return self._answer(instances, status=202)

    async def _change(self, request: Request) -> Response:
        body = await self._body(request, {"url", "role"})
        role = _role(body.get("role"))
        url = _url(role, body.get("url"))
        if not self._fleet.find(url):
            raise _refused(404, f"no instance {url} is known; GET /admin/instances lists those that are")
        try:
            changed = await self._kept(self._fleet.change(url, role))
        except (RoleError, FleetFullError) as error:
            raise _refused(409, str(error)) from error
        if len(changed) > 1:
            self._changed(role)
        return self._answer(changed)

    async def _body(self, request: Request, known: set[str]) -> Body:
        raw = await self.raw_body(request)
        try:
            body = parse_object(raw)
        except ValueError as error:
            raise _refused(400, f"the request cannot be read: {error}") from error
        unknown = sorted(set(body) - known)
        if unknown:
            raise _refused(400, f"unknown key {unknown[0]!r}; {', '.join(sorted(known))} are known")
        return body

    async def raw_body(self, request: Request) -> bytes:
        """The body of a call, within the bounds of these."""
        with self._bodies.share() as share:
            return await read_body(request, share, limit=_MAX_BODY_BYTES, seconds=self._config.body_timeout)

    def _named(self, url: object, role: object) -> list[Instance]:
        """The instances that a call names; without a role, in both."""
        chosen = None if role is None else _role(role)
        wanted = _url(chosen or "instance", url)
        found = self._fleet.find(wanted, chosen)
        if not found:
            what = f"{chosen} instance" if chosen else "instance"
            raise _refused(404, f"no {what} {wanted} is known; GET /admin/instances lists those that are")
        return found

    def _answer(self, instances: list[Instance], *, status: int = 200) -> Response:
        return JSONResponse({"instances": [instance.describe() for instance in instances]}, status_code=status)


def _refused(status: int, message: str) -> RouterError:
    return RouterError(status, message, outcome=Outcome.REFUSED)


def _role(value: object) -> Role:
    for role in ROLES:
        if value == role:
            return role
    raise _refused(400, f"role is {value!r}; expected 'prefill' or 'decode'")


def _url(role: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refused(400, f"url is {value!r}; expected a base URL such as http://127.0.0.1:8100")
    try:
        url = checked_url(role, value)
        Origin.of(url)
    except ValueError as error:  # ProxyConfigError is one
        raise _refused(400, str(error)) from error
    return url
