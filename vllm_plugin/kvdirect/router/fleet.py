# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The fleet: instances that join, leave and drain while the router runs, each watched by its own health check."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .exchange import ExchangeError
from .http_client import Client, ConnectError
from .instances import ROLES, Instance, Pool, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .config import ProxyConfig
    from .counts import CountTable

_log = logging.getLogger("kvdirect.proxy")
_HEALTH_BYTES = 4096
# Seconds between two looks at whether what drains has anything left: of other processes' requests nobody hears.
_LOOK_EVERY = 0.02


class FleetFullError(Exception):
    """No further instance can join; the message names the limit."""


class RoleError(Exception):
    """An instance cannot change its role now; the message says why."""


class Fleet:
    """The instances of both roles. Every method runs on the event loop."""

    def __init__(self, config: ProxyConfig, counts: CountTable) -> None:
        self._config = config
        self._counts = counts
        limit = config.max_in_flight_per_instance
        self.prefill = Pool("prefill", limit=limit)
        self.decode = Pool("decode", limit=limit)
        self._client: Client | None = None
        self._watchers: dict[Instance, asyncio.Task[None]] = {}
        self._drains: dict[Instance, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Instance]:
        yield from self.prefill
        yield from self.decode

    def pool(self, role: Role) -> Pool:
        """The instances of one role."""
        return self.prefill if role == "prefill" else self.decode

    def find(self, url: str, role: Role | None = None) -> list[Instance]:
        """The instances at a URL: of one role, or of either."""
        roles = ROLES if role is None else (role,)
        return [instance for each in roles for instance in self.pool(each) if instance.url == url]

    async def join(self, role: Role, url: str) -> tuple[Instance, bool]:
        """Add an instance and check it once; one that is there already stays, and takes requests again if it drained.

        Args:
            role: What it does.
            url: Its base URL, as `checked_url` returns it.

        Returns:
            The instance, and whether it is new.

        Raises:
            FleetFullError: There are `max_instances` already.
        """
        known = self.find(url, role)
        if known:
            instance = known[0]
            instance.resume()
            self._forget_drain(instance)
        else:
            count = sum(1 for _ in self)
            if count >= self._config.max_instances:
                raise FleetFullError(
                    f"{count} instances are known, and that is the limit (--max-instances); let one leave first"
                )
            instance = self._add(role, url)
            self._watch(instance)
        await self._check(instance)
        await self.spread()
        _log.info("%s %s; it is %s", instance, "was there already" if known else "joined", instance.state)
        return instance, not known

    async def leave(self, instance: Instance) -> None:
        """Give the instance nothing more and forget it; what it has in flight still finishes."""
        pool = self.pool(instance.role)
        if instance in pool.instances:
            pool.instances.remove(instance)
            instance.drain()
            _log.info("%s left with %d requests in flight", instance, instance.in_flight)
        watcher = self._watchers.pop(instance, None)
        if watcher is not None:
            watcher.cancel()
        self._forget_drain(instance)
        await self.spread()

    async def spread(self) -> None:
        """Have everybody know who is there: nobody else needs to where one process serves."""

    async def drain(self, instance: Instance, *, remove: bool) -> None:
        """Give the instance no new requests; with `remove` it leaves as soon as nothing is left on it."""
        _log.info("%s drains: %d in flight, %d caches", instance, instance.in_flight, instance.caches)
        instance.drain()
        self._forget_drain(instance)
        await self.spread()
        if remove and instance.idle:
            await self.leave(instance)
        elif remove:
            self._drains[instance] = asyncio.create_task(self._leave_when_idle(instance))

    async def change(self, url: str, role: Role) -> list[Instance]:
        """Have the instance at a URL take requests of this role, and no more of the other one; it ends what it has.

        Returns:
            It in the new role, and in the old one, which leaves when nothing is left of it; only the first where it
            had the new role alone.

        Raises:
            RoleError: No instance is known there, it is not healthy, or nobody else decodes.
            FleetFullError: As `join`.
        """
        if not self.find(url):
            raise RoleError(f"no instance {url} is known; let it join first")
        old = [one for one in self.find(url) if one.role != role]
        if role == "prefill" and not any(one.state == "up" for one in self.decode if one.url != url):
            raise RoleError(f"{url} is the last decode instance that is up; without one no request is answered")
        instance, new = await self.join(role, url)
        if instance.state != "up":
            why = instance.error or instance.state
            if new:
                await self.leave(instance)
            raise RoleError(f"{url} is not up: {why}")
        for one in old:
            await self.drain(one, remove=True)
        _log.info("%s has changed its role: it was %s", instance, ", ".join(one.role for one in old) or "that before")
        return [instance, *old]

    async def _leave_when_idle(self, instance: Instance) -> None:
        while not instance.idle:  # noqa: ASYNC110 (other processes set no event)
            await asyncio.sleep(_LOOK_EVERY)
        del self._drains[instance]
        await self.leave(instance)

    def _forget_drain(self, instance: Instance) -> None:
        task = self._drains.pop(instance, None)
        if task is not None:
            task.cancel()

    def _add(self, role: Role, url: str) -> Instance:
        taken = {instance.place for instance in self}
        for place in range(self._counts.instances):
            if place not in taken:
                instance = Instance(role, url, self._counts, place)
                if instance.idle:  # else what another one there left behind has not ended
                    instance.clear_counts()
                    self.pool(role).instances.append(instance)
                    return instance
        raise FleetFullError("too many instances have left whose requests have not ended; try again later")

    def begin(self) -> None:
        """Have the instances that the settings name."""
        for role in ROLES:
            for url in getattr(self._config, role):
                self._add(role, url)

    @asynccontextmanager
    async def watched(self, client: Client) -> AsyncIterator[None]:
        """Check every instance once, then keep checking them in the background while the context is open."""
        self._client = client
        await asyncio.gather(*(self._check(instance) for instance in self))
        for instance in self:
            if not instance.healthy:
                _log.warning("%s is not healthy yet: %s", instance, instance.error)
            self._watch(instance)
        try:
            yield
        finally:
            self._client = None
            watchers = [*self._watchers.values(), *self._drains.values()]
            self._watchers.clear()
            self._drains.clear()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    def _watch(self, instance: Instance) -> None:
        soon = asyncio.Event()
        instance.on_suspicion = soon.set
        self._watchers[instance] = asyncio.create_task(self._keep_checking(instance, soon))

    async def _keep_checking(self, instance: Instance, soon: asyncio.Event) -> None:
        while True:
            try:
                async with asyncio.timeout(self._config.health_interval):
                    await soon.wait()
            except TimeoutError:
                pass
            soon.clear()
            await self._check(instance)

    async def _check(self, instance: Instance) -> None:
        if self._client is None:
            return
        config = self._config
        tolerated = config.health_failures - 1
        try:
            async with asyncio.timeout(config.health_timeout):
                status = await _health(self._client, instance.url, config.connect_timeout)
        except TimeoutError:
            instance.failed(f"no answer to /health within {config.health_timeout} s", tolerated=tolerated)
        except ConnectError as error:  # nobody listens there: no need to ask twice
            instance.failed(str(error))
        except (ExchangeError, ValueError) as error:
            instance.failed(str(error), tolerated=tolerated)
        else:
            if 200 <= status < 300:
                instance.passed()
            else:
                instance.failed(f"/health answered {status}", tolerated=tolerated)


async def _health(client: Client, url: str, connect_seconds: float) -> int:
    """The status of a health check, of which nothing else counts: little is read, and nothing unpacked."""
    headers = [(b"accept-encoding", b"identity")]
    exchange = await client.send("GET", url, "/health", headers, None, connect_seconds=connect_seconds)
    try:
        left = _HEALTH_BYTES  # where it is short the connection can be used again
        while left >= 0 and (part := await exchange.part()):
            left -= len(part)
    finally:
        exchange.close()
    return exchange.status
