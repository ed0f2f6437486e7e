# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The engines behind the router: which of them are healthy, and whose turn it is."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvdirect.proxy_config import ProxyConfig

Role = Literal["prefill", "decode"]

_log = logging.getLogger("kvdirect.proxy")


def describe_failure(exc: BaseException) -> str:
    """Name a transport failure; httpx leaves the text of some empty."""
    text = str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


class Instance:
    """One engine and what its last checks said. Out until its first good check."""

    def __init__(self, role: Role, url: str) -> None:
        self.role = role
        self.url = url
        self.healthy = False
        self.error = "not checked yet"
        self._failures = 0
        self._since = time.monotonic()

    def __str__(self) -> str:
        return f"{self.role} instance {self.url}"

    def passed(self) -> None:
        """A check succeeded: the instance is in."""
        self._failures = 0
        self.error = ""
        if not self.healthy:
            self._turn(healthy=True)
            _log.info("%s is healthy", self)

    def failed(self, error: str, *, tolerated: int = 0) -> None:
        """A check or a connection failed; with more than `tolerated` in a row the instance is out."""
        self._failures += 1
        self.error = error
        if self.healthy and self._failures > tolerated:
            self._turn(healthy=False)
            _log.warning("%s is taken out: %s; it comes back with the next good health check", self, error)

    def _turn(self, *, healthy: bool) -> None:
        self.healthy = healthy
        self._since = time.monotonic()

    def state(self) -> dict[str, object]:
        """What `/health` shows of it; `seconds` is how long it has been in or out."""
        seconds = round(time.monotonic() - self._since, 3)
        return {"url": self.url, "healthy": self.healthy, "seconds": seconds, "error": self.error}


class Pool:
    """The instances of one role, taken in turn."""

    def __init__(self, role: Role, urls: Sequence[str]) -> None:
        self.role = role
        self.instances = tuple(Instance(role, url) for url in urls)
        self._next = 0

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances)

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def healthy(self) -> int:
        """How many instances are in."""
        return sum(instance.healthy for instance in self.instances)

    def pick(self) -> Instance | None:
        """The next healthy instance, or None."""
        for step in range(len(self.instances)):
            index = (self._next + step) % len(self.instances)
            if self.instances[index].healthy:
                self._next = index + 1
                return self.instances[index]
        return None

    def why_none(self) -> str:
        """For an error: each instance and why it is out."""
        return "; ".join(f"{instance.url}: {instance.error or 'healthy again just now'}" for instance in self.instances)


async def _check(client: httpx.AsyncClient, instance: Instance, config: "ProxyConfig") -> None:
    tolerated = config.health_failures - 1
    try:
        async with asyncio.timeout(config.health_timeout):
            answer = await client.get(f"{instance.url}/health", timeout=None)
    except TimeoutError:
        instance.failed(f"no answer to /health within {config.health_timeout} s", tolerated=tolerated)
    except (httpx.RequestError, httpx.InvalidURL) as exc:
        instance.failed(describe_failure(exc), tolerated=tolerated)
    else:
        if answer.is_success:
            instance.passed()
        else:
            instance.failed(f"/health answered {answer.status_code}", tolerated=tolerated)


async def _watch(client: httpx.AsyncClient, instance: Instance, config: "ProxyConfig") -> None:
    while True:
        await asyncio.sleep(config.health_interval)
        await _check(client, instance, config)


@asynccontextmanager
async def watched(client: httpx.AsyncClient, pools: Sequence[Pool], config: "ProxyConfig") -> "AsyncIterator[None]":
    """Check every instance once, then keep checking them in the background while the context is open."""
    instances = [instance for pool in pools for instance in pool]
    await asyncio.gather(*(_check(client, instance, config) for instance in instances))
    for instance in instances:
        if not instance.healthy:
            _log.warning("%s is not healthy yet: %s", instance, instance.error)
    tasks = [asyncio.create_task(_watch(client, instance, config)) for instance in instances]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
