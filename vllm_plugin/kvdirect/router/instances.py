# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The engines behind the router: which of them are in, how much each has to do, and which one is next."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from .counts import Area

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from .counts import CountTable

Role = Literal["prefill", "decode"]
State = Literal["up", "down", "draining", "drained"]
ROLES: tuple[Role, ...] = ("prefill", "decode")
STATES: tuple[State, ...] = ("up", "down", "draining", "drained")

_log = logging.getLogger("kvdirect.proxy")


class Instance:
    """One engine in one role: what its last checks said and what it is busy with. Out until its first good check.

    Attributes:
        place: Where its numbers are in the table of counts.
        on_turn: Called when its health has changed.
        on_suspicion: Called when it may have died, so that it is checked at once.
        on_refusal: Called, where somebody else judges its health, with why a connection to it failed.
    """

    def __init__(self, role: Role, url: str, counts: CountTable, place: int) -> None:
        self.role = role
        self.url = url
        self.place = place
        self.healthy = False
        self.draining = False
        self.error = "not checked yet"
        self.on_turn: Callable[[Instance], object] | None = None
        self.on_suspicion: Callable[[], object] | None = None
        self.on_refusal: Callable[[str], object] | None = None
        self.since = time.monotonic()  # it is healthy, or not
        self._in_flight, self._caches = (counts.count(Area.INSTANCE_GAUGE, 2 * place + index) for index in (0, 1))
        self._taken, self._failures = (counts.count(Area.INSTANCE_COUNTER, 2 * place + index) for index in (0, 1))
        self._failed_in_row = 0

    def __str__(self) -> str:
        return f"{self.role} instance {self.url}"

    @property
    def in_flight(self) -> int:
        """Requests it works on."""
        return int(self._in_flight.total)

    @property
    def caches(self) -> int:
        """Prefill: caches it keeps for a decode instance that has not answered yet."""
        return int(self._caches.total)

    @property
    def taken(self) -> int:
        """Requests it was given."""
        return int(self._taken.total)

    @property
    def failures(self) -> int:
        """Of those, how many it did not answer or answered 5xx."""
        return int(self._failures.total)

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
        self._in_flight.add()
        self._taken.add()
        try:
            yield
        finally:
            self._in_flight.add(-1)

    def keep_cache(self) -> None:
        """A cache here is wanted by a decode instance; `release_cache` must follow."""
        self._caches.add()

    def release_cache(self) -> None:
        """That cache is wanted no more."""
        self._caches.add(-1)

    def drain(self) -> None:
        """Take no new requests."""
        if not self.draining:
            self.draining = True
            self.since = time.monotonic()

    def resume(self) -> None:
        """Take requests again."""
        if self.draining:
            self.draining = False
            self.since = time.monotonic()

    def clear_counts(self) -> None:
        """Nobody has counted anything of it yet; its place was another one's before."""
        for count in (self._in_flight, self._caches, self._taken, self._failures):
            count.clear()

    def passed(self) -> None:
        """A check succeeded: the instance is in."""
        self._failed_in_row = 0
        if not self.healthy:
            self.turn(healthy=True)
            _log.info("%s is healthy", self)
        elif self.error:
            self.tell("")

    def failed(self, error: str, *, tolerated: int = 0) -> None:
        """A check or a connection failed; with more than `tolerated` in a row the instance is out."""
        self._failed_in_row += 1
        if self.on_refusal is not None:
            if self.healthy:
                self.turn(healthy=False, error=error)
                self.on_refusal(error)
        elif self.healthy and self._failed_in_row > tolerated:
            self.turn(healthy=False, error=error)
            _log.warning("%s is taken out: %s; it comes back with the next good health check", self, error)
        elif self.error != error:
            self.tell(error)

    def record_failure(self, *, suspect: bool = False) -> None:
        """A request that it was given failed; with `suspect` it may have died, and its health is checked at once."""
        self._failures.add()
        if suspect and self.on_suspicion is not None:
            self.on_suspicion()

    def as_told(self) -> dict[str, Any]:
        """What other processes need to know of it; see `follow`."""
        return {
            "role": self.role,
            "url": self.url,
            "place": self.place,
            "healthy": self.healthy,
            "draining": self.draining,
            "error": self.error,
            "since": self.since,
        }

    def follow(self, told: dict[str, Any]) -> None:
        """Be as another process says that it is."""
        self.healthy, self.draining = told["healthy"], told["draining"]
        self.error, self.since = told["error"], told["since"]

    def describe(self) -> dict[str, object]:
        """What `/status` shows of it; `seconds` is how long it has been in this state."""
        return {
            "role": self.role,
            "url": self.url,
            "state": self.state,
            "healthy": self.healthy,
            "seconds": round(time.monotonic() - self.since, 3),
            "error": self.error,
            "in_flight": self.in_flight,
            "caches": self.caches,
            "requests": self.taken,
            "failures": self.failures,
        }

    def turn(self, *, healthy: bool, error: str = "") -> None:
        """It is in, or out because of an error."""
        self.healthy = healthy
        self.since = time.monotonic()
        self.tell(error)

    def tell(self, error: str) -> None:
        """What its last check said."""
        self.error = error
        if self.on_turn is not None:
            self.on_turn(self)


class Pool:
    """The instances of one role; the least loaded is next."""

    def __init__(self, role: Role, *, limit: int) -> None:
        self.role = role
        self.instances: list[Instance] = []
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
            if instance.state == "up" and instance not in avoid and instance.in_flight < self._limit
        ]

    def pick(self, avoid: Collection[Instance] = (), never: Collection[Instance] = ()) -> Instance | None:
        """The instance with the fewest requests in flight, among equals in turn.

        Args:
            avoid: Instances to take only if there is no other.
            never: Instances not to take.

        Returns:
            An instance, or None if all are out, draining or full.
        """
        size = len(self.instances)
        best, chosen = (True, self._limit, 0), None
        for index, instance in enumerate(self.instances):
            if instance.state != "up" or instance in never or (load := instance.in_flight) >= self._limit:
                continue
            rank = (instance in avoid, load, (index - self._turn) % size)
            if rank < best:
                best, chosen, turn = rank, instance, index + 1
        if chosen is not None:
            self._turn = turn
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
