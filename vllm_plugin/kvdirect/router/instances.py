# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The engines behind the router: which of them are in, how much each has to do, and which one is next."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterator, Sequence

Role = Literal["prefill", "decode"]
State = Literal["up", "down", "draining", "drained"]
ROLES: tuple[Role, ...] = ("prefill", "decode")
STATES: tuple[State, ...] = ("up", "down", "draining", "drained")

_log = logging.getLogger("kvdirect.proxy")


class Instance:
    """One engine in one role: what its last checks said and what it is busy with. Out until its first good check."""

    def __init__(self, role: Role, url: str) -> None:
        self.role = role
        self.url = url
        self.healthy = False
        self.draining = False
        self.error = "not checked yet"
        self.in_flight = 0  # requests it works on
        self.caches = 0  # prefill: caches it keeps for a decode instance that has not answered yet
        self.taken = 0  # requests it was given
        self.failures = 0  # of those, how many it did not answer or answered 5xx
        self.on_drained: Callable[[Instance], None] | None = None
        self.check_soon: asyncio.Event | None = None  # wakes whoever watches its health
        self._failed_in_row = 0
        self._since = time.monotonic()

    def __str__(self) -> str:
        return f"{self.role} instance {self.url}"

    @property
    def idle(self) -> bool:
        """Whether nothing is lost if it stops now."""
        return self.in_flight == 0 and self.caches == 0

    @property
    def state(self) -> State:
        """`up` takes requests, `down` failed its checks, `draining` takes no new ones, `drained` has none left."""
        if self.draining:
            return "drained" if self.idle else "draining"
        return "up" if self.healthy else "down"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Count a request as in flight on this instance while the context is open, however it ends."""
        self.in_flight += 1
        self.taken += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._settle()

    def keep_cache(self) -> None:
        """A cache here is wanted by a decode instance; `release_cache` must follow."""
        self.caches += 1

    def release_cache(self) -> None:
        """That cache is wanted no more."""
        self.caches -= 1
        self._settle()

    def drain(self, on_drained: Callable[[Instance], None] | None) -> None:
        """Take no new requests; call `on_drained` once nothing is left, which may be now."""
        if not self.draining:
            self.draining = True
            self._since = time.monotonic()
        self.on_drained = on_drained
        self._settle()

    def resume(self) -> None:
        """Take requests again."""
        if self.draining:
            self.draining = False
            self.on_drained = None
            self._since = time.monotonic()

    def passed(self) -> None:
        """A check succeeded: the instance is in."""
        self._failed_in_row = 0
        self.error = ""
        if not self.healthy:
            self._turn(healthy=True)
            _log.info("%s is healthy", self)

    def failed(self, error: str, *, tolerated: int = 0) -> None:
        """A check or a connection failed; with more than `tolerated` in a row the instance is out."""
        self._failed_in_row += 1
        self.error = error
        if self.healthy and self._failed_in_row > tolerated:
            self._turn(healthy=False)
            _log.warning("%s is taken out: %s; it comes back with the next good health check", self, error)

    def record_failure(self, *, suspect: bool = False) -> None:
        """A request that it was given failed; with `suspect` it may have died, and its health is checked at once."""
        self.failures += 1
        if suspect and self.check_soon is not None:
            self.check_soon.set()

    def describe(self) -> dict[str, object]:
        """What `/status` shows of it; `seconds` is how long it has been in this state."""
        return {
            "role": self.role,
            "url": self.url,
            "state": self.state,
            "healthy": self.healthy,
            "seconds": round(time.monotonic() - self._since, 3),
            "error": self.error,
            "in_flight": self.in_flight,
            "caches": self.caches,
            "requests": self.taken,
            "failures": self.failures,
        }

    def _turn(self, *, healthy: bool) -> None:
        self.healthy = healthy
        self._since = time.monotonic()

    def _settle(self) -> None:
        if self.draining and self.idle and self.on_drained is not None:
            done, self.on_drained = self.on_drained, None
            done(self)


class Pool:
    """The instances of one role; the least loaded is next."""

    def __init__(self, role: Role, urls: Sequence[str], *, limit: int) -> None:
        self.role = role
        self.instances = [Instance(role, url) for url in urls]
        self._limit = limit
        self._turn = 0

    def __iter__(self) -> Iterator[Instance]:
        return iter(tuple(self.instances))

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def up(self) -> int:
        """How many instances take requests."""
        return sum(instance.state == "up" for instance in self.instances)

    def free(self, avoid: Collection[Instance] = ()) -> list[Instance]:
        """The instances that can be given a request now, without those in `avoid`."""
        return [
            instance
            for instance in self.instances
            if instance.state == "up" and instance.in_flight < self._limit and instance not in avoid
        ]

    def pick(self, avoid: Collection[Instance] = (), never: Collection[Instance] = ()) -> Instance | None:
        """The instance with the fewest requests in flight, among equals in turn.

        Args:
            avoid: Instances to take only if there is no other.
            never: Instances not to take.

        Returns:
            An instance, or None if all are out, draining or full.
        """
        candidates = self.free([*avoid, *never]) or self.free(never)
        if not candidates:
            return None
        size = len(self.instances)
        order = {instance: (index - self._turn) % size for index, instance in enumerate(self.instances)}
        chosen = min(candidates, key=lambda instance: (instance.in_flight, order[instance]))
        self._turn = self.instances.index(chosen) + 1
        return chosen

    def why_none(self) -> str:
        """For an error: each instance and why it cannot be given a request."""
        return "; ".join(self._why_not(instance) for instance in self.instances) or "none has joined"

    def _why_not(self, instance: Instance) -> str:
        if instance.draining:
            return f"{instance.url}: draining"
        if instance.healthy and instance.in_flight >= self._limit:
            return f"{instance.url}: {instance.in_flight} requests in flight, its limit"
        return f"{instance.url}: {instance.error or 'healthy again just now'}"
