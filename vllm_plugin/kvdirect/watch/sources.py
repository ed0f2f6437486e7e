# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Asks a router and its engines how they are; what they answer, and how slowly, takes bounded time and memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Self

import httpx
import msgspec

from kvdirect.errors import WireError
from kvdirect.router.config import ProxyConfigError, checked_url

from .samples import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_MOST_BYTES = 8 << 20  # of one answer
MOST_ENGINES = 64  # asked at once

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Instance(msgspec.Struct):
    """An instance, as `/status` has it."""

    role: str
    url: str
    state: str
    seconds: float
    error: str
    in_flight: Count
    caches: Count
    requests: Count
    failures: Count


class Status(msgspec.Struct):
    """What we need of `/status`."""

    status: str
    in_flight: Count
    instances: Annotated[list[Instance], msgspec.Meta(max_length=4096)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one of them said: a scrape, or why there is none."""

    samples: Samples | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What all of them said at one time.

    Attributes:
        when: Seconds on the monotonic clock.
        status: The router's; None if it did not answer.
        router: The router's metrics.
        engines: By URL.
        left_out: Engines that were not asked, because there are too many.
    """

    when: float
    status: Status | None
    router: Answer
    engines: dict[str, Answer] = field(default_factory=dict)
    left_out: int = 0


class Sources:
    """Where to ask. Engines are those given, else those that the router names, as it named them last."""

    def __init__(self, router: str, engines: Sequence[str], seconds: float) -> None:
        """Ask these.

        Args:
            router: Base URL.
            engines: Base URLs; none: the router's.
            seconds: That one answer may take.
        """
        self.router = router
        self._given = tuple(engines)
        self._named: tuple[str, ...] = ()
        self._seconds = seconds
        self._client = httpx.AsyncClient(
            trust_env=False,
            timeout=seconds,
            headers={"accept-encoding": "identity", "user-agent": "kvdirect top"},  # nothing is unpacked
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def read(self) -> Reading:
        """Ask all of them, at the same time but for engines that the router has yet to name."""
        when = time.monotonic()
        if not self._given and not self._named:
            status, error = await self._status()
            self._name(status)
            router, *engines = await self._scrapes()
        else:
            (status, error), (router, *engines) = await asyncio.gather(self._status(), self._scrapes())
        asked = self._asked()
        reading = Reading(
            when,
            status,
            Answer(error=error) if error else router,
            dict(zip(asked, engines, strict=True)),
            max(0, len(self._given or self._named) - len(asked)),
        )
        self._name(status)
        return reading

    def _asked(self) -> tuple[str, ...]:
        return (self._given or self._named)[:MOST_ENGINES]

    def _name(self, status: Status | None) -> None:
        """Remember the engines that the router names; one that is gone leaves them known."""
        if status is not None:
            self._named = tuple(dict.fromkeys(url for one in status.instances if (url := _usable(one.url))))

    async def _status(self) -> tuple[Status | None, str]:
        try:
            return msgspec.json.decode(await self._get(f"{self.router}/status"), type=Status), ""
        except (WireError, msgspec.DecodeError, ValueError, RecursionError) as error:
            return None, f"/status: {error}" if not isinstance(error, WireError) else str(error)

    async def _scrapes(self) -> list[Answer]:
        return await asyncio.gather(*(self._scrape(url) for url in (self.router, *self._asked())))

    async def _scrape(self, url: str) -> Answer:
        try:
            return Answer(Samples.parse(await self._get(f"{url}/metrics")))
        except WireError as error:
            return Answer(error=str(error))

    async def _get(self, url: str) -> bytes:
        """The body of an answer 200.

        Raises:
            WireError: There is none, in time and not too large.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds), self._client.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise WireError(f"it answered {answer.status_code}")
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise WireError(f"its answer is larger than {_MOST_BYTES >> 20} MiB")
        except TimeoutError:
            raise WireError(f"no answer within {self._seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WireError(f"no answer: {error or type(error).__name__}") from error
        return bytes(body)


def _usable(url: str) -> str:
    try:
        return checked_url("instance", url)
    except ProxyConfigError:
        return ""
