# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which models can be asked for: those that some decode instance has, and then one that has it is asked.

What the instances list is learned when a client asks for the list, and when an instance says that it does not have a
model; nothing is asked of them beside.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING

from .bodies import list_of, members_of, object_of, returned_headers, text_of
from .client import Answer
from .upstream import BrokenError, LateError, UpstreamError

if TYPE_CHECKING:
    from .bodies import PassedBody, RawHeaders, RequestBody
    from .client import Call
    from .config import ProxyConfig
    from .instances import Instance, Pool
    from .upstream import Upstream

# Seconds between two times that the instances are asked because one does not have a model: names are the clients'.
_AGAIN = 1.0


class Models:
    """The lists of the decode instances."""

    def __init__(self, config: ProxyConfig, pool: Pool, upstream: Upstream) -> None:
        self._config = config
        self._pool = pool
        self._upstream = upstream
        self._known: dict[Instance, frozenset[str]] = {}
        self._asked = -_AGAIN
        self._asking: asyncio.Task[object] | None = None

    async def answer(self, headers: RawHeaders, request_id: str) -> Answer | UpstreamError | None:
        """What `GET /v1/models` is answered with: every model that an instance has which takes requests.

        Returns:
            The answer; if no instance gave one, why one did not, or None if none takes requests.
        """
        answers, error = await self._ask_all(headers)
        if not answers:
            return error
        listed = [answer for answer in answers if answer.status == 200]
        first = (listed or answers)[0]
        if len(listed) < 2:
            return Answer(first.status, returned_headers(first.headers, request_id), first.body)
        entries: dict[str, bytes] = {}
        for answer in listed:
            entries = {**_entries(answer.body), **entries}
        body = object_of({**members_of(first.body), "data": b"[%s]" % b",".join(entries.values())})
        return Answer(200, returned_headers(first.headers, request_id), body)

    def lacking(self, body: RequestBody | PassedBody) -> list[Instance]:
        """The instances that do not have the model that is asked for, if another one has it."""
        if len(self._known) < 2 or (model := body.model) is None:
            return []
        having = {instance for instance, models in self._known.items() if model in models}
        if not any(instance.state == "up" for instance in having):
            return []
        return [instance for instance in self._known if instance not in having]

    async def others_have(self, call: Call, instance: Instance, status: int, body: bytes) -> bool:
        """Whether an instance's answer says that it lacks the model, and another instance has it."""
        if len(self._pool) < 2 or not _names_missing_model(status, body) or call.response.begun:
            return False
        if instance not in self.lacking(call.body):
            await self._learn(call.headers)
        return instance in self.lacking(call.body)

    async def _learn(self, headers: RawHeaders) -> None:
        """Have the lists asked for, seldom, and once for all who want to know meanwhile."""
        if self._asking is None:
            now = time.monotonic()
            if now - self._asked < _AGAIN:
                return
            self._asked = now
            self._asking = asyncio.create_task(self._ask_all(headers))
            self._asking.add_done_callback(self._learned)
        await asyncio.shield(self._asking)  # a client that leaves ends it for nobody else

    def _learned(self, _task: asyncio.Task[object]) -> None:
        self._asking = None

    def forget(self) -> None:
        """What was learned may have changed."""
        self._known = {}
        self._asked = -_AGAIN

    async def _ask_all(self, headers: RawHeaders) -> tuple[list[Answer], UpstreamError | None]:
        """The answers of the instances that take requests, and an error of one that gave none."""
        before = self._known
        instances = [instance for instance in self._pool if instance.state == "up"]
        found = await asyncio.gather(*(self._ask(instance, headers) for instance in instances))
        learned = {
            instance: frozenset(_entries(answer.body))
            for instance, answer in zip(instances, found, strict=True)
            if isinstance(answer, Answer) and answer.status == 200
        }
        if self._known is before:  # not forgotten meanwhile; who did not tell this client has what it had
            self._known = {instance: before[instance] for instance in instances if instance in before} | learned
        answers = [answer for answer in found if isinstance(answer, Answer)]
        return answers, next((error for error in found if isinstance(error, UpstreamError)), None)

    async def _ask(self, instance: Instance, headers: RawHeaders) -> Answer | UpstreamError:
        try:
            with instance.held():
                seconds = self._config.health_timeout
                async with asyncio.timeout(seconds):
                    reply = await self._upstream.ask(instance, "GET", "/v1/models", headers, None, seconds=seconds)
                    body = await reply.whole()
        except TimeoutError:
            return LateError(instance, f"did not list its models within {seconds} s")
        except UpstreamError as error:
            return error
        try:
            _entries(body)
        except ValueError:
            if reply.status == 200:
                return BrokenError(instance, "lists its models as nobody can read")
        return Answer(reply.status, reply.headers, body)


def _entries(body: bytes) -> dict[str, bytes]:
    """The models of a list, each as its bytes, by name.

    Raises:
        ValueError: It is none.
    """
    entries = {text_of(members_of(entry).get("id")): entry for entry in list_of(members_of(body).get("data", b"[]"))}
    if None in entries:
        raise ValueError("a model without a name")
    return {name: entry for name, entry in entries.items() if name is not None}


def _names_missing_model(status: int, body: bytes) -> bool:
    """Whether an answer says that the instance does not have the model that was asked for."""
    if status != 404 or b"model" not in body:
        return False
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if not isinstance(error, dict):
        return False
    return (
        error.get("param") == "model" or re.match(r"The model .* does not exist", str(error.get("message"))) is not None
    )
